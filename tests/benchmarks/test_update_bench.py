"""The benchmark of updates runs, its table says what it promises, and sparse updates are faster than dense ones."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.bench_sae_cost import measured_elsewhere
from benchmarks.bench_sae_update import bench
from benchmarks.field import entries
from benchmarks.naive import Naive
from benchmarks.ours import Ours
from benchmarks.plots import draw_costs, draw_updates
from benchmarks.roofline import Rates, floor_ms
from benchmarks.shapes import SHAPES, Shape, batches_of, start_of
from benchmarks.table import Line, write, write_machine
from benchmarks.timing import clock_of, interleaved, times_of
from sae_core.kernels.choice import BackendName, choose_backend

CPU = torch.device("cpu")
SMALL = Shape("small", 64, 24, 96, 6)
COLUMNS = ["shape", "variant", "precision", "threads", "ms", "ratio_to_naive", "gradient_ok", "roofline_share"]


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that are not ours
        return bench([SMALL], CPU, [1], 0.05)[0]


def test_everyone_has_a_line_with_a_time_or_a_reason(lines: list[Line]) -> None:
    assert [(line["variant"], line["precision"]) for line in lines] == [(entry.name, entry.precision) for entry in entries(CPU)]
    for line in lines:
        assert list(line)[: len(COLUMNS)] == COLUMNS
        present = line["ms"] is not None
        assert present is not line["note"].startswith("absent: ")
        if present:
            assert float(line["ms_low"]) <= float(line["ms"]) <= float(line["ms_high"])
            assert float(line["roofline_share"]) > 0
            assert line["gradient_ok"] is (line["note"] == "")


def test_naive_and_torch_always_take_part_with_right_gradients(lines: list[Line]) -> None:
    by_name = {(line["variant"], line["precision"]): line for line in lines}
    assert by_name["naive", "fp32"]["ratio_to_naive"] == "1.00"
    for name in (("naive", "fp32"), ("torch", "fp32"), ("torch", "bf16")):
        assert by_name[name]["gradient_ok"] is True


def test_table_plot_and_machine_are_written_and_the_plot_follows_from_the_table_alone(lines: list[Line], tmp_path: Path) -> None:
    write(tmp_path / "table.csv", lines)
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["variant"] for row in rows] == [line["variant"] for line in lines]
    assert "None" not in (tmp_path / "table.csv").read_text(encoding="utf-8")
    for name in ("one", "two"):
        draw_updates(tmp_path / f"{name}.svg", lines)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert b"<svg" in (tmp_path / "one.svg").read_bytes()
    write_machine(tmp_path / "machine.json", CPU, {"rates": 1})
    assert json.loads((tmp_path / "machine.json").read_text(encoding="utf-8"))["torch"] == torch.__version__


def test_the_gpu_benchmark_says_what_it_needs() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    command = [sys.executable, "-m", "benchmarks.bench_sae_update", "--device", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    for part in ("must run where torch sees a CUDA device", "sees none here", "Run it on a machine with an NVIDIA GPU"):
        assert part in done.stderr


def test_updates_take_turns_on_the_same_batches() -> None:
    seen: list[tuple[str, int]] = []
    batches = [torch.tensor([float(place)]) for place in range(3)]
    updates = {name: lambda rows, name=name: seen.append((name, int(rows))) for name in "ab"}
    times = interleaved(updates, batches, 0.0, clock_of(CPU, 1), least=4)
    assert seen == [(name, turn % 3) for turn in range(6) for name in "ab"]
    assert all(found.count == 4 for found in times.values())


def test_times_are_quartiles_in_milliseconds() -> None:
    found = times_of([0.004, 0.001, 0.002, 0.003, 0.005])
    assert found == pytest.approx((3.0, 2.0, 4.0, 5))


def test_the_roofline_is_the_sum_of_its_terms() -> None:
    shape, rates = Shape("", 10, 20, 300, 4), Rates(fp32=1e6, bf16=1e9, candidates=2e9, copy=1e9)
    product, kept, adam = 2 * 10 * 20 * 300, 4 * 10 * 4 * 20, 49 * 300 * 20
    assert floor_ms(shape, rates, "bf16") == pytest.approx(1e3 * (product / 1e9 + (kept + adam) / 1e9))
    again = 4 * 10 * (4 + 16) * 20
    assert floor_ms(shape, rates, "fp32") == pytest.approx(1e3 * (product / 2e9 + (again + kept + adam) / 1e9))
    slow = rates._replace(candidates=1e3)
    assert floor_ms(shape, slow, "fp32") == pytest.approx(1e3 * (product / 1e6 + (kept + adam) / 1e9))


def test_a_point_of_the_cost_curve_has_time_and_memory_and_one_that_does_not_fit_says_so(tmp_path: Path) -> None:
    fits = measured_elsewhere("torch", 2048, "cpu", 1)
    state = 4 * 4 * 2 * 2048 * 512 / 2**20
    assert fits["ms"] > 0
    assert 0.9 * state < fits["peak_mib"] < 5 * state
    huge = measured_elsewhere("torch", 1 << 31, "cpu", 1)
    assert huge == {"ms": None, "peak_mib": None, "note": "does not fit into memory"}
    head = {"variant": "torch", "precision": "fp32"}
    draw_costs(tmp_path / "costs.svg", [head | {"d_sae": 2048} | fits, head | {"d_sae": 1 << 31} | huge])
    assert b"<svg" in (tmp_path / "costs.svg").read_bytes()


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.parametrize(("backend", "least"), [("torch", 3.0), ("native", 5.0)])
def test_sparse_updates_are_several_times_faster_than_dense_autograd(backend: BackendName, least: float) -> None:
    shape = SHAPES["S576"]
    batches = batches_of(shape, 3)
    start = start_of(shape, batches[0])
    try:
        mine = Ours(shape, start, CPU, choose_backend(backend, CPU), "fp32")
    except ValueError as reason:
        pytest.skip(f"the {backend} backend is not here: {reason}")
    updates = {"naive": Naive(shape, start, CPU).update, "mine": mine.update}
    times = interleaved(updates, batches, 0.0, clock_of(CPU, 1), least=12)
    assert times["naive"].median / times["mine"].median > least
