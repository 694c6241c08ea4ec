"""Several processes against one: replicas, shards, and both at once, over gloo."""

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import parallel_trainings
import pytest
import torch
from parallel_trainings import LARGE, all_trained, cases, finished, tied_values
from small_saes import D_MODEL, configs, fresh, planted_rows
from torch import Tensor

from sae_core.config.part import part_of
from sae_core.kernels.selection import batch_topk
from sae_core.kernels.torch_backend import TorchBackend
from sae_core.models.build import build, initial
from sae_core.models.sharding import build_part, shard, unsharded
from sae_core.training.merging import _among_largest_of_all
from sae_core.training.optimiser import Optimiser
from sae_core.training.parallel import ALONE, Parallel
from sae_core.training.ranks import ONE

ROOT = Path(__file__).parents[2]
KINDS = dict(configs())
NAMES = [name for name, _ in cases()]
REPLICATED = [name for name in NAMES if not name.endswith(("_odd", "_input"))]
SHARDED = [name for name in NAMES if name not in KINDS]
BOTH = ["topk_absolute_odd", "topk_relu_fast", "matryoshka_aux", "relu_dense", "jumprelu_to_target", "gated"]
LIMIT = 150
"""Seconds after which a process that still runs is a failure."""


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def run(folder: Path, world: int, shards: int, names: list[str], seconds: int = 60, fate: str = "ends") -> tuple[list[str], str]:
    """How the processes of one run ended, in the order of ranks, and what they said."""
    program = [sys.executable, parallel_trainings.__file__, str(folder)]
    rest = [str(world), str(seconds), str(shards), ",".join(names), fate]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*program, *rest], env=environment(), start_new_session=True, **pipes) as launched:
        try:
            ends, said = launched.communicate(timeout=LIMIT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launched.pid, signal.SIGKILL)
    return ends.split(), said


