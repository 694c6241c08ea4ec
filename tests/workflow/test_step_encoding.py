"""Encoding many steps: the published codes, whatever goes together in a batch, in the order of the steps."""

import logging
from pathlib import Path

import numpy as np
import original_step_sae as original
import pytest
import torch
from steps_in_use import END, SEPARATOR, random_texts, small_step_sae

from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE
from workflow.step_encoding import EncodingSettings, StepIds, encode_steps, encoded_blocks

COUNT = 60
SMALL = EncodingSettings(batch_tokens=128)


@pytest.fixture(scope="module", params=[("qwen2", 1), ("llama", 2), ("qwen2", 4)], ids=str)
def model(request: pytest.FixtureRequest, tiny_qwen2: Path, tiny_llama: Path) -> StepSAE:
    family, factor = request.param
    return small_step_sae({"qwen2": tiny_qwen2, "llama": tiny_llama}[family], factor)


@pytest.fixture(scope="module")
def steps() -> StepIds:
    return StepIds(random_texts(COUNT, 0, 40, seed=1), random_texts(COUNT, 1, 20, seed=2), separator=SEPARATOR, end=END)


def alone(model: StepSAE, steps: StepIds) -> torch.Tensor:
    """Every step by itself, as the published code computes it."""
    batches = [steps.batch([number]) for number in range(len(steps))]
    return torch.cat([original.codes(model, batch.ids, batch.real.long())[:, 0] for batch in batches])


def test_codes_are_the_published_ones_in_the_order_of_the_steps(model: StepSAE, steps: StepIds) -> None:
    wanted = alone(model, steps)
    assert len(torch.unique(wanted, dim=0)) == COUNT, "steps alike would show nothing"
    for settings in (SMALL, EncodingSettings(batch_tokens=1), EncodingSettings()):
        found = encode_steps(model=model, steps=steps, settings=settings)
        torch.testing.assert_close(found.dense(), wanted, rtol=1e-5, atol=1e-6)
    assert found.codes.dtype == np.float32
    assert found.codes.nnz == int((found.dense() > 0).sum())


def test_codes_of_a_batch_are_those_of_the_published_code_bit_by_bit(model: StepSAE, steps: StepIds) -> None:
    """All steps fit into one batch, longest first."""
    found = encode_steps(model=model, steps=steps, settings=EncodingSettings(batch_tokens=100_000)).dense()
    order = sorted(range(COUNT), key=lambda number: -int(steps.lengths()[number]))
    batch = steps.batch(order)
    assert torch.equal(found[order], original.codes(model, batch.ids, batch.real.long())[:, 0])


def test_blocks_follow_each_other_and_several_devices_change_nothing(model: StepSAE, steps: StepIds) -> None:
    whole = encode_steps(model=model, steps=steps, settings=SMALL).dense()
    shared = encode_steps(model=model, steps=steps, settings=SMALL._replace(devices=("cpu", "cpu", "cpu")))
    assert torch.equal(shared.dense(), whole)
    tiny = EncodingSettings(batch_tokens=2)
    blocks = list(encoded_blocks(model=model, steps=steps, settings=tiny))
    assert len(blocks) > 5
    torch.testing.assert_close(torch.from_numpy(np.vstack([block.toarray() for block in blocks])), whole, rtol=1e-5, atol=1e-6)


def test_only_a_block_is_read_ahead(model: StepSAE, steps: StepIds) -> None:
    read: list[int] = []

    class Watched:
        def __len__(self) -> int:
            return COUNT

        def lengths(self) -> np.ndarray:
            return steps.lengths()

        def batch(self, picked: list[int]) -> StepBatch:
            read.extend(picked)
            return steps.batch(picked)

    first = next(iter(encoded_blocks(model=model, steps=Watched(), settings=EncodingSettings(batch_tokens=2))))
    assert sorted(read) == list(range(first.shape[0]))
    assert first.shape[0] < COUNT // 3


def test_bf16_rounds_the_language_model_alone(model: StepSAE, steps: StepIds) -> None:
    exact, rounded = (
        encode_steps(model=model, steps=steps, settings=SMALL._replace(precision=precision)).dense()
        for precision in ("fp32", "bf16")
    )
    assert not torch.equal(rounded, exact)
    assert torch.cosine_similarity(rounded, exact).min() > 0.98
    torch.testing.assert_close(rounded.norm(dim=-1), torch.ones(COUNT))  # rounded to bfloat16, the lengths would be off by 1e-3


def test_speed_is_told_and_every_step_counted_once(model: StepSAE, steps: StepIds, caplog: pytest.LogCaptureFixture) -> None:
    told: list[int] = []
    with caplog.at_level(logging.INFO, logger="workflow.step_encoding"):
        found = encode_steps(model=model, steps=steps, settings=SMALL, progress=told.append)
    assert sum(told) == COUNT
    assert found.tokens == int(steps.lengths().sum())
    assert found.steps_per_second == pytest.approx(COUNT / found.seconds)
    assert "steps per s" in caplog.text


def test_a_failing_batch_ends_it(model: StepSAE) -> None:
    broken = StepIds([[1], [2]], [[3], [10_000]], separator=SEPARATOR, end=END)
    with pytest.raises(IndexError):
        encode_steps(model=model, steps=broken, settings=SMALL)


def test_no_steps_give_no_codes(model: StepSAE) -> None:
    found = encode_steps(model=model, steps=StepIds([], [], separator=SEPARATOR, end=END))
    assert found.dense().shape == (0, model.d_code)


def test_ids_that_make_no_step_are_refused() -> None:
    with pytest.raises(ValueError, match="2 steps, 1 of them empty, and 2 contexts"):
        StepIds([[1], []], [[1], []], separator=SEPARATOR, end=END)
    with pytest.raises(ValueError, match="1 steps, 0 of them empty, and 2 contexts"):
        StepIds([[1], []], [[1]], separator=SEPARATOR, end=END)


def test_a_sequence_is_context_separator_step_end() -> None:
    batch = StepIds([[5, 6], []], [[7], [8, 9]], separator=SEPARATOR, end=END).batch([1, 0])
    assert batch.ids.tolist() == [[SEPARATOR, 8, 9, END, 0], [5, 6, SEPARATOR, 7, END]]
    assert (batch.start.tolist(), batch.length.tolist()) == ([1, 3], [4, 5])
