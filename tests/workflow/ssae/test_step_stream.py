"""The updates of a training: every step once an epoch, from any update on, and what the published order does otherwise."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from small_steps import save_tokenizer, write_lines

from sae_core.models.step_batch import StepBatch
from sae_core.training.micro_batches import micro_batches
from workflow.config.section import ConfigError
from workflow.config.ssae import SsaeConfig
from workflow.formats.steps import StepStore
from workflow.ssae.forms import StepRules
from workflow.ssae.step_cache import step_cache
from workflow.ssae.step_stream import HeldOutSteps, StepStream


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepStore]:
    """60 steps and more, of very different lengths."""
    folder = tmp_path_factory.mktemp("steps")
    rows = [{"question": f"{n}?", "answer": "\n".join(f"{n} " * (1 + n * k % 13) for k in range(4))} for n in range(20)]
    write_lines(folder / "a.json", rows)
    rules = StepRules(format="gsm8k")
    step_cache(source=folder / "a.json", tokenizer=save_tokenizer(folder / "model"), rules=rules, folder=folder)
    with StepStore(folder / "steps.h5") as opened:
        yield opened


def stream(store: StepStore, steps: int, legacy: dict[str, bool] | None = None, **training: Any) -> StepStream:
    usual = {"batch": 8, "micro_batch": 2, "bucket": 2}
    return StepStream(store, np.arange(steps), SsaeConfig(training=usual | training, legacy=legacy or {}), seed=4)


def sequences(batches: list[StepBatch]) -> list[list[int]]:
    return sorted(ids[:length] for batch in batches for ids, length in zip(batch.ids.tolist(), batch.length.tolist(), strict=True))


def test_every_step_comes_once_an_epoch_and_any_update_can_be_the_first(store: StepStore) -> None:
    found = stream(store, 53)
    assert found.updates_per_epoch == 7
    draws = list(itertools.islice(found.updates(0), 14))
    for epoch in (draws[:7], draws[7:]):
        assert sorted(step for draw in epoch for step in draw.steps) == list(range(53))
    assert [draw.steps for draw in draws[:7]] != [draw.steps for draw in draws[7:]]
    for draw in draws:
        assert sequences(draw.batches) == sequences([store.batch(draw.steps)])
    for done in (3, 7, 9):
        again = list(itertools.islice(found.updates(done), 14 - done))
        assert [draw.steps for draw in again] == [draw.steps for draw in draws[done:]]


def test_micro_batches_are_cut_by_length_and_hold_no_column_of_padding(store: StepStore) -> None:
    whole = store.batch(np.arange(20))
    cut = micro_batches(whole, 3)
    assert [len(batch.length) for batch in cut] == [3] * 6 + [2]
    lengths = torch.cat([batch.length for batch in cut])
    assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)
    assert all(batch.ids.shape[1] == int(batch.length.max()) for batch in cut)
    assert sequences(cut) == sequences([whole])
    as_given = micro_batches(whole, 3, by_length=False)
    assert torch.equal(torch.cat([batch.length for batch in as_given]), whole.length)


def test_the_published_order_keeps_the_file_and_drops_what_fills_no_update(store: StepStore) -> None:
    found = stream(store, 53, {"drop_tail": True, "sum_accumulation": True}, shuffle=False, bucket=1)
    assert found.updates_per_epoch == 6  # 27 micro-batches of 2, four an update
    draws = list(itertools.islice(found.updates(0), 7))
    assert [sample for draw in draws[:6] for sample in draw.steps] == list(range(48))
    assert draws[6].steps == list(range(8))
    assert torch.equal(draws[0].batches[1].length, store.batch([2, 3]).length)
    assert stream(store, 55, {"drop_tail": True}).updates_per_epoch == 7  # the last micro-batch is a partial one


def test_too_few_steps_for_an_update_without_its_tail_are_refused(store: StepStore) -> None:
    with pytest.raises(ConfigError, match=r"must hold ssae\.training\.batch = 8 steps or more; got 5"):
        stream(store, 5, {"drop_tail": True})


def test_held_out_steps_are_all_there_in_batches_of_like_length(store: StepStore) -> None:
    found = HeldOutSteps(store, np.arange(10, 31), 4)
    assert len(found) == 6
    assert sequences(list(found)) == sequences([store.batch(np.arange(10, 31))])
    assert torch.cat([batch.length for batch in found]).tolist() == sorted(store.lengths()[10:31].tolist(), reverse=True)
