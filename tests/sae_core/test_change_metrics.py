"""The change of paired rows: shares add up, spans are those of the chosen directions, streams merge."""

import functools

import pytest
import torch

from sae_core.metrics.change import ChangeSums, change_sums, decoder_span, inside_share, mean_shift_share, mean_squared_change
from sae_core.metrics.prompt_sums import total

D, PROMPTS = 10, 6


def world(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    before = 20 * torch.randn(203, D, generator=draw, dtype=torch.float64) + 100
    after = before + torch.randn(203, D, generator=draw, dtype=torch.float64) + 0.5
    return before, after, torch.randint(PROMPTS, (203,), generator=draw)


def decoder(latents: int = 23, seed: int = 3) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(latents, D, generator=torch.Generator().manual_seed(seed)), dim=1)


def close(a: torch.Tensor, b: torch.Tensor | float, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b, dtype=torch.float64), rtol=rtol, atol=atol)


def test_each_share_equals_its_definition() -> None:
    before, after, prompt = world()
    span, delta = decoder_span(decoder(), torch.arange(23), 4), after - before
    sums = change_sums(before, after, prompt, PROMPTS, [span, span[:, :2]])
    close(mean_squared_change(sums), delta.square().sum(1).mean())
    close(mean_shift_share(sums), (after.mean(0) - before.mean(0)).square().sum() / delta.square().sum(1).mean())
    projected = delta @ torch.linalg.pinv(decoder()[-4:].double()) @ decoder()[-4:].double()
    close(inside_share(sums)[0], projected.square().sum() / delta.square().sum(), rtol=1e-6)


def test_shift_and_centred_change_add_up() -> None:
    before, after, prompt = world()
    sums, delta = change_sums(before, after, prompt, PROMPTS, []), after - before
    centred = (delta - delta.mean(0)).square().sum() / delta.square().sum()
    close(mean_shift_share(sums), 1 - centred)
    assert inside_share(sums).shape == (0,)


def test_a_pure_shift_has_share_one_and_a_centred_change_share_zero() -> None:
    before, after, prompt = world()
    shifted = change_sums(before, before + torch.arange(D), prompt, PROMPTS, [])
    close(mean_shift_share(shifted), 1.0)
    delta = after - before
    close(mean_shift_share(change_sums(before, before + delta - delta.mean(0), prompt, PROMPTS, [])), 0.0)


def test_a_change_along_the_dictionary_lies_inside_and_one_across_it_outside() -> None:
    before, after, prompt = world()
    span = decoder_span(decoder(), torch.arange(23).flip(0), 4)
    along = before + (after - before) @ span @ span.T
    close(inside_share(change_sums(before, along, prompt, PROMPTS, [span]))[0], 1.0)
    across = after - (after - before) @ span @ span.T
    close(inside_share(change_sums(before, across, prompt, PROMPTS, [span]))[0], 0.0)


def test_an_isotropic_change_has_the_share_of_the_rank() -> None:
    draw = torch.Generator().manual_seed(0)
    delta = torch.randn(40_000, D, generator=draw)
    span = decoder_span(decoder(), torch.ones(23), 3)
    sums = change_sums(torch.zeros_like(delta), delta, torch.zeros(40_000, dtype=torch.int64), 1, [span])
    assert float(inside_share(sums)) == pytest.approx(3 / D, abs=0.01)


def test_nothing_changed_has_no_shares() -> None:
    before, _, prompt = world()
    sums = change_sums(before, before, prompt, PROMPTS, [decoder_span(decoder(), torch.ones(23), 2)])
    assert mean_squared_change(sums) == 0
    assert mean_shift_share(sums).isnan()
    assert inside_share(sums).isnan().all()


def test_a_span_takes_the_heaviest_directions_once() -> None:
    weights = decoder()
    weights[5] = -weights[8]
    heavy = torch.zeros(23, dtype=torch.int64)
    heavy[[5, 8, 11]] = 7
    span = decoder_span(weights, heavy, 3)
    assert span.shape == (D, 2)
    close(span.T @ span, torch.eye(2))
    close((weights[11].double() @ span).square().sum(), weights[11].double().square().sum())
    assert decoder_span(weights, heavy, 23).shape == (D, D)


@pytest.mark.parametrize("directions", [0, 24])
def test_a_span_of_no_or_too_many_directions_is_refused(directions: int) -> None:
    with pytest.raises(ValueError, match=rf"between 1 and d_sae = 23 directions; got {directions}\. Ask for"):
        decoder_span(decoder(), torch.ones(23), directions)


def test_batches_and_their_order_do_not_matter() -> None:
    before, after, prompt = world()
    span = [decoder_span(decoder(), torch.ones(23), 3)]
    order = torch.randperm(len(before), generator=torch.Generator().manual_seed(1))
    parts = [change_sums(before[i], after[i], prompt[i], PROMPTS, span) for i in order.split(19)]
    streamed = functools.reduce(lambda x, y: x + y, parts, ChangeSums.zeros(PROMPTS, D, 1))
    for mine, theirs in zip(streamed, change_sums(before, after, prompt, PROMPTS, span), strict=True):
        close(mine, theirs, atol=1e-9)


def test_a_prompt_of_weight_two_counts_like_two_copies_of_its_rows() -> None:
    before, after, prompt = world()
    span = [decoder_span(decoder(), torch.ones(23), 3)]
    weights = torch.tensor([[1, 1, 1, 1, 1, 1], [2, 0, 1, 1, 3, 0]])
    sums = change_sums(before, after, prompt, PROMPTS, span)
    copies = torch.cat([torch.nonzero(prompt == p).flatten().repeat(int(w)) for p, w in enumerate(weights[1])])
    again = change_sums(before[copies], after[copies], prompt[copies], PROMPTS, span)
    for measure in (mean_squared_change, mean_shift_share, inside_share):
        close(measure(sums, weights)[0], measure(sums))
        close(measure(sums, weights)[1], measure(again))
    close(total(sums.n, weights.double()), total(sums.n, weights))


def test_float32_rows_agree_with_float64_rows() -> None:
    before, after, prompt = world()
    span = [decoder_span(decoder(), torch.ones(23), 3)]
    single, double = (change_sums(before.to(t), after.to(t), prompt, PROMPTS, span) for t in (torch.float32, torch.float64))
    for measure in (mean_squared_change, mean_shift_share, inside_share):
        close(measure(single), measure(double), rtol=1e-5)
