"""What the report reads: every input of the page as one value, with the order of the stages."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow.parquet as pq
from pyarrow import csv

from workflow.frames import Table

SHARED = "shared"
ONE_SAE = ["run", "text", "kind", "seed", "layer", "chain", "stage"]
LATENT_COLUMNS = ("run", "text", "kind", "seed", "layer", "chain", "stage", "decoder_cosine", "reinitialised")


class Drawn(NamedTuple):
    """A drawing that another phase made."""

    name: str
    """Of the latent, with its SAE."""
    title: str
    svg: str
    change: bool
    """Whether it compares two stages."""


class Evidence(NamedTuple):
    """All inputs of the report."""

    study: dict[str, Any]
    """The resolved configuration without the section `compute`."""
    problems: dict[str, Any]
    policies: Table
    """One row per policy: the manifest's fields."""
    curves: Table
    """PPO curves of all runs, with the columns run and stage; empty for given policies."""
    warmup: Table
    """Curve of the format warm-up; empty without one."""
    greedy: Table
    """One row per greedily solved problem: run, stage, problem, strict, flexible, …"""
    traces: list[dict[str, Any]]
    shards: list[dict[str, Any]]
    saes: Table
    """One row per SAE: the manifest's fields."""
    histories: Table
    """Training of the SAEs, one row per epoch, with the columns of `ONE_SAE` where the manifest has them."""
    quality: Table
    transfer: Table
    decomposition: Table
    claims: Table
    latents: Table
    dictionary: Table
    """One row per SAE: how many of its latents changed."""
    lineage: Table
    """What became of the latents of base, counted."""
    representation: Table
    """Rows of stages side by side, before any SAE; without columns where no paired text was measured."""
    crosscoder: Table
    """One dictionary for all stages, a row per later stage; without columns where there is none."""
    agreement: Table
    """How far crosscoders and chains of SAEs agree; without columns where there is no crosscoder."""
    provenances: list[dict[str, Any]]
    ssae: dict[str, Table]
    """Of step-level SAEs, by name: `histories` (a row per evaluation), `transfer`, `decomposition`, `latents`; those made."""
    probes: dict[str, Table]
    """Tables of probes by name (`workflow/formats/probe_columns.py`); none where there are no probes."""
    interventions: dict[str, Table]
    """Tables of what was done to the language model, by name: `splice`, `outputs`, `solving`, `causal`; those that were made."""
    voting: dict[str, Table]
    """Tables of votes, by name: `voting`, `voting_curves`, `voting_tests`; none where no pool was voted on."""
    n2g: dict[str, Table]
    """Tables of patterns of latents, by name, `n2g` and those of `formats.n2g_columns`; those that were made."""
    graphs: list[Drawn]
    """Pattern graphs, and what became of them from stage to stage."""

    @property
    def runs(self) -> list[str]:
        """The RL runs, in the order of the configuration where it names them."""
        policies = self.study.get("policies", {})
        named = policies.get("given") if policies.get("source") == "given" else self.study.get("design", {}).get("runs")
        found = dict.fromkeys([*self.policies["run"], *(_column(self.quality, "run"))])
        return [str(run) for run in dict.fromkeys([*(named or {}), *found]) if run in found and run != SHARED]

    def update(self, run: str, stage: str) -> int | None:
        """PPO updates behind a stage, None where no policy tells."""
        mine = self.policies[(self.policies["stage"] == stage) & self.policies["run"].isin([run, SHARED])]
        return None if mine.empty or pd.isna(mine["update"].iloc[0]) else int(mine["update"].iloc[0])

    def ordered(self, run: str, stages: Sequence[str]) -> list[str]:
        """Stages by PPO updates, those of unknown place last."""
        updates = {stage: self.update(run, stage) for stage in dict.fromkeys(stages)}
        return sorted(updates, key=lambda stage: (updates[stage] is None, updates[stage] or 0, stage))


