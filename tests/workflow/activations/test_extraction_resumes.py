"""A job killed by SIGKILL goes on where it was and leaves the bytes of one that was not."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_traces import extraction_arguments, write_random_traces

from workflow import batching
from workflow.activations import extraction
from workflow.activations.extraction import extract_shard
from workflow.formats.files import folder_digest
from workflow.formats.traces import Trace
from workflow.residuals import ResidualReader

MOMENTS = ("block", "chunks", "publish")
KILLED = """
import os, pickle, signal, sys
import torch
torch.set_num_threads(1)
from workflow import batching
from workflow.activations import extraction, partial_shards
from workflow.formats import shards

batching.BLOCK_BYTES, batching.BATCHES_PER_BLOCK = 1, 2
MOMENTS = {
    "block": (partial_shards, "save_file", 3),  # a block's file is written but not renamed
    "chunks": (shards, "sync", 20),  # in the middle of a block's chunks
    "publish": (extraction, "publish_shard", 1),  # the first layer is in its place, the second is not
}

def die_in(moment, arguments):
    module, name, calls = MOMENTS[moment]
    plain, count = getattr(module, name), 0

    def dying(*args, **kwargs):
        nonlocal count
        result, count = plain(*args, **kwargs), count + 1
        if count == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, name, dying)
    extraction.extract_shard(**arguments)

# one child each: importing once and forking before anything runs saves the seconds of importing thrice
for moment, arguments in pickle.load(sys.stdin.buffer).items():
    child = os.fork()
    if not child:
        die_in(moment, arguments)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, moment
"""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BLOCK_BYTES", 1)
    monkeypatch.setattr(batching, "BATCHES_PER_BLOCK", 2)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, tiny_qwen2: Path) -> tuple[dict[str, dict[str, Any]], list[Trace]]:
    """Arguments of jobs that were killed at each moment, and the traces that all of them read."""
    folder, jobs, traces = tmp_path_factory.mktemp("killed"), {}, []
    for moment in MOMENTS:
        traces = write_random_traces(folder / moment, {"test": 20})
        jobs[moment] = extraction_arguments(folder / moment, tiny_qwen2)
    command, root = [sys.executable, "-c", KILLED], Path(__file__).parents[3]
    done = subprocess.run(command, input=pickle.dumps(jobs), cwd=root, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return jobs, traces


def outputs(store: Path) -> dict[str, str]:
    """Contents of everything that a job leaves."""
    files = [path for path in store.rglob("shard_*") if path.suffix in (".json", ".parquet")]
    arrays = {str(path.relative_to(store)): folder_digest(path) for path in store.rglob("shard_*.zarr")}
    return arrays | {str(path.relative_to(store)): path.read_bytes().hex() for path in files}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_job_resumes_to_the_same_bytes(tmp_path: Path, tiny_qwen2: Path, killed: Any, moment: str):
    arguments, traces = killed[0][moment], killed[1]
    store = arguments["beside"].parents[1]
    assert not list(store.rglob("shard_*.json"))
    facts = extract_shard(**arguments)
    write_random_traces(tmp_path, {"test": 20})
    extract_shard(**extraction_arguments(tmp_path, tiny_qwen2))
    assert outputs(store) == outputs(tmp_path / "out")
    assert len(outputs(store)) == 6
    assert not list(store.rglob(".partial"))
    rows = sum(len(trace.token_ids) for trace in traces)
    assert facts["rows"] == rows
    if moment == "publish":  # what was published may have been removed, so nothing is trusted
        assert facts["resumed_rows"] == 0
    else:
        assert 0 < facts["resumed_rows"] < rows


def interrupt_after_blocks(arguments: dict[str, Any], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run extraction into a KeyboardInterrupt before block `count`."""
    plain, blocks = extraction.read_block, 0

    def reader(*args: Any) -> Any:
        nonlocal blocks
        blocks += 1
        if blocks > count:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(extraction, "read_block", reader)
    with pytest.raises(KeyboardInterrupt):
        extract_shard(**arguments)
    monkeypatch.setattr(extraction, "read_block", plain)


def test_finished_blocks_are_not_computed_again(tmp_path: Path, tiny_qwen2: Path, monkeypatch: pytest.MonkeyPatch):
    write_random_traces(tmp_path, {"test": 20})
    arguments = extraction_arguments(tmp_path, tiny_qwen2)
    shapes: list[tuple[int, ...]] = []
    plain = ResidualReader.read
    monkeypatch.setattr(ResidualReader, "read", lambda self, ids: (shapes.append(tuple(ids.shape)), plain(self, ids))[1])
    interrupt_after_blocks(arguments, 3, monkeypatch)
    before = len(shapes)
    extract_shard(**arguments)
    in_two_goes = list(shapes)
    shapes.clear()
    extract_shard(**arguments)
    assert 0 < before < len(shapes)
    assert in_two_goes == shapes


def test_another_key_finds_nothing_of_a_killed_job(tmp_path: Path, tiny_qwen2: Path, monkeypatch: pytest.MonkeyPatch):
    write_random_traces(tmp_path, {"test": 20})
    arguments = extraction_arguments(tmp_path, tiny_qwen2)
    interrupt_after_blocks(arguments, 3, monkeypatch)
    assert len(list(tmp_path.rglob("block_*.safetensors"))) == 3
    assert extract_shard(**(arguments | {"key": "other"}))["resumed_rows"] == 0
    assert not list(tmp_path.rglob(".partial"))
