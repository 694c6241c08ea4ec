"""Which traces belong to a part of a store, and to one of its shards."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from workflow.config.section import ConfigError
from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest
from workflow.formats.traces import Trace, read_traces

HELDOUT = ("val", "test")


def select_traces(path: Path | str, *, part: str, shard: int, shards: int, prompts_per_hop: int) -> list[Trace]:
    """The traces of one shard, in their order: a contiguous share of those of its part.

    `hop_<n>` holds train problems with rank in [n·P, (n+1)·P), P = `prompts_per_hop`; `heldout` all of val and test.

    Raises:
        ConfigError: the part or the shard is empty.
    """
    if part == "heldout":
        mine = there = read_traces(path, HELDOUT)
    else:
        hop = int(part.removeprefix("hop_"))
        there = read_traces(path, ("train",))
        mine = [trace for trace in there if hop * prompts_per_hop <= trace.rank < (hop + 1) * prompts_per_hop]
    if not mine:
        raise ConfigError(_empty_part(path, part, there, prompts_per_hop))
    first, last = shard * len(mine) // shards, (shard + 1) * len(mine) // shards
    if first == last:
        raise ConfigError(
            f"Every shard must get a trace; part {part} has {len(mine)} traces for activations.shards = {shards}. "
            "Lower activations.shards or raise problems.size."
        )
    return mine[first:last]


def _empty_part(path: Path | str, part: str, there: Sequence[Trace], prompts_per_hop: int) -> str:
    if part == "heldout":
        return f"Part heldout must hold traces of the splits val and test; {path} has none. Add one of them to traces.splits."
    hop = int(part.removeprefix("hop_"))
    return (
        f"Part {part} must hold train problems of rank {hop * prompts_per_hop} to {(hop + 1) * prompts_per_hop - 1}; there are too "
        f"few train problems, {len({trace.problem for trace in there})} in {path}. Raise problems.size or lower "
        "activations.prompts_per_hop."
    )


def check_digest(path: Path | str, manifest: Path | str) -> None:
    """Refuse a table of traces other than the one that its manifest describes.

    Raises:
        ConfigError: the digests differ.
    """
    if (found := file_digest(path)) != (wanted := read_manifest(manifest, "traces")["digest"]):
        raise ConfigError(
            f"{path} must have the digest {wanted[:12]}… that {manifest} names; it has {found[:12]}…. Delete both and run again, "
            "they will be rebuilt."
        )


def check_vocabulary(traces: Sequence[Trace], vocab: int) -> None:
    """Refuse tokens that a model does not have: the text was made with another tokenizer.

    Raises:
        ConfigError: with the trace and the token.
    """
    for trace in traces:
        if (highest := max(trace.token_ids)) >= vocab:
            raise ConfigError(
                f"A policy must read text in its own tokens, 0 to {vocab - 1}; trace {trace.trace} has token {highest}. "
                "Give all stages of a run the same tokenizer."
            )


def text_digest(traces: Sequence[Trace], max_tokens: int) -> str:
    """sha256 over the ids of traces and the tokens that are read: equal digests mean the same rows in the same order."""
    digest = hashlib.sha256()
    for trace in traces:
        digest.update(f"{trace.trace}:{' '.join(map(str, trace.token_ids[:max_tokens]))}\n".encode())
    return digest.hexdigest()
