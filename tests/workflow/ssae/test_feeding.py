"""Batches of steps: every step once, in an order that seed and epoch decide, the same for any number of processes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_steps import save_tokenizer, write_lines

from workflow.config.section import ConfigError
from workflow.formats.steps import StepStore, write_steps
from workflow.ssae.encoding import Encoded, Span
from workflow.ssae.feeding import Fed, batch_count, batches, division, shared_problems
from workflow.ssae.forms import StepRules
from workflow.ssae.step_cache import step_cache
from workflow.ssae.step_pieces import keep


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepStore]:
    """101 steps of very different lengths, of 37 solutions; the last 7 repeat the questions of the first."""
    folder = tmp_path_factory.mktemp("steps")
    rows = [
        {"question": f"{n % 30} ?", "answer": "\n".join(f"{n} " * (1 + n * k % 17) for k in range(3 + n % 3))} for n in range(37)
    ]
    write_lines(folder / "a.json", rows)
    model = save_tokenizer(folder / "model")
    step_cache(source=folder / "a.json", tokenizer=model, rules=StepRules(format="gsm8k"), folder=folder)
    with StepStore(folder / "steps.h5") as opened:
        assert len(opened) > 100
        yield opened


def picked(fed: list[Fed]) -> list[int]:
    return [step for one in fed for step in one.steps.tolist()]


@given(
    size=st.integers(1, 40), bucket=st.integers(1, 6), shuffle=st.booleans(), ranks=st.integers(1, 5), first=st.integers(0, 8),
    count=st.integers(1, 100),
)  # fmt: skip
def test_every_step_comes_once_whatever_the_processes_and_the_beginning(
    store: StepStore, size: int, bucket: int, shuffle: bool, ranks: int, first: int, count: int
) -> None:
    steps = np.arange(3, 3 + count)

    def fed(**settings: int) -> list[Fed]:
        return list(batches(store, steps, batch_size=size, seed=1, epoch=2, shuffle=shuffle, bucket=bucket, **settings))

    whole = fed()
    assert sorted(picked(whole)) == steps.tolist()
    assert [one.number for one in whole] == list(range(batch_count(count, size)))
    assert all(len(one.steps) == size for one in whole[:-1])
    assert [one.steps.tolist() for one in fed(first=first)] == [one.steps.tolist() for one in whole[first:]]
    shares = [fed(rank=rank, ranks=ranks) for rank in range(ranks)]
    for number, one in enumerate(whole):
        together = sorted(step for share in shares for step in share[number].steps.tolist())
        assert together == sorted(one.steps.tolist())
        assert max(len(share[number].steps) for share in shares) - min(len(share[number].steps) for share in shares) <= 1


def test_batches_hold_the_steps_they_name(store: StepStore) -> None:
    for one in batches(store, np.arange(len(store)), batch_size=8, seed=0, epoch=0, bucket=3):
        assert one.batch.length.tolist() == store.lengths()[one.steps.numpy()].tolist()
        assert one.batch.ids.shape == (len(one.steps), int(one.batch.length.max()))
        for row, step in enumerate(one.steps.tolist()):
            assert one.batch.ids[row, one.batch.start[row] : one.batch.length[row] - 1].tolist() == store.step_ids(step).tolist()
    empty = next(batches(store, np.arange(1), batch_size=4, seed=0, epoch=0, rank=2, ranks=3))
    assert (empty.batch.ids.shape, len(empty.steps)) == ((0, 0), 0)


def test_the_order_is_another_for_every_epoch_and_seed(store: StepStore) -> None:
    steps = np.arange(100)

    def order(seed: int, epoch: int, **settings: int) -> list[int]:
        return picked(list(batches(store, steps, batch_size=7, seed=seed, epoch=epoch, **settings)))

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(3)}) == 6
    assert order(0, 0, bucket=4) != order(0, 1, bucket=4)
    assert picked(list(batches(store, steps[::-1], batch_size=7, seed=0, epoch=0, shuffle=False))) == steps[::-1].tolist()


def test_buckets_leave_less_padding_and_no_order_of_lengths(store: StepStore) -> None:
    steps, lengths = np.arange(96), store.lengths()

    def padding(bucket: int) -> float:
        fed = batches(store, steps, batch_size=4, seed=0, epoch=0, bucket=bucket)
        return sum(float((~one.batch.real).float().sum()) for one in fed)

    assert padding(24) < 0.3 * padding(1)
    means = [lengths[one.steps.numpy()].mean() for one in batches(store, steps, batch_size=4, seed=0, epoch=0, bucket=24)]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.6


def test_no_problem_is_on_both_sides(store: StepStore) -> None:
    problems = store.of_step("problem")
    sides = division(store, valid_share=0.3, seed=0)
    assert sorted([*sides.train.tolist(), *sides.valid.tolist()]) == list(range(len(store)))
    assert not set(problems[sides.train].tolist()) & set(problems[sides.valid].tolist())
    assert 0.1 < len(set(problems[sides.valid].tolist())) / 30 < 0.5
    assert division(store, valid_share=0.3, seed=1).valid.tolist() != sides.valid.tolist()
    larger = set(division(store, valid_share=0.6, seed=0).valid.tolist())
    assert set(sides.valid.tolist()) < larger


def test_problems_in_two_files_are_counted(store: StepStore, tmp_path: Path) -> None:
    write_lines(tmp_path / "b.json", [{"question": question, "answer": "a\nb"} for question in ("1 ?", "29 ?", "30 ?", "1 ?")])
    step_cache(
        source=tmp_path / "b.json", tokenizer=save_tokenizer(tmp_path / "model"), rules=StepRules(format="gsm8k"), folder=tmp_path
    )
    with StepStore(tmp_path / "steps.h5") as other:
        assert shared_problems(store, other) == shared_problems(other, store) == 2


def test_an_empty_side_is_refused(store: StepStore) -> None:
    with pytest.raises(ConfigError, match=r"got \d+ and 0 of \d+, the share is 0.0. Raise it .* ssae.data.valid"):
        division(store, valid_share=0.0, seed=0)


def test_traces_are_divided_by_the_splits_of_their_problems(tmp_path: Path) -> None:
    held = [
        Encoded(f"p{n}", n, split, "", 1, 1, np.arange(4, dtype=np.int32), [Span(0, 0, 2, 2, 2)], 0, 0, 0)
        for n, split in enumerate(["train", "val", "test", "train"])
    ]
    keep(held, tmp_path / "000000.npz")
    write_steps(tmp_path / "steps.h5", [tmp_path / "000000.npz"], prefix=[1], separator=9, end=2, vocab=10)
    with StepStore(tmp_path / "steps.h5") as opened:
        sides = division(opened, valid_share=0.5, seed=0)
        assert (sides.train.tolist(), sides.valid.tolist()) == ([0, 3], [1])
        assert opened.batch([3, 0], pad=7).ids.tolist() == [[1, 0, 1, 9, 2, 3, 2]] * 2
