"""Batches of steps in an order that (seed, epoch) decide, and what is held out.

`division(store, valid_share=…, seed=…)` tells training from held-out steps, by problem; `batches(store, steps, …)` feeds them.
Every process is given its share of the same batches, and any of them can be the first.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sae_core.models.step_batch import StepBatch
from workflow.config.section import ConfigError
from workflow.formats.steps import StepStore


class Division(NamedTuple):
    """Steps of a store by what they are for, as rising indices."""

    train: np.ndarray
    valid: np.ndarray


class Fed(NamedTuple):
    """One batch, or one process's share of it."""

    batch: StepBatch
    steps: Int[Tensor, " batch"]
    """Which of the store they are."""
    number: int
    """Of the batch in its epoch, from 0."""


def division(store: StepStore, *, valid_share: float, seed: int) -> Division:
    """Training and held-out steps; all steps of a problem are on one side, in all stores that hold it.

    Where the source has splits (traces.parquet), they are its `train` and its `val`, and `test` is in neither. Else a salted hash
    of the problem decides.

    Raises:
        ConfigError: a side comes out empty.
    """
    splits = store.column("solutions/split")
    if np.any(splits != b""):
        chosen, why = splits == b"val", "its splits are those of the problems. Give valid traces of their own"
        used = chosen | (splits == b"train")
    else:
        problems, which = np.unique(store.column("solutions/problem"), return_inverse=True)
        chosen = (np.array([_uniform(seed, name) for name in problems.tolist()]) < valid_share)[which]
        used, why = np.ones(len(chosen), dtype=bool), f"the share is {valid_share}. Raise it or take a larger source"
    is_valid, is_used = chosen[store.solution], used[store.solution]
    train, valid = np.flatnonzero(is_used & ~is_valid), np.flatnonzero(is_used & is_valid)
    if not len(train) or not len(valid):
        raise ConfigError(
            f"Step-level SAEs need steps to train on and others held out, by problem; got {len(train)} and {len(valid)} of "
            f"{len(store)}, {why}, or name a file in ssae.data.valid."
        )
    return Division(train, valid)


def shared_problems(store: StepStore, other: StepStore) -> int:
    """Problems of which both stores hold steps; between a training and a validation file there should be none."""
    return len(np.intersect1d(store.column("solutions/problem"), other.column("solutions/problem")))


def batch_count(steps: int, batch_size: int) -> int:
    """Batches of an epoch; the last one may be smaller."""
    return -(-steps // batch_size)


def batches(
    store: StepStore, steps: np.ndarray, *, batch_size: int, seed: int, epoch: int, shuffle: bool = True, bucket: int = 1,
    first: int = 0, rank: int = 0, ranks: int = 1,
) -> Iterator[Fed]:  # fmt: skip
    """The batches of one epoch, each step once.

    Args:
        steps: indices into the store.
        batch_size: steps of a batch, all processes together.
        shuffle: False takes them in the order given.
        bucket: so many batches at a time are cut from their steps by length, for less padding, and shuffled again; 1: none.
        first: the batch to begin with; those before are not read.
        rank: this process's number among `ranks`; of a last batch smaller than `ranks` its share may be empty.
    """
    order = np.random.default_rng([seed, epoch]).permutation(steps) if shuffle else steps
    lengths = store.lengths() if bucket > 1 else np.empty(0)
    for window in range(first // bucket, batch_count(len(order), batch_size * bucket)):
        held = order[window * bucket * batch_size : (window + 1) * bucket * batch_size]
        if bucket > 1:
            held = held[np.argsort(lengths[held], kind="stable")]
        cut = [held[begin : begin + batch_size] for begin in range(0, len(held), batch_size)]
        if bucket > 1 and shuffle:
            whole = cut if len(cut[-1]) == batch_size else cut[:-1]
            places = np.random.default_rng([seed, epoch, window + 1]).permutation(len(whole))
            cut = [whole[place] for place in places] + cut[len(whole) :]
        begin = max(first - window * bucket, 0)
        for number, picked in enumerate(cut[begin:], start=window * bucket + begin):
            mine = np.array(picked[rank::ranks], dtype=np.int64)
            yield Fed(store.batch(mine), torch.from_numpy(mine), number)


def _uniform(seed: int, problem: bytes) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}/held out/".encode() + problem).digest()[:6]) / 2**48
