"""Sums of held-out steps by problem: those of the codes themselves, whatever the batches."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from small_traces import random_trace
from steps_in_use import small_step_sae

from sae_core.metrics.step_reconstruction import step_nll
from sae_core.models.step_sae import StepSAE
from workflow.config.section import ConfigError
from workflow.formats.manifest import read_manifest
from workflow.formats.parquet import read_table
from workflow.formats.step_sums import ARTEFACT, STEP_SUMS, Written, read_step_firings
from workflow.formats.steps import StepStore
from workflow.formats.traces import write_traces
from workflow.ssae import measuring
from workflow.ssae.forms import StepRules
from workflow.ssae.measuring import measure_step_sae
from workflow.ssae.step_cache import step_cache

BASE, LATER = Written("shared", "onpolicy", "base"), Written("strict", "onpolicy", "ppo_0008")


def steps(folder: Path, model: Path, ranks: range, seed: int, splits: tuple[str, ...] = ("test", "train")) -> Path:
    draw = random.Random(seed)
    traces = [random_trace(split, rank, sample, draw) for split in splits for rank in ranks for sample in range(2)]
    write_traces(folder / "traces.parquet", traces)
    step_cache(source=folder / "traces.parquet", tokenizer=model, rules=StepRules(format="traces"), folder=folder)
    return folder


def measured(folder: Path, model: StepSAE, every: dict[Written, Path]) -> None:
    measure_step_sae(
        model=model, every=every, sums=folder / "sums.parquet", firings=folder / "firings.safetensors",
        manifest=folder / "manifest.json", facts={"run": "shared", "chain": "real", "seed": 0, "stage": "base", "ssae": "d"},
    )  # fmt: skip


def test_firings_are_those_of_the_codes_by_problem(tiny_qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "BATCH_TOKENS", 150)
    model = small_step_sae(tiny_qwen2)
    for folder in ("base", "later"):
        (tmp_path / folder).mkdir()
    every = {
        LATER: steps(tmp_path / "later", tiny_qwen2, range(2, 7), 1),
        BASE: steps(tmp_path / "base", tiny_qwen2, range(5), 0),
    }
    measured(tmp_path, model, every)
    facts = read_manifest(tmp_path / "manifest.json", ARTEFACT)
    assert len(facts["problems"]) == 7
    found = read_step_firings(tmp_path / "firings.safetensors", facts)
    table = read_table(tmp_path / "sums.parquet", STEP_SUMS).to_pandas()
    assert set(found) == {BASE, LATER}
    for written, folder in every.items():
        with StepStore(folder / "steps.h5") as store:
            codes = model.encode(store.batch(range(len(store)))).numpy()
            problems = np.char.decode(store.of_step("problem"))
        sums, mine = found[written], table[table["stage"] == written.stage].set_index("problem")
        for place, problem in enumerate(facts["problems"]):
            rows, entries = codes[problems == problem], slice(*sums.offsets[place : place + 2].tolist())
            assert int(sums.rows[place]) == len(rows) == (mine.loc[problem, "steps"] if len(rows) else 0)
            active = np.flatnonzero((rows > 0).sum(0))
            assert sums.latents[entries].tolist() == active.tolist()
            assert sums.firings[entries].tolist() == (rows > 0).sum(0)[active].tolist()
            np.testing.assert_allclose(sums.activation[entries], rows.sum(0)[active], rtol=1e-4, atol=1e-6)


def test_the_mean_code_is_no_better_than_codes_that_say_something(tiny_qwen2: Path, tmp_path: Path) -> None:
    """With one latent there is one code of length 1, its own mean; with more, each step's loss changes with the code."""
    (tmp_path / "steps").mkdir()
    folder = steps(tmp_path / "steps", tiny_qwen2, range(4), 0)
    for active in (1, None):
        model = small_step_sae(tiny_qwen2)
        if active:
            with torch.no_grad():
                model.autoencoder.encoder.weight.zero_()
                model.autoencoder.latent_bias.zero_()[3] = 1.0
        measured(tmp_path, model, {BASE: folder})
        table = read_table(tmp_path / "sums.parquet", STEP_SUMS).to_pandas()
        with StepStore(folder / "steps.h5") as store:
            held_out = np.flatnonzero(store.of_step("split") == b"test")
            batch = store.batch(held_out)
        code = model.encode(batch)
        mean = code.mean(0) / code.mean(0).norm()
        expected = step_nll(model, batch, mean.expand(len(held_out), -1)).sum().item()
        assert table["nll_mean_code"].sum() == pytest.approx(expected, rel=1e-5)
        assert np.allclose(table["nll_mean_code"], table["nll"], rtol=1e-6, atol=0) == (active == 1)


def test_steps_without_held_out_problems_and_damaged_firings_are_refused(tiny_qwen2: Path, tmp_path: Path) -> None:
    model = small_step_sae(tiny_qwen2)
    with pytest.raises(ConfigError, match="must hold steps of the split test; it holds none"):
        measured(tmp_path, model, {BASE: steps(tmp_path, tiny_qwen2, range(3), 0, ("train",))})
    (tmp_path / "steps.h5").unlink()
    measured(tmp_path, model, {BASE: steps(tmp_path, tiny_qwen2, range(3), 0)})
    facts = read_manifest(tmp_path / "manifest.json", ARTEFACT)
    (tmp_path / "firings.safetensors").write_bytes((tmp_path / "firings.safetensors").read_bytes()[:-4])
    with pytest.raises(ConfigError, match=r"that its manifest names; got .*Delete both and run again"):
        read_step_firings(tmp_path / "firings.safetensors", facts)
