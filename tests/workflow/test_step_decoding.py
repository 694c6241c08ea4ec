"""Steps written from codes: what the uncached original writes, row by row; codes swapped, changed, drawn from the prior."""

from pathlib import Path

import numpy as np
import original_step_sae as original
import pytest
import torch
from steps_in_use import END, SEPARATOR, random_texts, small_step_sae
from torch import Tensor

from sae_core.models.step_codes import between, with_latents, with_scaled_latents
from sae_core.models.step_prior import prior
from sae_core.models.step_sae import StepSAE
from workflow.config.section import ConfigError
from workflow.decoding import choose_tokens
from workflow.sampling import Sampled, SamplingSettings
from workflow.step_decoding import GREEDY, codes_from_prior, decode_steps, top_k_over_top_p
from workflow.step_encoding import StepIds

ROWS, NEW = 7, 10
SHORT = GREEDY._replace(max_new_tokens=NEW, batch=4)
DRAWN = SamplingSettings(temperature=1.0, top_p=0.9, max_new_tokens=NEW, batch=4, seed=5, top_k=50)
CONTEXTS = random_texts(ROWS, 1, 14, seed=1)


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def base(request: pytest.FixtureRequest, tiny_qwen2: Path, tiny_llama: Path) -> Path:
    return {"qwen2": tiny_qwen2, "llama": tiny_llama}[request.param]


@pytest.fixture(scope="module", params=[1, 2, 4])
def model(request: pytest.FixtureRequest, base: Path) -> StepSAE:
    return small_step_sae(base, request.param)


@pytest.fixture(scope="module")
def one(tiny_llama: Path) -> StepSAE:
    return small_step_sae(tiny_llama, 2, prior=True)


def codes_of(model: StepSAE, seed: int = 2) -> Tensor:
    return model.encode(StepIds(CONTEXTS, random_texts(ROWS, 1, 9, seed), separator=SEPARATOR, end=END).batch(range(ROWS)))


def written(model: StepSAE, codes: Tensor, settings: SamplingSettings = SHORT, end: int = END, **given: object) -> list[Sampled]:
    contexts = given.pop("contexts", CONTEXTS)
    return decode_steps(
        model=model, codes=codes, contexts=contexts, separator=SEPARATOR, end=end, settings=settings, **given,
    )  # fmt: skip


def tokens(sampled: list[Sampled]) -> list[list[int]]:
    return [one.tokens for one in sampled]


def without_end(sampled: Sampled) -> list[int]:
    return sampled.tokens[:-1] if sampled.finished else sampled.tokens


def test_greedy_is_what_the_uncached_original_writes(model: StepSAE) -> None:
    """Rows that end early and rows that meet the limit, with soft tokens of every width."""
    codes = codes_of(model)
    end = tokens(written(model, codes))[1][3]  # some rows write it, others do not
    found = written(model, codes, end=end)
    sequences = [[*context, SEPARATOR] for context in CONTEXTS]
    theirs = original.greedy(model, codes, sequences, first=-1, end=end, pad=-2, new_tokens=NEW)
    assert [without_end(one) for one in found] == [[token for token in row[1:] if token != -2] for row in theirs]
    assert {one.finished for one in found} == {True, False}
    assert all(one.finished == (one.tokens[-1] == end) for one in found)
    assert max(len(one.tokens) for one in found if one.finished) <= NEW
    assert {len(one.tokens) for one in found if not one.finished} == {NEW}


@pytest.mark.parametrize("settings", [SHORT, DRAWN], ids=["greedy", "drawn"])
def test_a_row_does_not_depend_on_its_neighbours(model: StepSAE, settings: SamplingSettings) -> None:
    codes = codes_of(model)
    names = [f"step {row}" for row in range(ROWS)]
    together = written(model, codes, settings, streams=names)
    assert len({tuple(one.tokens) for one in together}) > ROWS // 2, "rows alike would show nothing"
    for batch in (1, ROWS):
        assert tokens(written(model, codes, settings._replace(batch=batch), streams=names)) == tokens(together)
    order = [4, 0, 6, 2]
    some = written(model, codes[order], settings, contexts=[CONTEXTS[row] for row in order], streams=[names[row] for row in order])
    assert tokens(some) == [together[row].tokens for row in order]
    for first, second in zip(some, order, strict=True):
        np.testing.assert_allclose(first.logprobs, together[second].logprobs, atol=1e-4)


