"""Data frames of the report: their type for annotations, and what several sections do with them."""

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    Table = Any
    """pandas infers unions that no checker can follow; a frame is Any to it."""
else:
    Table = pd.DataFrame


def of_text(table: Table, text: str, sinks: str = "dropped") -> Table:
    """Rows of one text set under one treatment of sinks, where the table tells them apart."""
    rows = table[table["text"] == text] if "text" in table else table
    return rows[rows["sinks"] == sinks] if "sinks" in rows else rows


def csv_text(frame: Table) -> str:
    """The frame as CSV with full precision."""
    return frame.to_csv(index=False, lineterminator="\n")
