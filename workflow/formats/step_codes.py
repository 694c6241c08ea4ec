"""Codes of reasoning steps as one parquet file: a row per step, in the order of steps.h5; in a study with a manifest beside it.

Columns: `problem` (string), `trace` (string, null where the source has none), `line` (int64), `step` (int32), `strict` and
`flexible` (int8) as in `workflow/formats/steps.py`; `latents` (list<int32>, rising) and `values` (list<float32>), the active
latents and what they are; all others are 0. Of traces, (trace, step) names a row; blank steps have none. The schema's metadata say
`d_code` and MAY say more.

manifest.json (artefact `step_codes`) MUST say: run, chain, seed, stage (of the SSAE), of_run, text, of_stage (of the traces),
`ssae` (digest of step_sae.safetensors), `steps` (digest of steps.h5), `d_code`, `rows`, `digest` (of the file).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_array

from workflow.formats.files import replacing
from workflow.formats.parquet import check_columns
from workflow.formats.steps import StepStore

ARTEFACT, FILE = "step_codes", "codes.parquet"
SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("trace", pa.string()),
        ("line", pa.int64()),
        ("step", pa.int32()),
        ("strict", pa.int8()),
        ("flexible", pa.int8()),
        ("latents", pa.list_(pa.int32())),
        ("values", pa.list_(pa.float32())),
    ]
)


class StepCodes(NamedTuple):
    """Codes with what they are of."""

    steps: pa.Table
    """All columns but latents and values."""
    codes: csr_array
    """[step, d_code] float32."""


def write_step_codes(
    path: Path | str, store: StepStore, blocks: Iterable[csr_array], *, d_code: int, told: Mapping[str, str] | None = None
) -> None:
    """Write codes as they come, in one step for the reader.

    Args:
        store: whose steps they are of.
        blocks: codes of all its steps in their order, [step, d_code] each.
        d_code: latents of a code.
        told: more for the metadata.
    """
    about = {name: store.of_step(name) for name in ("line", "strict", "flexible")}
    about |= {"problem": np.char.decode(store.of_step("problem")), "step": store.column("steps/number")}
    about["trace"] = np.array([trace.decode() or None for trace in store.of_step("trace").tolist()], dtype=object)
    schema = SCHEMA.with_metadata({"d_code": str(d_code), **(told or {})})
    first = 0
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as file:
        for block in blocks:
            behind = first + len(block.indptr) - 1
            columns = [pa.array(about[name][first:behind], SCHEMA.field(name).type) for name in SCHEMA.names[:-2]]
            offsets = pa.array(block.indptr, pa.int32())
            columns += [pa.ListArray.from_arrays(offsets, pa.array(column)) for column in (block.indices, block.data)]
            file.write_table(pa.Table.from_arrays(columns, schema=schema))
            first = behind


def read_step_codes(path: Path | str) -> StepCodes:
    """The codes of a file, together.

    Raises:
        ConfigError: it is no file of codes.
    """
    check_columns(path, SCHEMA)
    table = pq.read_table(path).combine_chunks()
    width = int(table.schema.metadata[b"d_code"])
    latents, values = (table["latents"].combine_chunks(), table["values"].combine_chunks())
    sizes = latents.value_lengths().to_numpy()
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    codes = csr_array((values.flatten().to_numpy(), latents.flatten().to_numpy(), indptr), shape=(len(table), width))
    return StepCodes(table.drop_columns(["latents", "values"]), codes)