def test_draws_follow_the_seed_and_the_stream(one: StepSAE) -> None:
    codes = codes_of(one)
    same, again, other = (written(one, codes, DRAWN._replace(seed=seed)) for seed in (5, 5, 6))
    assert tokens(same) == tokens(again) != tokens(other)
    alike = written(one, codes[:1].expand(3, -1), DRAWN, contexts=CONTEXTS[:1] * 3, streams=["a", "a", "b"])
    assert alike[0].tokens == alike[1].tokens != alike[2].tokens


def test_a_swapped_code_writes_its_own_step_behind_another_context(one: StepSAE) -> None:
    mine, other = codes_of(one), codes_of(one).roll(1, 0)
    swapped = written(one, other)
    sequences = [[*context, SEPARATOR] for context in CONTEXTS]
    assert tokens(swapped) != tokens(written(one, mine))
    theirs = original.greedy(one, other, sequences, first=-1, end=END, pad=-2, new_tokens=NEW)
    assert [without_end(row) for row in swapped] == [[token for token in row[1:] if token != -2] for row in theirs]


def test_new_tokens_stop_at_the_limit_and_unlike_sizes_are_refused(one: StepSAE) -> None:
    codes = codes_of(one)
    with pytest.raises(ValueError, match="one code of 128 latents for each of the 7 contexts"):
        written(one, codes[:-1])
    with pytest.raises(ValueError, match=r"got 1 for 7"):
        written(one, codes, streams=["a"])
    with pytest.raises(ConfigError, match="fit into the 512 positions of the decoder; they can become"):
        written(one, codes, SHORT._replace(max_new_tokens=510))
    assert written(one, codes[:0], contexts=[]) == []


def test_top_k_and_top_p_are_both_applied_unless_the_original_is_asked_for() -> None:
    probs = torch.tensor([0.4, 0.3, 0.2, 0.06, 0.04])
    logits, numbers = probs.log().expand(2000, -1), torch.linspace(0, 0.9999, 2000, dtype=torch.float64)

    def drawn(settings: SamplingSettings) -> set[int]:
        return set(choose_tokens(logits, numbers, 1.0, settings.top_p, settings.top_k)[0].tolist())

    both = DRAWN._replace(top_k=3, top_p=0.5)
    assert drawn(both) == {0, 1}  # 4/9 of the three is not yet half
    assert drawn(top_k_over_top_p(both)) == {0, 1, 2}
    assert drawn(both._replace(top_k=0)) == {0, 1}
    assert drawn(both._replace(top_p=1.0, top_k=0)) == drawn(both._replace(top_p=1.0, top_k=9)) == {0, 1, 2, 3, 4}
    assert top_k_over_top_p(both._replace(top_k=0)).top_p == 0.5
    shares = torch.bincount(choose_tokens(logits, numbers, 1.0, 0.5, 3)[0]) / 2000
    torch.testing.assert_close(shares, torch.tensor([4 / 7, 3 / 7]), atol=1e-3, rtol=0)


def test_bfloat16_weights_write_too(one: StepSAE) -> None:
    half = small_step_sae(Path(one.decoder.config._name_or_path), 2).bfloat16()
    assert all(len(row) == NEW for row in tokens(written(half, codes_of(one))))


