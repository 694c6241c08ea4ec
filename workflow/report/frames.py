"""What several sections of the report do with data frames."""

from workflow.frames import Table


def of_text(table: Table, text: str, sinks: str = "dropped") -> Table:
    """Rows of one text set under one treatment of sinks, where the table tells them apart."""
    rows = table[table["text"] == text] if "text" in table else table
    return rows[rows["sinks"] == sinks] if "sinks" in rows else rows


def csv_text(frame: Table) -> str:
    """The frame as CSV with full precision."""
    return frame.to_csv(index=False, lineterminator="\n")
