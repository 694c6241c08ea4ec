"""Latents of crosscoders beside those of the chain `real`: who is whose nearest, and do both call them born, died or shared."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from workflow.config.section import ConfigError
from workflow.drift.inputs import Cell
from workflow.drift.lives import directions
from workflow.drift.matching import nearest, unit
from workflow.formats.agreement_columns import Agreement, Match
from workflow.formats.crosscoders import read_crosscoder
from workflow.formats.drift import BASE, REAL
from workflow.formats.saes import read_sae

BORN, DIED, SHARED, REPLACED, UNMATCHED = "born", "died", "shared", "replaced", "unmatched"
VERDICTS = (BORN, DIED, SHARED)


class Partners(NamedTuple):
    """The nearest alive latent of an SAE for each latent of a crosscoder, at one stage."""

    latent: np.ndarray
    """Index in the SAE, int64; −1 where none is alive."""
    cosine: np.ndarray
    """Signed cosine of the decoder directions; −1 where none is alive."""


class Chain(NamedTuple):
    """What is known of the chain `real`, by stage."""

    directions: Mapping[str, np.ndarray]
    """Decoder directions [latent, d_model]."""
    alive: Mapping[str, np.ndarray]
    """Bool [latent]."""
    born: Mapping[str, np.ndarray]
    """Of the later stages: latents of S_t that were born by all conditions."""
    died: Mapping[str, np.ndarray]
    """Of the later stages: latents of S_0 that died."""


def match_crosscoders(
    *, crosscoders: Sequence[Path | str], told: Sequence[Path | str], saes: Sequence[Path | str], chain: Path | str, cell: Cell,
    min_cosine: float,
) -> tuple[list[Match], list[Agreement]]:  # fmt: skip
    """The latents of the crosscoders of one run and layer beside one chain `real`, and how far both agree.

    Args:
        crosscoders: manifests of the crosscoders, one per seed.
        told: latents.parquet of what was measured of each, in the same order.
        saes: manifests of the SAEs of the chain, every stage once.
        chain: latents.parquet of the measurement of the chains.
        cell: run, text, kind, seed and layer of the chain.
        min_cosine: above it the nearest latent is a partner.

    Raises:
        ConfigError: crosscoders and SAEs are of other stages or layers, or of two widths.
    """
    known = read_chain(saes, chain, cell)
    found: list[Match] = []
    rows: list[Agreement] = []
    for path, latents in zip(crosscoders, told, strict=True):
        model, facts = read_crosscoder(path)
        _check(facts, known, cell, path)
        one = Comparison(facts, model.decoders().numpy(), pd.read_parquet(latents), known, min_cosine)
        found += one.matches()
        rows += [one.agreement(stage, update, cell) for stage, update in facts["stages"][1:]]
    return found, rows


def read_chain(saes: Sequence[Path | str], latents: Path | str, cell: Cell) -> Chain:
    """The chain `real` of one measurement.

    Raises:
        ConfigError: an SAE of another chain or cell.
    """
    found: dict[str, np.ndarray] = {}
    for path in saes:
        sae = read_sae(path)
        for name, wanted in (("chain", REAL), ("kind", cell.kind), ("seed", cell.seed), ("layer", cell.layer)):
            if sae.facts[name] != wanted:
                raise ConfigError(
                    f"Crosscoders are matched with SAEs of {name} {wanted}; {path} has {sae.facts[name]}. Leave it out."
                )
        found[sae.facts["stage"]] = directions(sae)
    columns = ["stage", "latent", "alive", "born", "died"]
    table = pq.read_table(latents, columns=columns, filters=[("chain", "==", REAL)]).to_pandas()
    by_stage = {str(stage): rows.sort_values("latent") for stage, rows in table.groupby("stage", sort=False)}
    flags = {
        name: {stage: rows[name].eq(True).to_numpy(bool) for stage, rows in by_stage.items()}  # null, as at base, is no birth
        for name in ("alive", "born", "died")
    }
    return Chain(found, **flags)


def _check(facts: Mapping[str, Any], chain: Chain, cell: Cell, path: Path | str) -> None:
    stages = [name for name, _ in facts["stages"]]
    widths = {rows.shape[1] for rows in chain.directions.values()}
    known = (cell.run, cell.layer, set(chain.directions), widths)
    if (facts["run"], facts["layer"], set(stages), {facts["d_model"]}) != known or set(chain.alive) != set(stages):
        raise ConfigError(
            f"A crosscoder must be matched with SAEs of its own run, layer, width and stages, {', '.join(stages)} of "
            f"{facts['run']}; got {', '.join(chain.directions)} of {cell.run} for {path}. Measure both again."
        )


class Comparison:
    """One crosscoder beside the chain."""

    def __init__(self, facts: Mapping[str, Any], decoders: np.ndarray, told: pd.DataFrame, chain: Chain, min_cosine: float) -> None:
        """`decoders` [latent, stage, d_model]; `told`: rows of `joint_columns.CrosscoderLatent`."""
        self.facts, self.chain, self.min_cosine = facts, chain, min_cosine
        names = [name for name, _ in facts["stages"]]
        self.partners = {
            name: partners(decoders[:, place], chain.directions[name], chain.alive[name]) for place, name in enumerate(names)
        }
        self.told = {str(stage): rows.sort_values("latent") for stage, rows in told.groupby("stage", sort=False)}

    def verdicts(self, stage: str) -> tuple[np.ndarray, np.ndarray]:
        """The verdicts of the crosscoder and of the chain on each latent."""
        told, base, now = self.told[stage], self.partners[BASE], self.partners[stage]
        of, confirmed = told["of"].to_numpy(), told["confirmed"].to_numpy(bool)
        mine = np.select([(of == "new") & confirmed, (of == "gone") & confirmed], [BORN, DIED], SHARED)
        at_base, at_stage = of != "new", of != "gone"
        lacking = (at_base & (base.cosine <= self.min_cosine)) | (at_stage & (now.cosine <= self.min_cosine))
        born = at_stage & _flag(self.chain.born[stage], now.latent)
        died = at_base & _flag(self.chain.died[stage], base.latent)
        return mine, np.select([lacking, born & died, born, died], [UNMATCHED, REPLACED, BORN, DIED], SHARED)

    def matches(self) -> Iterator[Match]:
        """Every latent at every stage."""
        alive = next(iter(self.told.values()))["alive"].tolist()
        for stage, found in self.partners.items():
            verdicts = [(None, None)] * len(alive) if stage == BASE else zip(*self.verdicts(stage), strict=True)
            pairs = zip(found.latent.tolist(), found.cosine.tolist(), alive, verdicts, strict=True)
            for latent, (other, cosine, is_alive, (mine, theirs)) in enumerate(pairs):
                there = other >= 0
                yield Match(
                    self.facts["seed"], stage, latent, is_alive, other if there else None, cosine if there else None,
                    mine and str(mine), theirs and str(theirs),
                )  # fmt: skip

    def agreement(self, stage: str, update: int, cell: Cell) -> Agreement:
        """How far both agree on the alive latents."""
        alive, of = self.told[stage]["alive"].to_numpy(bool), self.told[stage]["of"].to_numpy()
        mine, theirs = self.verdicts(stage)
        counts = np.array([[int((alive & (mine == a) & (theirs == b)).sum()) for b in VERDICTS] for a in VERDICTS])
        found = {
            name: self._found(stage if name == BORN else BASE, alive & (mine == name), flags[stage])
            for name, flags in ((BORN, self.chain.born), (DIED, self.chain.died))
        }
        named: dict[str, Any] = {f"{a}_{b}": int(counts[i, j]) for i, a in enumerate(VERDICTS) for j, b in enumerate(VERDICTS)}
        return Agreement(
            **cell._asdict(), **named, crosscoder_seed=self.facts["seed"], stage=stage, update=update, alive=int(alive.sum()),
            cosine_base=_mean(self.partners[BASE].cosine[alive & (of != "new")]),
            cosine=_mean(self.partners[stage].cosine[alive & (of != "gone")]),
            unmatched=int((alive & (theirs == UNMATCHED)).sum()), replaced=int((alive & (theirs == REPLACED)).sum()),
            judged=int(counts.sum()),
            agreement=float(counts.trace() / counts.sum()) if counts.sum() else None, kappa=kappa(counts),
            chain_born=int(self.chain.born[stage].sum()), chain_born_found=found[BORN],
            chain_died=int(self.chain.died[stage].sum()), chain_died_found=found[DIED],
        )  # fmt: skip

    def _found(self, stage: str, called: np.ndarray, flags: np.ndarray) -> int:
        """How many of the chain's latents are partners, at a stage, of latents that the crosscoder calls so."""
        mine = self.partners[stage]
        return int(flags[np.unique(mine.latent[called & (mine.cosine > self.min_cosine)])].sum())


def partners(rows: np.ndarray, theirs: np.ndarray, alive: np.ndarray) -> Partners:
    """The nearest alive latent by signed cosine; rows [latent, d_model] need not have norm 1."""
    place = np.flatnonzero(alive)
    if not len(place):
        return Partners(np.full(len(rows), -1), np.full(len(rows), -1.0))
    _, columns, cosine = nearest(unit(rows), unit(theirs[place]), 1)
    return Partners(place[columns], cosine)


def kappa(counts: np.ndarray) -> float | None:
    """Agreement beyond what margins alone give, of a square table of counts; None where chance alone agrees fully, or of no counts.

    Source: Cohen 1960, Educational and Psychological Measurement 20, 37.
    """
    if not (total := counts.sum()):
        return None
    observed, expected = counts.trace() / total, float((counts.sum(0) * counts.sum(1)).sum() / total**2)
    return None if expected == 1 else float((observed - expected) / (1 - expected))


def _flag(flags: np.ndarray, latents: np.ndarray) -> np.ndarray:
    return (latents >= 0) & flags[latents]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
