"""Traces of random tokens, and manifests of a policy and of traces as extraction wants them, for tests."""

import random
from pathlib import Path
from typing import Any

from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.traces import Trace, trace_id, write_traces

SETTINGS: dict[str, Any] = {
    "layers": [0, 1], "batch_tokens": 96, "max_tokens": 64, "chunk_rows": 32, "dtype": "auto", "prompts_per_hop": 6, "shards": 1,
}  # fmt: skip
COMPUTE = {"device": "cpu", "dtype": "float32"}


def random_trace(split: str, rank: int, sample: int, draw: random.Random, origin: str = "base", longest: int = 40) -> Trace:
    """A trace of 8 to `longest` + 8 random tokens in two steps."""
    prompt, response = draw.randint(5, 12), draw.randint(3, longest - 4)
    problem = f"p{('val', 'test', 'train').index(split)}{rank:011x}"
    length = prompt + response
    return Trace(
        trace_id(problem, origin, sample), problem, split, rank, origin, sample,
        [draw.randrange(3, 300) for _ in range(length)], prompt, 2, prompt - 1, [prompt + 2, length],
        "", True, [-1.0] * response, "7", False, False, False, False,
    )  # fmt: skip


def write_random_traces(folder: Path, problems: dict[str, int], samples: int = 2, seed: int = 0) -> list[Trace]:
    """traces.parquet and manifest.json with `samples` traces for so many problems per split; the traces in their order."""
    draw = random.Random(seed)
    traces = [
        random_trace(split, rank, sample, draw)
        for split in ("val", "test", "train")
        for rank in range(problems.get(split, 0))
        for sample in range(samples)
    ]
    publish(folder, traces)
    return traces


def publish(folder: Path, traces: list[Trace]) -> None:
    """Write traces.parquet and its manifest."""
    write_traces(folder / "traces.parquet", traces)
    write_manifest(folder / "manifest.json", "traces", digest=file_digest(folder / "traces.parquet"))


def extraction_arguments(folder: Path, model: Path, part: str = "heldout", shard: str = "000", **settings: Any) -> dict[str, Any]:
    """Arguments of `extract_shard` for the traces in `folder`; outputs go to `folder/out`."""
    settings = SETTINGS | settings
    policy = folder / "policy.json"
    write_manifest(policy, "policy", digest="m" * 64, tokenizer="t" * 64)
    store = folder / "out"
    return {
        "traces": folder / "traces.parquet", "traces_manifest": folder / "manifest.json", "policy": policy, "model": model,
        "manifests": [store / f"layer_{layer}" / part / f"shard_{shard}.json" for layer in settings["layers"]],
        "beside": store / part / f"shard_{shard}.provenance.json", "key": "k",
        "where": {"run": "shared", "text": "onpolicy", "stage": "base", "part": part, "shard": shard},
        "settings": settings, "compute": COMPUTE,
    }  # fmt: skip
