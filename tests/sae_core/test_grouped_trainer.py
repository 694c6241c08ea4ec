"""Trainings side by side: the bytes of each alone, one reading for all, and a stop at any update."""

import io
from collections.abc import Iterator, Mapping

import pytest
import torch
from small_saes import configs, fresh, planted_rows, training
from torch import Tensor

from sae_core.config.training import TrainingConfig
from sae_core.metrics.reconstruction import mean_l0, nmse, reconstruction_sums
from sae_core.models.sae import SAE
from sae_core.training.grouped import GroupedTrainer
from sae_core.training.records import Diverged, HeldOut, Trained
from sae_core.training.trainer import Trainer

KINDS = dict(configs())
HELD_OUT = planted_rows(128, seed=5)


def batches(seed: int = 0, start: int = 0, batch: int = 32) -> Iterator[Tensor]:
    update = start
    while True:
        yield planted_rows(batch, seed=1000 * seed + update)
        update += 1


def quality(sae: SAE) -> HeldOut:
    with torch.no_grad():
        codes, prompts = sae.encode(HELD_OUT), torch.zeros(len(HELD_OUT), dtype=torch.int64)
        sums = reconstruction_sums(HELD_OUT, sae.decode(codes, HELD_OUT), prompts, 1, HELD_OUT.mean(0), codes.active_per_row())
    return HeldOut(float(nmse(sums)), float(mean_l0(sums)))


def qualities(saes: Mapping[str, SAE]) -> dict[str, HeldOut]:
    return {name: quality(sae) for name, sae in saes.items()}


def plan(name: str, **changes: object) -> TrainingConfig:
    priced = name in ("relu", "jumprelu", "gated")
    usual = {"updates": 24, "updates_per_epoch": 8, "aux_coef": 0.1, "aux_k": 8, "dead_rate": 0.02, "resample_epochs": 1}
    return training(**usual | {"keep_epoch": "last" if priced else "best"} | changes)


def trainer(name: str, **changes: object) -> Trainer:
    return Trainer(fresh(KINDS[name]), plan(name, **changes))


def same(found: Trained, expected: Trained) -> None:
    assert found.epoch == expected.epoch
    for name in expected.tensors:
        assert torch.equal(found.tensors[name], expected.tensors[name]), name
    assert torch.equal(found.firing_rate, expected.firing_rate)
    assert torch.equal(found.reinitialised, expected.reinitialised)


def test_every_member_ends_with_the_bytes_of_its_own_training() -> None:
    group = GroupedTrainer({name: trainer(name) for name in KINDS})
    found = group.run(batches(), qualities)
    assert list(found) == list(KINDS)
    resampled = 0
    for name in KINDS:
        alone = trainer(name)
        same(found[name], alone.run(batches(), quality))
        assert group.members[name].history == alone.history
        resampled += sum(record.resampled for record in alone.history)
    assert resampled > 0, "the test must cover re-initialisation"


def test_members_of_other_lengths_and_early_ends_drop_out() -> None:
    changes: dict[str, dict[str, object]] = {
        "topk_relu": {"updates": 16},
        "topk_signed": {"patience": 1, "lr": 10.0},
        "batchtopk": {"updates": 48},
    }
    group = GroupedTrainer({name: trainer(name, **own) for name, own in changes.items()})
    seen: list[list[str]] = []
    found = group.run(batches(), qualities, on_update=lambda update: seen.append(list(group.active)))
    assert group.members["topk_signed"].update < 24, "the test must cover an early end"
    assert [len(names) for names in seen] == sorted((len(names) for names in seen), reverse=True)
    assert (len(seen), group.update, group.updates, seen[-2]) == (48, 48, 48, ["batchtopk"])
    for name, own in changes.items():
        same(found[name], trainer(name, **own).run(batches(), quality))


def test_rows_are_read_once_for_all_that_share_them() -> None:
    asked = {"a": 0, "b": 0}

    def counted(stream: str, seed: int) -> Iterator[Tensor]:
        for rows in batches(seed):
            asked[stream] += 1
            yield rows

    names = {"topk_relu": "a", "relu": "a", "gated": "b"}
    group = GroupedTrainer({name: trainer(name) for name in names}, streams=names)
    found = group.run({"a": counted("a", 1), "b": counted("b", 2)}, qualities)
    assert asked == {"a": 24, "b": 24}
    same(found["gated"], trainer("gated").run(batches(2), quality))
    same(found["relu"], trainer("relu").run(batches(1), quality))


def test_a_group_can_be_stopped_and_continued_at_any_update_to_the_bit() -> None:
    names = {"topk_relu": {"updates": 16}, "matryoshka": {}, "jumprelu": {}}
    group = GroupedTrainer({name: trainer(name, **own) for name, own in names.items()})
    states: dict[int, bytes] = {}

    def save(update: int) -> None:
        buffer = io.BytesIO()
        torch.save(group.state_dict(), buffer)
        states[update] = buffer.getvalue()

    expected = group.run(batches(), qualities, on_update=save)
    for update, state in states.items():
        again = GroupedTrainer({name: trainer(name, **own) for name, own in names.items()})
        again.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        assert again.update == update
        found = again.run(batches(start=update), qualities)
        for name in names:
            same(found[name], expected[name])
            assert again.members[name].history == group.members[name].history


def test_a_member_that_diverges_is_named() -> None:
    group = GroupedTrainer({"steady": trainer("topk_relu"), "wild": trainer("relu", lr=1e30, grad_clip=1e30)})
    with pytest.raises(Diverged, match=r"^wild: The loss of an SAE must stay finite") as caught:
        group.run(batches(), qualities)
    assert caught.value.member == "wild"


def test_members_that_cannot_share_rows_are_refused() -> None:
    members = {"small": trainer("topk_relu"), "large": trainer("relu", batch=64)}
    with pytest.raises(ValueError, match=r"must have the same batch; got \{'small': 32, 'large': 64\}. Give each batch a stream"):
        GroupedTrainer(members)
    GroupedTrainer(members, streams={"small": "a", "large": "b"})


def test_a_stream_that_ends_too_early_is_named() -> None:
    group = GroupedTrainer({"one": trainer("topk_relu")}, streams={"one": "base"})
    with pytest.raises(ValueError, match="24 updates must be given as many batches; the stream 'base' ended after 3"):
        group.run(iter([planted_rows(32)] * 3), qualities)
