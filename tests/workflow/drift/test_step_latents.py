"""Single latents of step-level SAEs between stages: planted changes are found, and lives are told beside the null chain."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sae_core.kernels.codes import Codes
from sae_core.metrics.firing import FiringSums, firing_sums
from workflow.config.drift import DriftConfig
from workflow.drift.step_latents import StepFirings, step_latent_columns, step_latent_table
from workflow.formats.step_columns import StepLatent
from workflow.formats.step_sums import Written, write_step_sums

PROBLEMS, STEPS, LATENTS = 60, 5, 24
NAMES = [f"p{at:03d}" for at in range(PROBLEMS)]
STAGES = [("base", 0), ("ppo_0008", 8)]
DRIFT = DriftConfig(min_firings=5, min_prompts=3)
ON_BASE, ON_LATER = Written("shared", "onpolicy", "base"), Written("strict", "onpolicy", "ppo_0008")
RISEN, SILENT, NEW, DEAD = 0, 1, 2, 3
"""Latents that fire more often, never at all any more, only then, and never."""


def rates(**changed: float) -> np.ndarray:
    found = np.full(LATENTS, 0.3)
    found[[SILENT, NEW, DEAD]] = 0.3, 0.0, 0.0
    for name, rate in changed.items():
        found[globals()[name]] = rate
    return found


def firings(rate: np.ndarray, seed: int, problems: int = PROBLEMS) -> FiringSums:
    """Steps of every problem, on which latents fire independently; some problems are likelier to than others."""
    draw = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(problems), STEPS)
    level = 0.5 + np.random.default_rng(7).random(problems)[prompt, None]
    active = torch.from_numpy(draw.random((len(prompt), LATENTS)) < rate * level)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), active.sum(1).cumsum(0)])
    codes = Codes(offsets, active.nonzero()[:, 1], torch.full((int(active.sum()),), 0.5))
    return firing_sums(codes, torch.from_numpy(prompt), PROBLEMS, LATENTS)


def measurements(null: bool = True) -> dict[tuple[str, str, int, str], StepFirings]:
    before, after = rates(), rates(RISEN=0.6, SILENT=0.0, NEW=0.3)
    every: dict[tuple[str, str, int, str], Mapping[Written, FiringSums]] = {
        ("shared", "real", 0, "base"): {ON_BASE: firings(before, 0), ON_LATER: firings(after, 1)},
        ("strict", "real", 0, "ppo_0008"): {ON_BASE: firings(before, 2), ON_LATER: firings(after, 3)},
    }
    if null:
        every["strict", "null", 0, "ppo_0008"] = {ON_BASE: firings(before, 4), ON_LATER: firings(before, 5)}
    return {at: StepFirings(NAMES, of) for at, of in every.items()}


def found(measured: dict[tuple[str, str, int, str], StepFirings]) -> dict[str, Any]:
    return {columns["chain"]: columns for columns in step_latent_columns(measured, "strict", STAGES, DRIFT)}


def test_what_changed_is_listed_and_nothing_else() -> None:
    real, null = (found(measurements())[chain] for chain in ("real", "null"))
    assert np.flatnonzero(np.nan_to_num(real["rate_q"], nan=1.0) <= 0.05).tolist() == [RISEN, SILENT, NEW]
    assert real["rate_log_ratio"][RISEN] == pytest.approx(np.log(2), abs=0.25)
    assert (real["rate_log_ratio"][SILENT], real["rate_log_ratio"][NEW]) == (-np.inf, np.inf)
    assert not real["rate_tested"][DEAD]
    assert not (np.nan_to_num(null["rate_q"], nan=1.0) <= 0.05).any()
    assert real["frozen_rate"][RISEN] == pytest.approx(0.6, abs=0.1)
    assert real["prompts"] == PROBLEMS


def test_lives_are_told_beside_those_of_the_null_chain() -> None:
    real, null = (found(measurements())[chain] for chain in ("real", "null"))
    assert (np.flatnonzero(real["appeared"]).tolist(), np.flatnonzero(real["vanished"]).tolist()) == ([NEW], [SILENT])
    assert not (null["appeared"] | null["vanished"]).any()
    assert real["own_rate"][NEW] == pytest.approx(0.3, abs=0.1)


def test_problems_without_steps_of_a_stage_are_left_out_of_the_tests_alone() -> None:
    measured = measurements(null=False)
    del measured["strict", "real", 0, "ppo_0008"]
    fewer = firings(rates(RISEN=0.6), 1, problems=40)
    measured["shared", "real", 0, "base"] = StepFirings(NAMES, {ON_BASE: firings(rates(), 0), ON_LATER: fewer})
    (columns,) = step_latent_columns(measured, "strict", STAGES, DRIFT)
    assert columns["prompts"] == 40
    assert columns["frozen_rate"] == pytest.approx(np.bincount(fewer.latents, fewer.firings, LATENTS) / (40 * STEPS))
    assert "own_rate" not in columns


def test_a_text_that_all_stages_share_has_no_frozen_view() -> None:
    shared = StepFirings(NAMES, {Written("shared", "fixed", "base"): firings(rates(), 0)})
    assert list(step_latent_columns({("shared", "real", 0, "base"): shared}, "strict", STAGES, DRIFT)) == []


def test_the_table_is_that_of_its_class_and_repeats(tmp_path: Path) -> None:
    files = []
    for number, ((run, chain, seed, stage), one) in enumerate(measurements().items()):
        paths = [tmp_path / f"{number}.{ending}" for ending in ("parquet", "safetensors", "json")]
        facts = {"run": run, "chain": chain, "seed": seed, "stage": stage, "problems": NAMES, "d_code": LATENTS}
        write_step_sums(*paths, [], one.of, **facts)
        files.append((paths[1], paths[2]))
    manifests = []
    for name in ("one", "two"):
        table = tmp_path / f"{name}.latents.parquet", tmp_path / f"{name}.latents.csv"
        manifests.append(tmp_path / f"{name}.manifest.json")
        step_latent_table(measured=files, stages={"strict": STAGES}, drift=DRIFT, table=table, manifest=manifests[-1])
    assert manifests[0].read_bytes() == manifests[1].read_bytes()
    frame = pd.read_parquet(tmp_path / "one.latents.parquet")
    assert list(frame.columns) == list(StepLatent._fields)
    assert len(frame) == 2 * LATENTS == len(pd.read_csv(tmp_path / "one.latents.csv"))
    assert frame.loc[frame["latent"] == DEAD, "rate_confirmed"].isna().all()
    assert frame.set_index(["chain", "latent"]).loc[("real", RISEN), "rate_confirmed"]
    empty = tmp_path / "none.parquet", tmp_path / "none.csv"
    step_latent_table(measured=[], stages={"strict": STAGES}, drift=DRIFT, table=empty, manifest=tmp_path / "none.json")
    assert list(pd.read_parquet(empty[0]).columns) == list(StepLatent._fields)
