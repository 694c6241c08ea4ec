"""Updates of step-level SAEs: exact means, the published variant, schedule, controllers, and what an interruption may change."""

import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import original_step_sae as original
import pytest
import small_step_saes
import torch
from small_step_saes import made, micro_batches, settings
from torch import Tensor, nn

from sae_core.config.step_training import StepLegacy, StepTrainingConfig
from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE
from sae_core.training.records import Diverged
from sae_core.training.sparsity_control import PredictiveControl, SparsityTarget, StepwiseControl
from sae_core.training.step_legacy import masked_readout_terms
from sae_core.training.step_schedule import noise_stream, step_learning_rate
from sae_core.training.step_trainer import StepTrainer
from sae_core.training.step_update import StepNoise, step_terms
from workflow.step_saes import checkpoint_activations

AIM = SparsityTarget(2.0, start=1e-2)


def trainer(base: Path, *, control: Any = None, prior: bool = False, **given: Any) -> StepTrainer:
    return StepTrainer(made(base, prior=prior), settings(**given), control or StepwiseControl(AIM, every=2, factor=0.5))


def weights(found: StepTrainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in found.model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def gradients_of_update(found: StepTrainer, batches: Sequence[StepBatch], monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What the optimiser is given."""
    seen: dict[str, Tensor] = {}

    def keep(*_: object, **__: object) -> None:
        seen.update({name: parameter.grad.clone() for name, parameter in found.trained.items() if parameter.grad is not None})

    monkeypatch.setattr(found.optimiser, "step", keep)
    found.advance(batches)
    return seen


class TestExactMean:
    def test_the_gradient_is_that_of_the_whole_update_however_it_is_cut(
        self, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quiet = {"token_mask_rate": 0.0, "noise": 0.0, "grad_clip": 0.0}
        found = trainer(tiny_llama, **quiet)
        whole = small_step_saes.batch(range(7))
        terms = step_terms(found.model, whole, noise=None)
        loss = terms.nll / whole.predicted.sum() + AIM.start * terms.l1 / 7
        expected = dict(zip(found.trained, torch.autograd.grad(loss, list(found.trained.values())), strict=True))
        for size in (1, 3, 7):  # 3: the last micro-batch is a partial one
            given = gradients_of_update(trainer(tiny_llama, **quiet), micro_batches(7, size), monkeypatch)
            for name, gradient in expected.items():
                torch.testing.assert_close(given[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)

    def test_summed_micro_batches_are_those_of_the_published_code(self, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        given = {"token_mask_rate": 0.0, "noise": 0.0, "grad_clip": 0.0, "legacy": StepLegacy(sum_accumulation=True)}
        found = trainer(tiny_llama, **given)
        for batch in micro_batches(7, 3):
            one = original.forward(found.model, batch.ids, batch.real.long())
            rows = len(batch.length)
            loss = original.nll(one.logits, batch.ids, batch.predicted.float(), found.model.factor)
            (loss + AIM.start * one.sparsity / rows).backward()
        expected = {name: parameter.grad for name, parameter in found.trained.items()}
        seen = gradients_of_update(trainer(tiny_llama, **given), micro_batches(7, 3), monkeypatch)
        for name, gradient in expected.items():
            torch.testing.assert_close(seen[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)

    def test_losses_told_are_means_over_tokens_and_steps(self, tiny_qwen2: Path) -> None:
        found, whole = trainer(tiny_qwen2, token_mask_rate=0.0, noise=0.0), small_step_saes.batch(range(7))
        terms = step_terms(found.model, whole, noise=None)
        told = found.advance(micro_batches(7, 2))
        assert told.tokens == int(whole.predicted.sum())
        assert told.nll == pytest.approx(float(terms.nll.detach()) / told.tokens, rel=1e-5)
        assert told.l1 == pytest.approx(float(terms.l1.detach()) / 7, rel=1e-5)

    def test_checkpointed_activations_change_nothing(self, tiny_qwen2: Path) -> None:
        plain, sparing = trainer(tiny_qwen2), trainer(tiny_qwen2)
        checkpoint_activations(sparing.model)
        for found in (plain, sparing):
            found.advance(micro_batches(7, 3))
        assert equal(weights(plain), weights(sparing))


class TestPublishedTraining:
    """Parameters after a few updates in a fixed order, by the published procedure written out."""

    def test_a_few_updates_leave_the_same_weights(self, tiny_llama: Path) -> None:
        legacy = StepLegacy(masked_readout=True, sum_accumulation=True, local_controller=True)
        found = trainer(tiny_llama, legacy=legacy, lr=1e-3, min_lr=1e-4, epochs=2, updates_per_epoch=2)
        model = made(tiny_llama)
        model.train_phase(1)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
        control = StepwiseControl(AIM, every=2, factor=0.5)
        for update in range(4):
            found.advance(micro_batches(7, 3))
            optimiser.param_groups[0]["lr"] = step_learning_rate(update, found.config)
            for place, batch in enumerate(micro_batches(7, 3)):
                published_loss(model, batch, noise_stream(found.config.seed, 0, update, place), control).backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad()
        assert found.control.weight == control.weight != AIM.start
        for (name, one), (_, other) in zip(found.model.named_parameters(), model.named_parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")

    @pytest.mark.parametrize("factor", [1, 2])
    def test_masked_readout_has_the_published_loss_and_gradients(self, tiny_qwen2: Path, factor: int) -> None:
        model, batch = made(tiny_qwen2, factor), small_step_saes.batch(range(5))
        model.train_phase(1)
        drawn = torch.rand(batch.ids.shape, generator=torch.Generator().manual_seed(3))
        drawn[:, 7] = 0.01  # a token is hidden in most rows
        mask = original.token_masked(batch.real.long(), batch.start.tolist(), batch.length.tolist(), drawn)
        assert int((batch.real.long() - mask).sum()) >= 4
        ours = masked_readout_terms(model, batch, noise=StepNoise(0.1, 0.0), drawn=drawn)
        theirs = original.forward(model, batch.ids, mask)
        tokens = batch.predicted.sum()
        published = original.nll(theirs.logits, batch.ids, batch.predicted.float(), factor) + 0.3 * theirs.sparsity / 5
        loss = ours.nll / tokens + 0.3 * ours.l1 / 5
        torch.testing.assert_close(loss, published, rtol=1e-6, atol=0)
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        expected = torch.autograd.grad(published, list(trained.values()))
        for name, one, other in zip(trained, torch.autograd.grad(loss, list(trained.values())), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def published_loss(model: StepSAE, batch: StepBatch, draw: torch.Generator, control: StepwiseControl) -> Tensor:
    drawn = torch.rand(batch.ids.shape, generator=draw)
    mask = original.token_masked(batch.real.long(), batch.start.tolist(), batch.length.tolist(), drawn)
    noise = 0.01 * torch.randn(len(mask), model.d_code, generator=draw)
    one = original.forward(model, batch.ids, mask, noise[:, None])
    loss = original.nll(one.logits, batch.ids, batch.predicted.float(), model.factor)
    total = loss + control.weight * one.sparsity / len(mask)
    control.observe(float(one.sparsity.detach()) / len(mask))
    return total


class TestSchedule:
    def test_rates_per_epoch_are_the_published_ones(self) -> None:
        config = StepTrainingConfig(updates_per_epoch=3, epochs=32, lr=1e-6, min_lr=1e-7)
        rates = [step_learning_rate(3 * epoch + 2, config) for epoch in range(32)]
        assert rates[:3] == pytest.approx([1e-6 / 3, 2e-6 / 3, 1e-6])
        assert rates[16] == pytest.approx(1e-7 + 0.5 * 9e-7)  # half-way from 2 to 30
        assert rates[30] == pytest.approx(1e-7)
        assert rates[31] == 1e-7
        assert rates == [step_learning_rate(3 * epoch, config) for epoch in range(32)]

    def test_rates_per_update_are_the_same_curve_with_a_finer_clock(self) -> None:
        config = StepTrainingConfig(updates_per_epoch=50, epochs=30, lr=1.0, min_lr=0.1, schedule_per="update")
        rates = [step_learning_rate(update, config) for update in range(config.updates)]
        assert rates[0] == pytest.approx(1 / 101)
        assert all(later > earlier for earlier, later in itertools.pairwise(rates[:101]))
        assert all(later < earlier for earlier, later in itertools.pairwise(rates[100:]))
        assert rates[800] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))


class TestController:
    def test_the_published_one_sees_every_micro_batch_and_ours_the_update(self, tiny_qwen2: Path) -> None:
        stepwise, ours = Seen(), Mean()
        for control, size in ((stepwise, 3), (ours, 3)):
            told = trainer(tiny_qwen2, control=control).advance(micro_batches(7, size))
            sizes = [3, 3, 1] if control is stepwise else [7]
            assert len(control.seen) == len(sizes)
            mean = sum(l1 * size for l1, size in zip(control.seen, sizes, strict=True)) / 7
            assert mean == pytest.approx(told.l1)

    def test_its_weight_stands_in_the_loss(self, tiny_qwen2: Path) -> None:
        found = {}
        for weight in (1e-6, 10.0):
            one = trainer(tiny_qwen2, control=PredictiveControl(SparsityTarget(1.0, start=weight, high=100.0)), lr=1e-2)
            found[weight] = [one.advance(micro_batches(7, 3)).l1 for _ in range(6)][-1]
        assert found[10.0] < found[1e-6] - 0.1


class Seen(StepwiseControl):
    def __init__(self) -> None:
        super().__init__(AIM)
        self.seen: list[float] = []

    def observe(self, l1: float) -> None:
        self.seen.append(l1)


class Mean(PredictiveControl):
    def __init__(self) -> None:
        super().__init__(AIM)
        self.seen: list[float] = []

    def observe(self, l1: float) -> None:
        self.seen.append(l1)


@pytest.mark.parametrize("phase", [1, 2, 3])
def test_going_on_from_any_update_gives_the_same_bits(tiny_llama: Path, phase: int) -> None:
    def made_trainer() -> StepTrainer:
        control = PredictiveControl(AIM) if phase == 1 else StepwiseControl(AIM)
        return trainer(tiny_llama, control=control, prior=phase > 1, phase=phase, lr=1e-3)

    straight = made_trainer()
    states, told = [], []
    for _ in range(4):
        states.append(torch_round_trip(straight.state_dict()))
        told.append(straight.advance(micro_batches(7, 3)))
    for done in (0, 1, 3):
        again = made_trainer()
        again.advance(micro_batches(5, 5))  # another past
        again.load_state_dict(states[done])
        assert [again.advance(micro_batches(7, 3)) for _ in range(4 - done)] == told[done:]
        assert equal(weights(again), weights(straight))
        assert again.control.state() == straight.control.state()


def torch_round_trip(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize(("phase", "moving"), [(2, ("hints_encoder", "mean_mlp", "var_mlp")), (3, ("var_mlp",))])
def test_later_phases_learn_the_prior_and_leave_the_codes(tiny_qwen2: Path, phase: int, moving: tuple[str, ...]) -> None:
    found = trainer(tiny_qwen2, prior=True, phase=phase, lr=1e-2, updates_per_epoch=10, warmup_epochs=0.0)
    before = weights(found)
    first, *_, last = [found.advance(micro_batches(7, 3)).nll for _ in range(10)]
    assert last < first - 0.1
    changed = {name.split(".")[0] for name, tensor in weights(found).items() if not torch.equal(tensor, before[name])}
    assert changed == set(moving)


def test_phase_1_reconstructs_and_evaluates_without_noise(tiny_qwen2: Path) -> None:
    found = trainer(tiny_qwen2, lr=3e-3, updates_per_epoch=30, warmup_epochs=0.0)
    batches = micro_batches(7, 3)
    before = found.evaluate(batches)
    assert before == found.evaluate(batches)
    whole = small_step_saes.batch(range(7))
    code = found.model.encode(whole)
    assert before.l0 == pytest.approx(float((code > 0).sum()) / 7)
    assert before.active_share == pytest.approx(before.l0 / found.model.d_code)
    for _ in range(30):
        found.advance(batches)
    assert found.evaluate(batches).nll < 0.7 * before.nll


def test_noisy_evaluation_is_asked_for(tiny_qwen2: Path) -> None:
    found = [trainer(tiny_qwen2, noise=0.1, legacy=StepLegacy(eval_noise=noisy)) for noisy in (False, True)]
    clean, noisy = (one.evaluate(micro_batches(7, 3)) for one in found)
    assert noisy.nll != clean.nll
    assert noisy.l1 == clean.l1
    assert noisy == found[1].evaluate(micro_batches(7, 3))


def test_bf16_products_agree_to_their_rounding(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, rounded = (
        gradients_of_update(trainer(tiny_llama, precision=precision, grad_clip=0.0), micro_batches(7, 3), monkeypatch)
        for precision in ("fp32", "bf16")
    )
    assert {gradient.dtype for gradient in rounded.values()} == {torch.float32}
    one, other = (torch.cat([gradient.flatten() for gradient in found.values()]) for found in (exact, rounded))
    assert 1e-5 < float((other - one).norm() / one.norm()) < 0.05


@pytest.mark.parametrize("spoil", ["weight", "limit"])
def test_a_loss_that_is_not_finite_stops_before_the_state_is_touched(tiny_qwen2: Path, spoil: str) -> None:
    found = trainer(tiny_qwen2)
    found.advance(micro_batches(7, 3))
    found.model.projection_mlp[2].bias.data[0] = math.nan if spoil == "weight" else 1e38
    if spoil == "limit":
        found.model.autoencoder.latent_bias.data[3] = math.inf
    before, weight = weights(found), found.control.weight
    with pytest.raises(Diverged, match=r"in update 2, the loss of its micro-batches 0, 1, 2 of 3 is not.*Lower the learning rate"):
        found.advance(micro_batches(7, 3))
    after = weights(found)
    assert all(torch.equal(after[name], before[name]) or before[name].isnan().any() for name in before)
    assert (found.update, found.control.weight) == (1, weight)


def test_weights_in_bfloat16_are_refused(tiny_qwen2: Path) -> None:
    with pytest.raises(ValueError, match=r"must be float32; got torch\.bfloat16"):
        StepTrainer(made(tiny_qwen2).bfloat16(), settings(), StepwiseControl(AIM))


class TestMoments:
    def test_a_released_state_goes_on_as_its_own_optimiser(self, tiny_llama: Path) -> None:
        found = trainer(tiny_llama, lr=1e-3, token_mask_rate=0.0, noise=0.0, grad_clip=0.0, warmup_epochs=0.0)
        found.advance(micro_batches(7, 7))
        other = torch.optim.AdamW(found.trained.values(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
        other.load_state_dict(found.optimiser.state_dict())
        stored = other.state_dict()["state"]
        moments = {f"{place}.{name}": tensor for place, state in stored.items() for name, tensor in state.items()}
        again = trainer(tiny_llama)
        again.load_moments(moments)
        assert torch.equal(again.moments()["5.exp_avg"], found.moments()["5.exp_avg"])
        assert float(again.moments()["0.step"]) == 1

    def test_of_another_model_they_are_refused(self, tiny_llama: Path, tiny_qwen2: Path) -> None:
        found = trainer(tiny_llama)
        found.advance(micro_batches(7, 7))
        with pytest.raises(ValueError, match=r"tensors that phase 1 trains; it is of \d+"):
            trainer(tiny_qwen2).load_moments(found.moments())
        swapped = found.moments() | {"0.exp_avg": torch.zeros(3)}
        with pytest.raises(ValueError, match=r"number 0 is \(3,\) and encoder\.embed_tokens\.weight is"):
            trainer(tiny_llama).load_moments(swapped)
