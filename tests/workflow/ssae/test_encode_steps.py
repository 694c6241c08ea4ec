"""From a file of solutions to a file of codes."""

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from steps_in_use import small_step_sae

from workflow.formats.published.step_saes import write_published
from workflow.formats.step_codes import read_step_codes
from workflow.formats.steps import StepStore
from workflow.ssae.encode_steps import main

LINES = [{"question": f"{n} + 1?", "answer": f"{n} + 1 =\n{n + 1}\nso\n#### {n + 1}"} for n in range(40)]


@pytest.fixture
def arguments(tiny_qwen2: Path, tmp_path: Path) -> list[str]:
    model = small_step_sae(tiny_qwen2, 2)
    write_published(tmp_path / "ssae.pt", model.state_dict(), base_model=str(tiny_qwen2), training={})
    (tmp_path / "steps.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    given = {"sae": "ssae.pt", "data": "steps.jsonl", "out": "codes.parquet", "steps": "steps"}
    named = [part for name, value in given.items() for part in (f"--{name}", str(tmp_path / value))]
    return [*named, "--format", "gsm8k_aug", "--batch-tokens", "20", "--device", "cpu"]


def test_every_step_has_its_code_and_its_problem(arguments: list[str], tiny_qwen2: Path, tmp_path: Path) -> None:
    assert main(arguments) == 0
    found = read_step_codes(tmp_path / "codes.parquet")
    with StepStore(tmp_path / "steps" / "steps.h5") as store:
        wanted = small_step_sae(tiny_qwen2, 2).encode(store.batch(range(len(store))))
        problems = store.of_step("problem").tolist()
    assert pq.read_metadata(tmp_path / "codes.parquet").num_row_groups > 1
    torch.testing.assert_close(torch.from_numpy(found.codes.toarray()), wanted, rtol=1e-5, atol=1e-6)
    assert [name.encode() for name in found.steps["problem"].to_pylist()] == problems
    assert found.steps["step"].to_pylist()[:4] == [0, 1, 2, 0]
    assert found.steps["line"].to_pylist()[:4] == [1, 1, 1, 2]
    assert found.steps.schema.metadata[b"ssae"].decode().endswith("ssae.pt")
    assert np.all(found.codes.data > 0)


def test_what_does_not_fit_is_an_error_in_one_line(arguments: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert main([*arguments, "--data", "nowhere.jsonl"]) == 1
    assert "there is none at nowhere.jsonl" in caplog.text
