"""The table of all agreements between crosscoders and chains, and the matches that it is made of."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workflow.config.section import ConfigError
from workflow.drift.agreeing import match_crosscoders
from workflow.drift.inputs import Cell
from workflow.formats.agreement_columns import Agreement, Match
from workflow.formats.crosscoders import ARTEFACT as CROSSCODER
from workflow.formats.drift import ARTEFACT as MEASUREMENT
from workflow.formats.drift import REAL
from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.saes import ARTEFACT as SAE
from workflow.formats.table_files import arrow_table, write_csv, write_parquet

SAE_NAME = ("kind", "seed", "layer", "chain", "stage", "digest")
"""What tells an SAE from all others; the run does not, since all runs share base."""


def agreement_table(
    *, crosscoders: Sequence[Path | str], told: Sequence[Path | str], measurements: Sequence[Path | str],
    chains: Sequence[Path | str], saes: Sequence[Path | str], matches: Sequence[Path | str], parquet: Path | str,
    csv: Path | str, manifest: Path | str, min_cosine: float,
) -> None:  # fmt: skip
    """Match the crosscoders of every run and layer with the chains measured there; write `matches` and the table.

    Args:
        crosscoders: manifests of all crosscoders.
        told: latents.parquet of what was measured of each, in the same order.
        measurements: manifests of the measurements of chains.
        chains: their latents.parquet, in the same order.
        saes: manifests of the SAEs of the chains `real`, each once; measurements state their digests.
        matches: matches.parquet of each measurement, in the same order (rows of `Match`).
        parquet: agreement.parquet of the study (rows of `Agreement`).
        csv: agreement.csv.
        manifest: agreement.json.
        min_cosine: above it the nearest latent is a partner.

    Raises:
        ConfigError: an SAE that was measured is not given, or crosscoders and SAEs are of other stages or layers, or of two widths.
    """
    known = {tuple(facts[name] for name in SAE_NAME): path for facts, path in ((read_manifest(path, SAE), path) for path in saes)}
    places = [(facts["run"], facts["layer"]) for facts in (read_manifest(path, CROSSCODER) for path in crosscoders)]
    rows: list[Agreement] = []
    for measurement, chain, file in zip(measurements, chains, matches, strict=True):
        facts = read_manifest(measurement, MEASUREMENT)
        cell = Cell(*(facts[name] for name in Cell._fields))
        here = [number for number, place in enumerate(places) if place == (cell.run, cell.layer)]
        found, agreements = match_crosscoders(
            crosscoders=[crosscoders[number] for number in here], told=[told[number] for number in here],
            saes=list(_measured(facts, known, measurement)), chain=chain, cell=cell, min_cosine=min_cosine,
        )  # fmt: skip
        write_parquet(file, arrow_table(found, Match))
        rows += agreements
    table = arrow_table(rows, Agreement)
    write_parquet(parquet, table)
    write_csv(csv, table)
    digests = {"digest": file_digest(parquet), "matches": [file_digest(path) for path in matches]}
    write_manifest(
        manifest, "agreement_table", rows=len(table), columns=table.column_names, min_cosine=min_cosine, **digests
    )  # fmt: skip


def _measured(
    facts: Mapping[str, Any], saes: Mapping[tuple[Any, ...], Path | str], measurement: Path | str
) -> Iterator[Path | str]:
    """The SAEs of the chain `real` that were measured."""
    for stage, _ in facts["stages"]:
        digest = facts["saes"][f"{REAL}/{stage}"]
        if (name := (facts["kind"], facts["seed"], facts["layer"], REAL, stage, digest)) not in saes:
            raise ConfigError(
                f"Crosscoders must be matched with the SAEs that were measured; that of stage {stage} in {measurement}, digest "
                f"{digest[:12]}…, was not given. Measure the chains again."
            )
        yield saes[name]
