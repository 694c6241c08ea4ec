"""The row table beside an array of activations: which token of which trace every row is.

Columns, MUST: `problem`, `split`, `trace` (string, dictionary), `step` (int16: −1 in the prompt, else 0…), `pos` (int32, place in
the text), `token` (int32), `role` (int8, below), `norm` (float32, Euclidean norm of the row as it is stored).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from workflow.formats.files import replacing

TEMPLATE, QUESTION, RESPONSE = 0, 1, 2
"""Values of `role`: chat template and system text; the user's question; what the policy or the reference answered."""

NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("problem", NAME),
        ("split", NAME),
        ("trace", NAME),
        ("step", pa.int16()),
        ("pos", pa.int32()),
        ("token", pa.int32()),
        ("role", pa.int8()),
        ("norm", pa.float32()),
    ]
)


def with_norms(rows: pa.Table, norms: np.ndarray) -> pa.Table:
    """The table with the norms of one layer's rows, in the order of the schema."""
    if "norm" in rows.column_names:
        rows = rows.drop_columns("norm")
    return rows.append_column("norm", pa.array(norms, pa.float32())).select(SCHEMA.names).cast(SCHEMA)


def write_rows(path: Path | str, rows: pa.Table) -> None:
    """Write a row table in one step; equal tables give equal bytes."""
    with replacing(path) as temporary:
        pq.write_table(rows.combine_chunks(), temporary, compression="zstd", row_group_size=1 << 20)


def to_frame(tables: Sequence[pa.Table]) -> pd.DataFrame:
    """Several row tables as one frame; `problem`, `split` and `trace` are categorical."""
    return pa.concat_tables(tables).unify_dictionaries().to_pandas()