def compare(folder: Path, world: int, shards: int, names: list[str]) -> None:
    """Hold what the processes left against what one process finds."""
    left = [torch.load(folder / f"rank_{rank}.pt") for rank in range(world)]
    for name, truth in all_trained(names, ALONE).items():
        found = [one["cases"][name] for one in left]
        for rank, one in enumerate(found):
            assert torch.equal(one["losses"], found[0]["losses"]), (name, "every process must know the loss of all rows")
            assert_same_bits(one["tensors"], found[rank % shards]["tensors"])
            shared = {key for key, tensor in one["tensors"].items() if len(tensor.shape) == 0 or key in ("b_dec", "b_pre")}
            assert_same_bits({key: one["tensors"][key] for key in shared}, {key: found[0]["tensors"][key] for key in shared})
        torch.testing.assert_close(found[0]["losses"], truth.losses, rtol=1e-5, atol=0.0)
        fired = torch.cat([one["fired"] for one in found[:shards]], 1)
        # sums over shards round differently: a code within 1e-7 of its threshold may change sides, for at most one of its rivals
        assert int((fired - truth.fired).abs().sum()) <= 2, name
        assert truth.whole is not None
        for key, tensor in truth.whole.items():
            assert apart(found[0]["whole"][key], tensor) < 1e-4, (name, key)
        torch.testing.assert_close(found[0]["reconstructed"], truth.reconstructed, rtol=1e-4, atol=1e-3)
        assert int((found[0]["active_per_row"] - truth.active_per_row).abs().sum()) <= 2, name
        check_bytes(name, found[:shards], truth._asdict())
    for rank, one in enumerate(left):
        assert one["largest"] <= -(-LARGE // shards) * D_MODEL
        assert_same_bits(one["adopted"], left[rank % shards]["adopted"])
        assert torch.equal(one["adopted"]["b_pre"], left[0]["adopted"]["b_pre"])
    check_selection([one["selected"] for one in left], shards)
    check_trainers([one["finished"] for one in left], shards)


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def apart(found: Tensor, truth: Tensor) -> float:
    assert found.shape == truth.shape
    return float((found.double() - truth).norm() / truth.double().norm().clamp_min(1e-9))


def check_bytes(name: str, shards: list[dict[str, Any]], truth: dict[str, Any]) -> None:
    """Weights and moments of all shards together are those of one process; only what has the width of a row is held by each."""

    def held(one: dict[str, Any]) -> int:
        return sum(tensor.nbytes for pair in one["moments"].values() for tensor in [*pair]) + sum(
            tensor.nbytes for tensor in one["tensors"].values()
        )

    repeated = (len(shards) - 1) * (6 * D_MODEL + 2) * 4
    assert held(truth) <= sum(held(one) for one in shards) <= held(truth) + repeated, name
    assert max(held(one) for one in shards) <= held(truth) / len(shards) + repeated + D_MODEL * 6 * 4, name


def check_trainers(left: list[Any], shards: int) -> None:
    """Whole trainings are those of one process, and go on with the same bits where they were stopped."""
    for place, truth in enumerate(finished(ALONE)):
        straight, stopped = ([one[way][place] for one in left] for way in (0, -1))
        assert sum(record.resampled for record in truth.history) > 0
        for rank in range(len(left)):
            assert straight[rank]["history"] == straight[0]["history"] == stopped[rank]["history"]
            assert torch.equal(straight[rank]["firing_rate"], stopped[rank]["firing_rate"])
        for record, expected in zip(straight[0]["history"], truth.history, strict=True):
            assert record == pytest.approx(tuple(expected), rel=1e-4)
        assert torch.equal(torch.cat([one["reinitialised"] for one in straight[:shards]]), truth.reinitialised)
        assert truth.whole is not None
        assert_same_bits(straight[0]["whole"], stopped[0]["whole"])
        for key, tensor in truth.whole.items():
            assert apart(straight[0]["whole"][key], tensor) < 1e-3, key


def check_selection(found: list[tuple[list[Tensor], list[Tensor]]], shards: int) -> None:
    z, width = tied_values().nan_to_num(nan=torch.inf), 12 // shards
    rows = len(z) * shards // len(found)
    for place, k in enumerate((1, 4, 12)):
        kept = torch.zeros_like(z, dtype=torch.bool)
        for rank, (by_row, _) in enumerate(found):
            replica, shard_ = divmod(rank, shards)
            kept[replica * rows : (replica + 1) * rows, shard_ * width : (shard_ + 1) * width] = by_row[place]
        assert bool((kept.sum(1) == k).all())
        best = z.sort(dim=1, descending=True).values[:, :k]
        assert torch.equal(z[kept].view(len(z), k).sort(dim=1, descending=True).values, best)
    for place, total in enumerate((1, 2, 20, 49, 95)):
        values = []
        for rank, (_, by_batch) in enumerate(found):
            replica, shard_ = divmod(rank, shards)
            at = by_batch[place]
            values.append(z[at[0] + replica * rows, at[1] + shard_ * width])
        assert torch.equal(torch.cat(values).sort().values, z.view(-1).sort().values[-total:])


@pytest.mark.parametrize(
    ("world", "shards", "names"),
    [(2, 1, REPLICATED), (2, 2, SHARDED), (4, 2, BOTH)],
    ids=["replicas", "shards", "replicas-of-shards"],
)
def test_processes_find_what_one_finds_and_hold_no_more_than_their_part(
    tmp_path: Path, world: int, shards: int, names: list[str]
) -> None:
    ends, said = run(tmp_path, world, shards, names)
    assert ends == ["0"] * world, said
    compare(tmp_path, world, shards, names)


@pytest.mark.parametrize(("fate", "end"), [("dies", str(-signal.SIGKILL)), ("hangs", "stopped")])
def test_a_lost_process_ends_the_others_with_an_error(tmp_path: Path, fate: str, end: str) -> None:
    ends, said = run(tmp_path, 2, 2, ["topk_relu"], seconds=5, fate=fate)
    assert ends == ["1", end], said
    assert "RuntimeError" in said


def test_the_benchmark_runs_under_torchrun() -> None:
    program = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "benchmarks/train_sharded.py"]
    sizes = ["--latent-shards", "2", "--d-model", "16", "--d-sae", "101", "--k", "70", "--batch", "12", "--updates", "3"]
    said = subprocess.run(
        [sys.executable, "-m", *program, *sizes],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    ).stderr
    told = re.search(r"1 replicas of 2 shards: .* loss (\S+), (\d+) bytes of weights and moments in each process", said)
    assert told, said
    assert math.isfinite(float(told[1]))
    assert int(told[2]) == 3 * 4 * (50 * (2 * 16 + 1) + 2 * 16) + 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("d_sae", "k", "count"), [(96, 6, 3), (97, 60, 4), (5, 5, 5), (24, 7, 2), (9, 3, 1)])
