"""The table of single latents of step-level SAEs: which fire on other steps than before while the SSAE stays as it is.

What a birth asks of directions (`births.py`) has no meaning here: a code is read by a language model and has no decoder directions,
and encoder rows stand behind a language model that is trained with them. Told is life alone, beside that of the null chain.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from sae_core.metrics.firing import FiringSums, LatentTotals, latent_totals
from workflow.config.drift import DriftConfig
from workflow.drift.intervention_tables import Files, Stages
from workflow.drift.tested import Columns, enough, mean_activation, tested, tested_columns
from workflow.formats.drift import BASE, NULL, REAL
from workflow.formats.drift_columns import schema
from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.step_columns import StepLatent
from workflow.formats.step_sums import ARTEFACT, Written, read_step_firings
from workflow.formats.table_files import write_csv, write_parquet
from workflow.prompt_firings import PairedFirings, PromptFirings, with_rows_in_both

SHARED = "shared"
STEP_LATENT = schema(StepLatent)


class StepFirings(NamedTuple):
    """Firings of one SSAE on the steps of every stage."""

    problems: Sequence[str]
    """Names of the prompts of all sums."""
    of: Mapping[Written, FiringSums]

    def on(self, run: str, text: str, stage: str) -> FiringSums | None:
        """Those on steps that a stage of a run wrote; None where they were not measured, or where all stages share the text."""
        return self.of.get(Written(SHARED if stage == BASE else run, text, stage))


Measurements = Mapping[tuple[str, str, int, str], StepFirings]
"""By run, chain, seed and stage of the SSAE."""


def step_latent_table(
    *, measured: Files, stages: Stages, drift: DriftConfig, table: tuple[Path | str, Path | str], manifest: Path | str
) -> None:
    """Write the table ssae_latents as parquet and CSV.

    Args:
        measured: firings.safetensors and manifest of every SSAE.
        stages: of every run.
        drift: thresholds of the tests.
        table: parquet and CSV file.
        manifest: manifest.json of the table.

    Raises:
        ConfigError: firings and manifests do not go together, or fewer than two problems have steps of both stages.
    """
    found: dict[tuple[str, str, int, str], StepFirings] = {}
    for firings, path in measured:
        facts = read_manifest(path, ARTEFACT)
        at = (facts["run"], facts["chain"], facts["seed"], facts["stage"])
        found[at] = StepFirings(facts["problems"], read_step_firings(firings, facts))
    parts = [_arrow(columns) for run in sorted(stages) for columns in step_latent_columns(found, run, stages[run], drift)]
    whole = pa.concat_tables(parts) if parts else STEP_LATENT.empty_table()
    write_parquet(table[0], whole)
    told = {"rows": len(whole), "columns": whole.column_names, "csv_complete": write_csv(table[1], whole)}
    write_manifest(manifest, "ssae_latents", **told, digest=file_digest(table[0]))


def step_latent_columns(found: Measurements, run: str, stages: Sequence[tuple[str, int]], drift: DriftConfig) -> Iterator[Columns]:
    """Columns of the table for every text, seed, stage behind base and chain of one run whose frozen view was measured."""
    texts = sorted({written.text for one in found.values() for written in one.of})
    seeds = sorted({seed for _, _, seed, _ in found})
    for text, seed, (stage, update) in product(texts, seeds, stages[1:]):
        root = found.get((SHARED, REAL, seed, BASE))
        own = {chain: found.get((run, chain, seed, stage)) for chain in (REAL, NULL)}
        place = {"run": run, "text": text, "seed": seed, "stage": stage, "update": update}
        for chain, frozen in ((REAL, root), (NULL, own[NULL])):
            base, now = (None if frozen is None else frozen.on(run, text, at) for at in (BASE, stage))
            if root is not None and frozen is not None and base is not None and now is not None:
                mine = own[chain]
                trained = mine.on(run, text, BASE if chain == NULL else stage) if mine else None
                lives = _own(root.on(run, text, BASE), trained, drift)
                yield {**place, "chain": chain, **_frozen_view(frozen.problems, base, now, drift), **lives}


def _frozen_view(problems: Sequence[str], base: FiringSums, now: FiringSums, drift: DriftConfig) -> Columns:
    """One SSAE on steps of base and of a stage."""
    columns: Columns = {}
    for sums, name in ((now, ""), (base, "_base")):
        totals = latent_totals(sums)
        columns |= {f"frozen_rate{name}": _rate(totals, sums), f"frozen_mean{name}": mean_activation(totals)}
        columns[f"frozen_alive{name}"] = enough(totals, drift)
    base, now = with_rows_in_both(base, now)
    paired = PairedFirings(PromptFirings(problems, base), PromptFirings(problems, now))
    return columns | {"prompts": paired.prompts, **tested_columns(tested(paired, drift))}


def _own(root: FiringSums | None, trained: FiringSums | None, drift: DriftConfig) -> Columns:
    """An SSAE behind base on the steps that its chain trains on, beside that of base on steps of base."""
    if root is None or trained is None:
        return {}
    totals = latent_totals(trained)
    before, now = enough(latent_totals(root), drift), enough(totals, drift)
    return {"own_rate": _rate(totals, trained), "own_alive": now, "appeared": now & ~before, "vanished": before & ~now}


def _rate(totals: LatentTotals, sums: FiringSums) -> np.ndarray:
    return totals.firings.numpy() / int(sums.rows.sum())


def _arrow(columns: Columns) -> pa.Table:
    """The columns of one SSAE as arrow; NaN and what is missing are nulls."""
    latents = len(columns["frozen_rate"])
    filled = {name: [value] * latents if isinstance(value, str | int) else value for name, value in columns.items()}
    filled["latent"] = np.arange(latents)
    arrays = [pa.array(filled.get(field.name, [None] * latents), field.type, from_pandas=True) for field in STEP_LATENT]
    return pa.Table.from_arrays(arrays, schema=STEP_LATENT)
