"""Several processes that train one step-level SAE find what one finds, with whole weights or a share of them each."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import parallel_step_trainings
import pytest
import torch
from parallel_step_trainings import WAYS, left

ROOT = Path(__file__).parents[3]
LIMIT = 120


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> list[dict[str, Any]]:
    """What two processes leave."""
    folder = tmp_path_factory.mktemp("ranks")
    shutil.copytree(tiny_llama, folder / "model")
    program = [sys.executable, parallel_step_trainings.__file__, str(folder), "2", ",".join(WAYS)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(program, env=environment, start_new_session=True, **pipes) as launched:
        try:
            _, said = launched.communicate(timeout=LIMIT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launched.pid, signal.SIGKILL)
    assert launched.returncode == 0, said
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("way", ["replicas", "sharded", "sharded_phase_2"])
def test_two_processes_find_what_one_finds(ranks: list[dict[str, Any]], tiny_llama: Path, way: str) -> None:
    truth, one, other = left(tiny_llama, way), *(rank[way] for rank in ranks)
    assert one["told"] == other["told"]
    for found, expected in zip(one["told"], truth.told, strict=True):
        assert tuple(found) == pytest.approx(tuple(expected), rel=1e-4)
    assert one["untrained"] == other["untrained"] == truth.untrained
    assert one["quality"] == other["quality"]
    assert tuple(one["quality"]) == pytest.approx(tuple(truth.quality), rel=1e-4)
    assert one["weight"] == other["weight"] == pytest.approx(truth.weight, rel=1e-3)
    for name, tensor in truth.weights.items():
        # AdamW's first steps are as long for tiny gradients as for large ones: rounding may turn a few
        apart = (one["weights"][name] - tensor).norm() / tensor.norm().clamp_min(1e-6)
        assert float(apart) < 1e-3, name
    share = 0.55 if way.startswith("sharded") else 1.0
    assert one["numbers"] <= share * truth.numbers


def test_summed_gradients_are_alike_and_controllers_the_own_of_each_process(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["summed"] for rank in ranks)
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    assert first["weight"] != second["weight"]
