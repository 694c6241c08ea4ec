"""The chain on the real embedded model, cut short: one layer, one PPO update, a few hundred rows."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tiny_study import run_study

pytestmark = [pytest.mark.slow, pytest.mark.embedded, pytest.mark.timeout(1200)]

CONFIG = {
    "problems": {"size": 1500},
    "policies": {"stages": [1], "batch": 4, "warmup": {"updates": 1, "batch": 4}},
    "traces": {"samples": 1, "greedy_problems": 8, "pool": {"problems": {"train": 12, "val": 4, "test": 8}, "samples": 3}},
    "n2g": {"latents": 2, "steps": {"latents": 2}},
    "design": {"layers": [20], "texts": ["fixed"]},
    "activations": {"prompts_per_hop": 60},
    "saes": {"epochs": 4, "batch": 256},
    "drift": {"replicates": 500},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    run_study(folder)
    return folder / "results"


def test_the_model_is_the_embedded_one_by_its_full_name(study: Path) -> None:
    manifest = json.loads((study / "policies/shared/start/manifest.json").read_text())
    assert "SmolLM2-135M-Instruct" in json.dumps(manifest)
    assert (manifest["layers"], manifest["d_model"]) == (30, 576)


def test_the_position_zero_sink_is_real_and_kept_from_the_saes(study: Path) -> None:
    stem = study / "activations/shared/fixed/base/layer_20/hop_0/shard_000"
    rows = pd.read_parquet(stem.with_suffix(".rows.parquet"))
    first, others = rows[rows.pos == 0].norm, rows[rows.pos > 0].norm
    assert first.min() > 10 * others.median()
    assert others.max() < 10 * others.median()


def test_the_sae_explains_most_of_the_variance_on_prompts_it_never_saw(study: Path) -> None:
    quality = pd.read_parquet(study / "drift/quality.parquet")
    kept = quality[(quality.sinks == "dropped") & (quality.chain == "real")]
    assert (kept.nmse < 0.5).all()
    assert (kept.dead_share < 0.9).all()


def test_the_page_names_the_model_and_says_that_one_seed_is_exploratory(study: Path) -> None:
    page = (study / "report/report.html").read_text()
    assert "SmolLM2-135M-Instruct" in page
    assert "exploratory" in page.lower()