def read_evidence(
    *, study: dict[str, Any], problems: str, policies: Sequence[str], curves: Sequence[str], warmup_curve: str | None,
    greedy: Sequence[str], greedy_traces: Sequence[str], traces: Sequence[str], shards: Sequence[str], saes: Sequence[str],
    histories: Sequence[str], quality: str, transfer: str, decomposition: str, claims: str, latents: str, dictionary: str,
    lineage: str, provenances: Sequence[str], interventions: Mapping[str, str], ssae: Mapping[str, Any],
    representation: str | None = None, crosscoder: str | None = None, agreement: str | None = None,
    probes: Mapping[str, str] | None = None, voting: Mapping[str, str] | None = None,
    n2g: Mapping[str, str] | None = None, graphs: Sequence[str] = (),
) -> Evidence:  # fmt: skip
    """Read all inputs; a table that lacks a column is read as it is, its panel is left out with a note."""
    return Evidence(
        study=study,
        problems=_json(problems),
        policies=_frame([_json(path) for path in policies], ["run", "stage", "update", "kl"]),
        curves=_concat([_curve(path) for path in curves]),
        warmup=_csv(warmup_curve) if warmup_curve else pd.DataFrame(),
        greedy=_concat([_solved(path, table) for path, table in zip(greedy, greedy_traces, strict=True)]),
        traces=[_json(path) for path in traces],
        shards=[_json(path) for path in shards],
        saes=_frame([_json(path) for path in saes], ONE_SAE),
        histories=_concat([_history(path) for path in histories]),
        quality=pd.read_parquet(quality),
        transfer=pd.read_parquet(transfer).rename(columns={"low": "nmse_low", "high": "nmse_high"}),
        decomposition=pd.read_parquet(decomposition),
        claims=pd.read_parquet(claims),
        latents=_latents(latents),
        dictionary=pd.read_parquet(dictionary),
        lineage=pd.read_parquet(lineage),
        representation=pd.read_parquet(representation) if representation else pd.DataFrame(),
        crosscoder=pd.read_parquet(crosscoder) if crosscoder else pd.DataFrame(),
        agreement=pd.read_parquet(agreement) if agreement else pd.DataFrame(),
        provenances=[_json(path) for path in provenances],
        ssae={name: _step_histories(path) if name == "histories" else pd.read_parquet(path) for name, path in ssae.items()},
        probes={name: pd.read_parquet(path) for name, path in (probes or {}).items()},
        interventions={name: pd.read_parquet(path) for name, path in interventions.items()},
        voting={name: pd.read_parquet(path) for name, path in (voting or {}).items()},
        n2g={name: pd.read_parquet(path) for name, path in (n2g or {}).items()},
        graphs=[drawn for folder in graphs for drawn in _drawn(Path(folder))],
    )


def _drawn(folder: Path) -> Iterator[Drawn]:
    """The drawings of a folder in the order of their names."""
    for path in sorted(folder.glob("*.svg"), key=lambda path: (len(path.stem), path.stem)):
        svg = path.read_text(encoding="utf-8")
        title = re.search(r"<title>(.*?)</title>", svg, re.DOTALL)
        place = [part for part in folder.parts if part.startswith(("layer_", "ppo_", "base", "seed_"))]
        yield Drawn(" ".join([*place, path.stem]), unescape(title[1]) if title else path.stem, svg, folder.name == "changes")


def _json(path: str | Path) -> dict[str, Any]:
    """The file's fields, and its `path` below results/."""
    return {**json.loads(Path(path).read_text(encoding="utf-8")), "path": str(path).rpartition("results/")[2]}


def _csv(path: str | Path) -> Table:
    return csv.read_csv(path).to_pandas()


def _column(frame: Table, name: str) -> list[Any]:
    return list(frame[name]) if name in frame else []


def _frame(rows: list[dict[str, Any]], needed: list[str]) -> Table:
    frame = pd.DataFrame(rows)
    return frame.reindex(columns=[*needed, *(name for name in frame.columns if name not in needed)])


def _concat(frames: list[Table]) -> Table:
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _curve(path: str) -> Table:
    manifest = _json(Path(path).with_name("manifest.json"))
    return _csv(path).assign(run=manifest["run"], stage=manifest["stage"])


def _history(path: str) -> Table:
    manifest = _json(Path(path).with_name("manifest.json"))
    return _csv(path).assign(**{name: manifest[name] for name in ONE_SAE if name in manifest})


def _step_histories(paths: Sequence[str]) -> Table:
    """Trainings of step-level SAEs, one row per evaluation, with run, chain, seed and stage as their folders tell them."""
    frames = []
    for path in paths:
        run, chain, seed, stage = Path(path).parts[-5:-1]
        place = {"run": run, "chain": chain, "seed": int(seed.removeprefix("seed_")), "stage": stage}
        frames.append(_csv(path).assign(**place, target_l1=_json(Path(path).with_name("manifest.json")).get("target_l1")))
    return _concat(frames)


def _solved(manifest_path: str, table: str) -> Table:
    """Outcomes of one stage's greedy traces; the manifest names run and stage, else the folders above it do."""
    manifest = _json(manifest_path)
    folders = Path(manifest_path).parts[-4:-1]
    names = [name for name in ("problem", "strict", "flexible", "finished", "weight") if name in pq.read_schema(table).names]
    return pd.read_parquet(table, columns=names).assign(
        run=manifest.get("run", folders[0]), stage=manifest.get("stage", manifest.get("origin", folders[-1]))
    )


def _latents(path: str) -> Table:
    """The largest table by far: only the columns needed, texts as categories."""
    present = pq.read_schema(path).names
    texts = [name for name in ("run", "text", "kind", "chain", "stage") if name in present]
    return pq.read_table(path, columns=[name for name in LATENT_COLUMNS if name in present], read_dictionary=texts).to_pandas()
