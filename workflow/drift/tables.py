"""The tables of the study from all its measurements."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from workflow.config.drift import DriftConfig
from workflow.config.recipes import Recipe
from workflow.config.section import ConfigError
from workflow.drift.contrasts import RunsByCell
from workflow.drift.estimates import Measurement
from workflow.drift.gate import claim_rows
from workflow.drift.kl import policy_kl
from workflow.drift.lineage_rows import lineage_rows
from workflow.drift.table_rows import decomposition_rows, quality_rows, transfer_rows
from workflow.formats.claim_columns import Claim, Contrast
from workflow.formats.drift import ARTEFACT, BASE, REAL, DriftSums, read_drift_sums
from workflow.formats.drift_columns import TABLES, schema
from workflow.formats.files import file_digest
from workflow.formats.latent_columns import Dictionary, Event, Latent
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.parquet import read_table
from workflow.formats.table_files import arrow_table, write_csv, write_parquet
from workflow.progress import tracked

log = logging.getLogger(__name__)
Kl = Mapping[tuple[str, str], float | None]


def drift_tables(
    *,
    sums: Sequence[Path | str],
    manifests: Sequence[Path | str],
    latents: Sequence[Path | str],
    dictionaries: Sequence[Path | str],
    lineages: Sequence[Path | str],
    policies: Sequence[Path | str],
    tables: Mapping[str, tuple[Path | str, Path | str]],
    manifest: Path | str,
    drift: DriftConfig,
    recipes: Mapping[str, Recipe],
) -> None:
    """Write quality, transfer, decomposition, contrasts, claims, latents, dictionary and lineage, each as parquet and CSV.

    Args:
        sums: sums.safetensors of every measurement.
        manifests: their manifests, in the same order.
        latents: their latents.parquet, in the same order.
        dictionaries: their dictionary.parquet.
        lineages: their lineage.parquet.
        policies: manifests of the policies.
        tables: parquet and CSV file by table.
        manifest: manifest.json of the tables.
        drift: bootstrap and confidence.
        recipes: what each run was trained with.

    Raises:
        ConfigError: the policy of a measured stage is not among `policies`, measurements of one kind, seed and layer have different
            base SAEs, or a bootstrap replicate is not finite.
    """
    kl = policy_kl(policies)
    check_origin(manifests)
    rows: dict[str, list] = {"quality": [], "transfer": [], "decomposition": [], "lineage": []}
    whole: dict[str, list[pa.Table]] = {"latents": [], "dictionary": []}
    runs = RunsByCell()
    jobs = list(zip(sums, manifests, latents, dictionaries, lineages, strict=True))
    for tensors, facts, *cell in tracked(jobs, len(jobs), "drift tables", "measurements"):
        measurement = read_drift_sums(tensors, facts)
        one, saes, events = (read_table(path, schema(table)) for path, table in zip(cell, (Latent, Dictionary, Event), strict=True))
        measured = Measurement(measurement, drift.replicates, drift.confidence, drift.seed, drift.max_l0_ratio)
        rows["quality"] += quality_rows(measured, _kl_by_stage(measurement, kl), dead_shares(one))
        rows["transfer"] += transfer_rows(measured)
        rows["decomposition"] += decomposition_rows(measured)
        rows["lineage"] += lineage_rows(events, saes)
        runs.add(measured)
        whole["latents"].append(one)
        whole["dictionary"].append(saes)
    finished = {name: arrow_table(rows[name], TABLES[name]) for name in rows}
    finished |= {name: pa.concat_tables(parts) for name, parts in whole.items()}
    finished["contrasts"] = arrow_table(runs.contrasts(drift.confidence), Contrast)
    read = {name: finished[name].to_pandas() for name in ("decomposition", "contrasts", "dictionary")}
    finished["claims"] = arrow_table(claim_rows(**read, recipes=recipes), Claim)
    _write(finished, tables, manifest, drift)


def check_origin(manifests: Sequence[Path | str]) -> None:
    """Refuse runs whose chains do not start from one SAE of base: their drift would differ by that start, too.

    Raises:
        ConfigError: see there.
    """
    first: dict[tuple[str, int, int], tuple[Path | str, str]] = {}
    for path in manifests:
        facts = read_manifest(path, ARTEFACT)
        digest = facts["saes"][f"{REAL}/{BASE}"]
        where, wanted = first.setdefault((facts["kind"], facts["seed"], facts["layer"]), (path, digest))
        if digest != wanted:
            raise ConfigError(
                f"All runs and text sets must share one base SAE per kind, seed and layer; {path} has {digest[:12]}…, {where} has "
                f"{wanted[:12]}…. Delete the older of the two manifests and run again, it will be measured anew."
            )


def dead_shares(latents: pa.Table) -> dict[tuple[str, str], float]:
    """Share of latents that are not alive, by (chain, stage)."""
    shares = latents.select(["chain", "stage"]).append_column("alive", latents["alive"].cast(pa.float64()))
    grouped = shares.group_by(["chain", "stage"], use_threads=False).aggregate([("alive", "mean")])
    return {(row["chain"], row["stage"]): 1 - row["alive_mean"] for row in grouped.to_pylist()}


def _kl_by_stage(measurement: DriftSums, kl: Kl) -> dict[str, float | None]:
    run = measurement.manifest["run"]
    if lost := [stage for stage in measurement.stages if stage != BASE and (run, stage) not in kl]:
        raise ConfigError(
            f"Every measured stage must have the manifest of its policy; none was given for {', '.join(lost)} of run {run}. "
            "Pass results/policies/<run>/<stage>/manifest.json."
        )
    return {stage: kl.get((run, stage)) for stage in measurement.stages}


def _write(
    finished: Mapping[str, pa.Table], files: Mapping[str, tuple[Path | str, Path | str]], manifest: Path | str, drift: DriftConfig
) -> None:
    described = {}
    for name, table in finished.items():
        parquet, text = files[name]
        write_parquet(parquet, table)
        complete = write_csv(text, table)
        if not complete:
            log.info("table %s has %d rows: its CSV holds the header alone, the parquet all of them", name, len(table))
        described[name] = {
            "rows": len(table),
            "columns": table.column_names,
            "digest": file_digest(parquet),
            "csv_complete": complete,
        }
    bootstrap = {name: getattr(drift, name) for name in ("replicates", "confidence", "seed")}
    write_manifest(manifest, "drift_tables", tables=described, bootstrap=bootstrap)
