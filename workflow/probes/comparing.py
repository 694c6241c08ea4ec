"""All probes of one stage side by side: which SAE probes win, how they differ from the best of others, and scores for voting."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.special import expit

from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.probe_columns import ProbeContrast
from workflow.formats.probe_fits import ARTEFACT, held_out_tables, read_held_out
from workflow.formats.probe_scores import ARTEFACT as SCORES_ARTEFACT
from workflow.formats.probe_scores import SCORES, STEP, write_probe_scores
from workflow.formats.table_files import arrow_table, write_parquet
from workflow.frames import Table
from workflow.probes.folds import NotFittedError
from workflow.probes.measures import Draws, drawn_groups, of_binary, of_classes, of_number
from workflow.probes.steps import TEST
from workflow.probes.tasks import BINARY, CLASSES, NUMBER

MEASURE = {BINARY: "auroc", NUMBER: "r2", CLASSES: "nats"}
BASELINE = "baseline"
AGAINST = {"sae": (BASELINE, "dense", "part", "random", "surface"), **dict.fromkeys(("dense", "part", "random"), ("surface",))}
"""What a family is put beside."""
TOLD = ("task", "layer", "features", "model", "family", "validation", "used")


def compare_probes(
    *, run: str, stage: str, manifests: Sequence[Path | str], scores: Path | str, contrasts: Path | str, manifest: Path | str,
    bootstrap: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write scores.parquet, contrasts.parquet and the manifest of one stage.

    Args:
        run: RL run, or `shared`.
        stage: stage.
        manifests: of the fits of all places; their files lie beside them.
        scores: scores.parquet.
        contrasts: rows of the table probe_contrasts.
        manifest: manifest.json.
        bootstrap: `replicates`, `confidence`, `seed`.
    """
    folders = [Path(path).parent for path in manifests]
    layers = [read_manifest(path, ARTEFACT)["layer"] for path in manifests]
    tables = [
        pd.read_parquet(folder / "probes.parquet").assign(layer=layer, folder=str(folder))
        for folder, layer in zip(folders, layers, strict=True)
    ]
    rows = pd.concat([table.astype({"layer": object}) for table in tables], ignore_index=True)
    rows = with_use(rows[rows["not_fitted"].isna()])
    found = list(_contrasts(rows, {"run": run, "stage": stage}, bootstrap))
    write_parquet(contrasts, arrow_table(found, ProbeContrast))
    count = write_probe_scores(scores, (table for folder in folders for table in _scores(folder / "held_out.parquet")))
    told = [{name: _plain(row[name]) for name in TOLD} for row in rows[rows["kind"] == BINARY].to_dict("records")]
    digests = {"digest": file_digest(scores), "contrasts": file_digest(contrasts)}
    used = [{name: _plain(row[name]) for name in TOLD} for row in rows[rows["used"].notna()].to_dict("records")]
    write_manifest(manifest, SCORES_ARTEFACT, run=run, text="pool", stage=stage, rows=count, probes=told, judged=used, **digests)


def with_use(rows: Table) -> Table:
    """Fitted probes with the column `used`: whether SAE codes validate better than every probe without them; None for others."""
    best = rows[rows["family"] != "sae"].groupby("task")["validation"].max()
    wins = rows["validation"] > rows["task"].map(best).astype(np.float64).fillna(-np.inf)  # of no rows, pandas makes texts
    return rows.assign(used=np.where(rows["family"] == "sae", wins.astype(object), None))


def _contrasts(rows: Table, place: Mapping[str, str], bootstrap: Mapping[str, Any]) -> Iterator[ProbeContrast]:
    best = (
        rows.sort_values("validation", ascending=False, kind="stable").drop_duplicates(["task", "folder", "features"]).sort_index()
    )
    for own in best.to_dict("records"):
        for against in AGAINST.get(own["family"], ()):
            others = best[(best["task"] == own["task"]) & _among(best, own, against)]
            if len(others):
                other = others.loc[others["validation"].idxmax()].to_dict()
                if (row := _contrast(own, other, against, place, bootstrap)) is not None:
                    yield row


def _among(best: Table, own: Mapping[str, Any], against: str) -> Table:
    """The rows that one is put beside."""
    if against == BASELINE:
        return best["family"] != "sae"
    layer = _plain(own["layer"])
    near = best["layer"].isna() | (best["layer"] == layer) if layer is not None else pd.Series(True, index=best.index)
    return (best["family"] == against) & near


def _contrast(
    own: Mapping[str, Any], other: Mapping[str, Any], against: str, place: Mapping[str, str], bootstrap: Mapping[str, Any]
) -> ProbeContrast | None:
    """None where the steps that both are measured on do not allow it."""
    mine, theirs = _held(own), _held(other)
    both = mine.merge(theirs, on=["trace", "step"], suffixes=("", "_other"))
    kind, groups = str(own["kind"]), both["group"].to_numpy(str)
    drawn = drawn_groups(groups, bootstrap)
    first, second = (
        measured(kind, both[f"score{end}"].to_numpy(), both[f"label{end}"].to_numpy(), groups, drawn) for end in ("", "_other")
    )
    try:
        delta = drawn.estimate(second - first if kind == CLASSES else first - second)
    except NotFittedError:
        return None
    keys = {name: own[name] for name in ("task", "features", "model", "validation")}
    others = {f"against_{name}": _plain(other[name]) for name in ("layer", "features", "model", "validation")}
    return ProbeContrast(
        **place, **keys, layer=_plain(own["layer"]), against=against, **others, steps=len(both), prompts=both["problem"].nunique(),
        measure=MEASURE[kind], delta=delta,
    )  # fmt: skip


def measured(kind: str, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray, drawn: Draws) -> np.ndarray:
    """The measure of a kind of task, [1 + replicates]."""
    match kind:
        case "binary":
            return of_binary(scores, expit(scores), labels, groups, drawn, 1)["auroc"]
        case "classes":
            return of_classes(-scores, labels, groups, drawn)["nats"]
    return of_number(scores, labels, groups, drawn)["r2"]


def _held(row: Mapping[str, Any]) -> Table:
    path = Path(row["folder"]) / "held_out.parquet"
    table = read_held_out(path, task=row["task"], features=row["features"], model=row["model"]).to_pandas()
    return table[(table["split"] == TEST) & table["label"].notna()]


def _scores(path: Path) -> Iterator[pa.Table]:
    for table in held_out_tables(path):
        if len(table) and table["kind"][0].as_py() == BINARY:
            columns = [table[name] for name in STEP.names]
            p = pa.array(expit(table["score"].to_numpy()).astype(np.float32))
            yield pa.Table.from_arrays([*columns, p], schema=SCORES)


def _plain(value: Any) -> Any:
    """A value of a frame as JSON has it, missing as None."""
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
