"""Patterns of latents and of step-level SAEs on a finished study, named by an endpoint on this machine; nothing runs twice."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from chat_server import chat_server, completion
from planning import planned
from tiny_study import result_digests, run_study

from workflow.formats.drift_columns import schema
from workflow.formats.n2g import MINED, SILENT, TRAINED, UNEXPLAINED, read_graphs
from workflow.formats.n2g_columns import N2G_TABLES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRAINING = {
    "epochs": 2, "warmup_epochs": 1, "batch": 8, "micro_batch": 4, "lr": 0.001, "min_lr": 0.0001,
}  # fmt: skip
LATENTS, LAYERS = [0, 3, 5, 8], ("0", "1")
CELL = ("strict", "fixed", "topk", "0")
JOBS = {
    *((rule, *CELL, layer, "base") for rule in ("mine_n2g", "label_n2g") for layer in LAYERS),
    *(("follow_n2g", *CELL, layer) for layer in LAYERS), ("mine_step_n2g", "shared", "real", "0", "base"), ("make_n2g_tables",),
}  # fmt: skip


def asks_for_patterns(folder: Path, url: str) -> None:
    """Change the configuration of a study: an SSAE of base, patterns of some latents at base, names for those of tokens."""
    path = folder / "config.yaml"
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    config["ssae"] |= {"stages": ["base"], "target_l1": 3, "training": TRAINING}
    labels = {"url": url, "model": "any", "retries": 0}
    config["n2g"] = {"latents": LATENTS, "stages": ["base"], "untrained": 1, "steps": {"latents": 3}, "labels": labels}
    path.write_text(yaml.safe_dump(config))


def jobs_of(folder: Path) -> set[tuple[str, ...]]:
    with planned({}, targets=("n2g",), folder=folder) as jobs:
        return {job for job in jobs if "n2g" in job[0]}


def test_latents_are_mined_named_and_told_and_nothing_runs_twice(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "study")
    with chat_server(lambda asked, times: completion(json.dumps({"label": "sums"}))) as server:
        asks_for_patterns(folder, server.url)
        assert jobs_of(folder) == JOBS
        run_study(folder, "n2g")
        asked, digests = len(server.asked), result_digests(folder)
        with planned({}, targets=("n2g",), folder=folder) as jobs:
            assert not jobs
        run_study(folder, "n2g")
        assert (len(server.asked), result_digests(folder)) == (asked, digests)
    results = folder / "results/n2g"
    folders = [results / f"strict/fixed/topk/seed_0/layer_{layer}/base" for layer in LAYERS]
    every = [one for made in folders for one in read_graphs(made / "manifest.json")[0]["latents"]]
    told = pd.read_parquet(results / "n2g.parquet")
    assert asked == len(told[told["label"] == "sums"]) == sum(bool(one["patterns"]) for one in every) > 0
    assert sorted(told[told["sae"] == TRAINED]["latent"]) == sorted(LATENTS * len(LAYERS))
    for name, kind in N2G_TABLES.items():
        table = pd.read_parquet(results / f"{name}.parquet")
        assert list(table.columns) == schema(kind).names
        assert len(pd.read_csv(results / f"{name}.csv")) == len(table)
        assert len(table) or name == "n2g_paths"  # of two stages
    steps = pd.read_parquet(results / "n2g_steps.parquet")
    assert len(steps) == 3
    assert set(steps["state"]) <= {MINED, SILENT, UNEXPLAINED}
    lines = (results / "steps/shared/real/seed_0/base/n2g.jsonl").read_text().splitlines()
    assert [json.loads(line)["latent_idx"] for line in lines] == steps["latent"].tolist()
