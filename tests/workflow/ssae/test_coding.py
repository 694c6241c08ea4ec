"""Codes of a study's steps on disk: those of the SSAE, a row per step that tells its trace."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from small_traces import random_trace
from steps_in_use import small_step_sae

from sae_core.models.step_sae import StepSAE
from workflow.config.section import ConfigError
from workflow.formats.manifest import read_manifest
from workflow.formats.step_codes import ARTEFACT, read_step_codes
from workflow.formats.step_saes import BASE, FILE, write_step_manifest, write_step_tensors
from workflow.formats.steps import StepStore
from workflow.formats.traces import read_traces, write_traces
from workflow.ssae.coding import code_steps
from workflow.ssae.forms import StepRules
from workflow.ssae.step_cache import step_cache
from workflow.step_saes import save_base
from workflow.step_tokens import step_tokenizer

PLACE: dict[str, Any] = {
    "run": "shared", "chain": "real", "seed": 0, "stage": "base", "of_run": "strict", "text": "onpolicy", "of_stage": "ppo_0008",
}  # fmt: skip


@pytest.fixture
def model(tiny_qwen2: Path, tmp_path: Path) -> StepSAE:
    """An SSAE in the folder `ssae` and steps of traces in `steps`."""
    made, folder, draw = small_step_sae(tiny_qwen2, 2), tmp_path / "ssae", random.Random(0)
    write_step_tensors(folder / FILE, made.state_dict())
    save_base(made, step_tokenizer(tiny_qwen2), folder / BASE)
    write_step_manifest(folder, vocab=step_tokenizer(tiny_qwen2).vocab, legacy=[])
    traces = [random_trace(split, rank, sample, draw) for split in ("train", "test") for rank in range(5) for sample in range(2)]
    write_traces(tmp_path / "traces.parquet", traces)
    rules = StepRules(format="traces")
    step_cache(source=tmp_path / "traces.parquet", tokenizer=tiny_qwen2, rules=rules, folder=tmp_path / "steps")
    return made


def coded(folder: Path) -> None:
    code_steps(
        ssae=folder / "ssae/manifest.json", steps=folder / "steps/manifest.json", codes=folder / "codes.parquet",
        manifest=folder / "codes.json", device="cpu", place=PLACE,
    )  # fmt: skip


def test_every_step_of_every_trace_has_its_code(model: StepSAE, tmp_path: Path) -> None:
    coded(tmp_path)
    found, traces = read_step_codes(tmp_path / "codes.parquet"), read_traces(tmp_path / "traces.parquet")
    with StepStore(tmp_path / "steps/steps.h5") as store:
        wanted = model.encode(store.batch(range(len(store))))
        told = read_manifest(tmp_path / "codes.json", ARTEFACT)
        assert told["rows"] == len(store)
    torch.testing.assert_close(torch.from_numpy(found.codes.toarray()), wanted, rtol=1e-5, atol=1e-6)
    keys = list(zip(found.steps["trace"].to_pylist(), found.steps["step"].to_pylist(), strict=True))
    assert len(set(keys)) == len(keys)
    assert {trace for trace, _ in keys} == {trace.trace for trace in traces}
    assert all(step < len(trace.step_ends) for trace in traces for name, step in keys if name == trace.trace)
    assert told.items() >= {**PLACE, "ssae": read_manifest(tmp_path / "ssae/manifest.json", "step_sae")["digest"]}.items()


def test_the_same_call_gives_the_same_bytes(model: StepSAE, tmp_path: Path) -> None:  # its files
    coded(tmp_path)
    first = read_manifest(tmp_path / "codes.json", ARTEFACT)
    coded(tmp_path)
    assert read_manifest(tmp_path / "codes.json", ARTEFACT) == first


def test_steps_of_another_vocabulary_are_refused(model: StepSAE, tmp_path: Path) -> None:  # its files
    write_step_manifest(tmp_path / "ssae", vocab=1000, legacy=[])
    with pytest.raises(ConfigError, match=r"made of the 1000 tokens of the SSAE .* those of .* are of 313"):
        coded(tmp_path)