class TestPrior:
    def test_codes_belong_to_their_stream_and_not_to_their_batch(self, one: StepSAE) -> None:
        def drawn(**given: object) -> Tensor:
            asked = {"contexts": CONTEXTS, "seed": 3, **given}
            return codes_from_prior(model=one, separator=SEPARATOR, **asked)

        whole = drawn()
        torch.testing.assert_close(drawn(batch=2), whole, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(drawn(contexts=CONTEXTS[4:5], streams=["4"]), whole[4:5], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(drawn(seed=4), whole)
        assert (whole >= 0).all()
        torch.testing.assert_close(whole.norm(dim=-1), torch.ones(ROWS))
        raw = drawn(normalise=False)
        torch.testing.assert_close(raw / raw.norm(dim=-1, keepdim=True), whole)
        assert not torch.allclose(raw.norm(dim=-1), torch.ones(ROWS), atol=0.1)
        with pytest.raises(ValueError, match="got 2 for 7"):
            drawn(streams=["a", "b"])

    def test_codes_are_spread_as_the_prior_says(self, one: StepSAE) -> None:
        found = codes_from_prior(model=one, contexts=CONTEXTS[:1] * 2000, separator=SEPARATOR, seed=0, normalise=False, batch=500)
        expected = prior(one, StepIds(CONTEXTS[:1], [[5]], separator=SEPARATOR, end=END).batch([0]))
        mean, deviation = expected.mean[0], (0.5 * expected.log_variance[0]).exp()
        drawn = torch.relu(mean + deviation * torch.randn(20000, len(mean), generator=torch.Generator().manual_seed(0)))
        torch.testing.assert_close(found.mean(0), drawn.mean(0), rtol=0, atol=5 * float(deviation.max()) / 2000**0.5)

    def test_an_ssae_without_hints_encoder_is_refused(self, tiny_llama: Path) -> None:
        with pytest.raises(ValueError, match="loaded without it"):
            codes_from_prior(model=small_step_sae(tiny_llama), contexts=CONTEXTS, separator=SEPARATOR, seed=0)


class TestChangedCodes:
    CODE = torch.nn.functional.normalize(torch.tensor([[3.0, 0.0, 4.0, 1.0], [0.0, 2.0, 0.0, 1.0]]), dim=-1)

    def test_latents_are_set_scaled_and_silenced(self) -> None:
        kept = with_latents(self.CODE, {1: 0.5, 2: 0.0}, normalise=False)
        assert kept[:, 1].tolist() == [0.5, 0.5]
        assert kept[:, 2].tolist() == [0.0, 0.0]
        assert torch.equal(kept[:, [0, 3]], self.CODE[:, [0, 3]])
        scaled = with_scaled_latents(self.CODE, {0: 2.0, 3: 0.0}, normalise=False)
        assert torch.equal(scaled[:, 0], 2 * self.CODE[:, 0])
        assert torch.equal(scaled[:, 3], torch.zeros(2))
        assert torch.equal(self.CODE[:, 1], scaled[:, 1])

    def test_changed_codes_have_length_1_again_and_keep_their_proportions(self) -> None:
        changed = with_latents(self.CODE, {2: 0.0})
        torch.testing.assert_close(changed.norm(dim=-1), torch.ones(2))
        torch.testing.assert_close(changed[0, 0] / changed[0, 3], torch.tensor(3.0))
        torch.testing.assert_close(with_scaled_latents(self.CODE, {0: 1.0}), self.CODE)
        silent = with_latents(self.CODE[:1], dict.fromkeys(range(4), 0.0))
        assert torch.equal(silent, torch.zeros(1, 4))

    def test_codes_between_two_begin_with_the_first_and_end_with_the_second(self) -> None:
        first, second = self.CODE[:1], self.CODE[1:]
        torch.testing.assert_close(between(first, second, 0.0), first)
        torch.testing.assert_close(between(first, second, 1.0), second)
        half = between(first, second, 0.5, normalise=False)
        torch.testing.assert_close(half, (first + second) / 2)
        torch.testing.assert_close(between(first, second, 0.5), half / half.norm())

    @pytest.mark.parametrize("numbers", [{4: 1.0}, {-1: 1.0}, {0: -0.1}, {0: float("nan")}])
    def test_what_no_code_can_hold_is_refused(self, numbers: dict[int, float]) -> None:
        for change in (with_latents, with_scaled_latents):
            with pytest.raises(ValueError, match="Latents must be 0 to 3 and their numbers 0 or more"):
                change(self.CODE, numbers)

    def test_a_changed_code_changes_what_is_written(self, one: StepSAE) -> None:
        codes = codes_of(one)
        loud = with_latents(codes, {int(codes.sum(0).argmin()): 1.0})
        assert tokens(written(one, loud)) != tokens(written(one, codes))
