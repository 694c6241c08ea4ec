"""The table of how alike the rows of two stages are, from all its measurements."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from workflow.drift.kl import policy_kl
from workflow.formats.files import file_digest
from workflow.formats.joint_columns import Representation
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.representation import ARTEFACT, SMOOTH, SUBSPACE
from workflow.formats.table_files import arrow_table, write_csv, write_parquet
from workflow.jackknife import jackknife_interval

Tensors = Mapping[str, np.ndarray]


def representation_table(
    *, sums: Sequence[Path | str], manifests: Sequence[Path | str], policies: Sequence[Path | str], parquet: Path | str,
    csv: Path | str, manifest: Path | str, confidence: float,
) -> None:  # fmt: skip
    """Write the table as parquet and CSV, and what tells its content.

    Args:
        sums: sums.safetensors of every measurement.
        manifests: their manifests, in the same order.
        policies: manifests of the policies, for the KL to base.
        parquet: representation.parquet.
        csv: representation.csv.
        manifest: representation.json.
        confidence: coverage of the intervals.
    """
    kl = policy_kl(policies)
    rows: list[Representation] = []
    for tensors, facts in zip(sums, manifests, strict=True):
        rows += representation_rows(load_file(tensors), read_manifest(facts, ARTEFACT), kl, confidence)
    table = arrow_table(rows, Representation)
    write_parquet(parquet, table)
    write_csv(csv, table)
    facts = {"rows": len(table), "columns": table.column_names, "digest": file_digest(parquet), "confidence": confidence}
    write_manifest(manifest, "representation_table", **facts)


def representation_rows(
    tensors: Tensors, facts: Mapping[str, Any], kl: Mapping[tuple[str, str], float | None], confidence: float
) -> list[Representation]:
    """The rows of one measurement, pair by pair."""
    updates, found = dict(facts["stages"]), []
    for against, stage in facts["pairs"]:
        key = {name: facts[name] for name in ("run", "text", "layer")}
        key |= {"stage": stage, "update": updates[stage], "against": against, "kl": kl.get((facts["run"], stage))}
        key |= {"rows": facts["rows"], "prompts": len(facts["problems"])}
        mine = {name: tensors[f"{against}/{stage}/{name}"] for name in ("values", "subspaces", "inside_variance")}
        found += [Representation(**key, **measured) for measured in _measures(mine, facts, confidence)]
    return found


def _measures(tensors: Tensors, facts: Mapping[str, Any], confidence: float) -> Iterator[dict[str, Any]]:
    for column, name in enumerate(SMOOTH):
        yield _named(name) | _with_interval(tensors["values"][:, column], confidence)
    for share, numbers in zip(facts["variance_shares"], tensors["subspaces"].tolist(), strict=True):
        for name, value in zip(SUBSPACE, numbers, strict=True):
            yield _named(f"subspace_{name}", at=share) | _point(value)
    for number, span in enumerate(facts["spans"]):
        place = {"at": float(span["directions"]), "kind": span["kind"], "seed": span["seed"]}
        yield _named("inside_share", **place) | _with_interval(tensors["values"][:, len(SMOOTH) + number], confidence)
        yield _named("inside_variance", **place) | _point(float(tensors["inside_variance"][number]))
        yield _named("inside_isotropic", **place) | _point(span["rank"] / facts["d_model"])


def _named(measure: str, at: float | None = None, kind: str | None = None, seed: int | None = None) -> dict[str, Any]:
    return {"measure": measure, "at": at, "kind": kind, "seed": seed}


def _point(value: float) -> dict[str, float | None]:
    return {"value": value if math.isfinite(value) else None, "low": None, "high": None}


def _with_interval(values: np.ndarray, confidence: float) -> dict[str, float | None]:
    if not np.isfinite(values).all():
        return _point(float(values[0]))
    low, high = jackknife_interval(values, confidence)
    return {"value": float(values[0]), "low": low, "high": high}