def test_parts_joined_are_the_sae(kind: str, d_sae: int, k: int, count: int) -> None:
    config = dict(configs(d_sae=d_sae, k=k))[kind]
    whole = fresh(config).tensors()
    parts = [build_part(part_of(config, index, count), shard(whole, config, index, count)) for index in range(count)]
    sizes = [part.config.d_sae for part in parts]
    assert sum(sizes) == d_sae
    assert max(sizes) - min(sizes) <= 1
    assert_same_bits(unsharded([part.tensors() for part in parts], config), whole)


@pytest.mark.parametrize(("d_sae", "d_model", "count"), [(96, 24, 3), (8192 + 5, 3, 4), (2 * 4096, 7, 2), (4096 + 4095, 2, 3)])
def test_a_part_starts_with_the_weights_it_has_in_the_whole(d_sae: int, d_model: int, count: int) -> None:
    config, rows = dict(configs(d_model, d_sae, 1))["jumprelu"], planted_rows(40, d_model)
    whole = initial(config, rows, seed=7).tensors()
    drawn = torch.randn(d_sae, d_model, generator=torch.Generator().manual_seed(7))
    assert torch.equal(whole["W_enc"], torch.nn.functional.normalize(drawn, dim=1))
    for index in range(count):
        part = initial(config, rows, seed=7, part=part_of(config, index, count))
        assert_same_bits(part.tensors(), shard(whole, config, index, count))


@pytest.mark.parametrize("total", [1, 2, 3, 50, 95, 96])
def test_radix_selection_keeps_the_first_of_equals_as_one_process_does(total: int) -> None:
    z = tied_values()
    kept = _among_largest_of_all(z.view(-1), total, ONE)
    truth = batch_topk(z, total)
    assert torch.equal(kept.nonzero().squeeze(1), truth.rows() * 12 + truth.latents)


def test_what_does_not_divide_is_refused() -> None:
    config = KINDS["topk_relu"]
    with pytest.raises(ValueError, match="parts of an SAE must be at least 1 and at most d_sae = 96; got 97"):
        part_of(config, 0, 97)
    with pytest.raises(ValueError, match="latent_shards must divide the number of processes = 1; got 2"):
        Parallel.from_environment(latent_shards=2)
    with pytest.raises(ValueError, match="multiple of the replicas = 2; got 33"):
        Parallel(rows=type(ONE)(0, 2)).mine(planted_rows(33))
    with pytest.raises(ValueError, match="d_sae = 96 latents together; got 48 in 1 parts"):
        unsharded([shard(fresh(config).tensors(), config, 0, 2)], config)


def test_an_optimiser_refuses_another_part_than_its_own() -> None:
    config = KINDS["topk_relu"]
    half = build_part(part_of(config, 1, 2), shard(fresh(config).tensors(), config, 1, 2))
    with pytest.raises(
        ValueError, match="Shard 0 of 1 must hold the latents from 0 to below 96; the SAE holds those from 48 to below 96"
    ):
        Optimiser(half, TorchBackend(torch.device("cpu")))


def test_one_process_is_alone_without_torchrun() -> None:
    assert Parallel.from_environment() is ALONE
    assert ALONE.part(KINDS["gated"]) == build(KINDS["gated"], fresh(KINDS["gated"]).tensors()).part
