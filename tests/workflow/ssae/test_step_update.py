"""Terms of the loss of step-level SAEs: equal to the published loss where that has no defect, and what noise may do."""

from pathlib import Path

import original_step_sae as original
import pytest
import torch

from sae_core.models.step_batch import StepBatch
from sae_core.models.step_prior import prior
from sae_core.models.step_sae import StepSAE
from sae_core.training.step_update import StepNoise, prior_terms, step_terms, visible
from workflow.step_saes import fresh_step_sae
from workflow.step_tokens import step_tokenizer


def made(base: Path, factor: int = 2) -> StepSAE:
    torch.manual_seed(0)
    return fresh_step_sae(base, factor=factor, blocks=None, vocab=step_tokenizer(base).vocab, prior=True)


def steps() -> StepBatch:
    draw = torch.Generator().manual_seed(1)
    start = torch.tensor([4, 9, 2, 12])
    length = start + torch.tensor([6, 2, 11, 3])
    return StepBatch(torch.randint(3, 200, (4, int(length.max())), generator=draw), start, length)


def test_loss_and_gradients_equal_the_published_ones_where_no_token_is_hidden(tiny_llama: Path) -> None:
    model, batch = made(tiny_llama), steps()
    model.train_phase(1)
    found = step_terms(model, batch, noise=None)
    scored = batch.predicted
    ours = found.nll / scored.sum() + 0.3 * found.l1 / 4
    theirs = original.forward(model, batch.ids, batch.real.long())
    published = original.nll(theirs.logits, batch.ids, scored.float(), 2) + 0.3 * theirs.sparsity / 4
    torch.testing.assert_close(ours, published, rtol=1e-6, atol=0)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = torch.autograd.grad(published, list(trained.values()))
    for name, one, other in zip(trained, torch.autograd.grad(ours, list(trained.values())), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_sums_over_two_batches_are_those_of_one(tiny_qwen2: Path) -> None:
    model, batch = made(tiny_qwen2), steps()
    whole = step_terms(model, batch, noise=None)
    parts = [step_terms(model, StepBatch(*(tensor[rows] for tensor in batch)), noise=None) for rows in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(sum(part.nll for part in parts), whole.nll)
    torch.testing.assert_close(sum(part.l1 for part in parts), whole.l1)


def test_noise_repeats_with_its_seed_and_is_absent_without(tiny_qwen2: Path) -> None:
    model, batch = made(tiny_qwen2), steps()
    first, again, other = (
        step_terms(model, batch, noise=StepNoise(0.3, 0.1), draw=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.nll, again.nll)
    assert not torch.equal(first.nll, other.nll)
    silent = step_terms(model, batch, noise=StepNoise(0.0, 0.0), draw=torch.Generator().manual_seed(1))
    assert torch.equal(silent.nll, step_terms(model, batch, noise=None).nll)


def test_hidden_tokens_are_those_of_steps_at_the_stated_rate() -> None:
    batch = StepBatch(torch.zeros(400, 40, dtype=torch.long), torch.full((400,), 15), torch.full((400,), 35))
    seen = visible(batch, 0.1, torch.Generator().manual_seed(0))
    assert seen[:, :15].all()  # context and separator
    assert seen[:, 34].all()  # the end, where the code is read
    assert not seen[:, 35:].any()  # padding
    assert 1 - float(seen[:, 15:34].float().mean()) == pytest.approx(0.1, abs=0.01)


def test_a_hidden_token_changes_nothing(tiny_qwen2: Path) -> None:
    """What is hidden is not read by the encoder; it stays the label of its own position in the decoder."""
    model, batch = made(tiny_qwen2), steps()
    attends = batch.real.clone()
    attends[0, 5] = False
    changed = batch.ids.clone()
    changed[0, 5] = 7
    assert torch.equal(model.encode(batch, attends), model.encode(batch._replace(ids=changed), attends))


@pytest.mark.parametrize("values", [(1.0, 0.0), (-0.1, 0.0), (0.1, -1.0)])
def test_impossible_noise_is_refused(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="share of tokens below 1"):
        StepNoise(*values)


class TestPriorTerms:
    @pytest.mark.parametrize("phase", [2, 3])
    def test_move_the_prior_alone(self, tiny_qwen2: Path, phase: int) -> None:
        model, batch = made(tiny_qwen2), steps()
        model.train_phase(phase)
        found = prior_terms(model, batch)
        found.nll.backward()
        moved = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert moved == ({"hints_encoder", "mean_mlp", "var_mlp"} if phase == 2 else {"var_mlp"})
        assert float(found.l1) == 0

    def test_are_sums_over_steps(self, tiny_qwen2: Path) -> None:
        model, batch = made(tiny_qwen2), steps()
        torch.testing.assert_close(prior_terms(model, batch).nll, 4 * prior(model, batch).nll(model.encode(batch)))

    def test_reproduce_the_published_third_phase(self, tiny_qwen2: Path) -> None:
        model, batch = made(tiny_qwen2), steps()
        with torch.no_grad():
            raw = torch.relu(
                model.autoencoder.encoder(
                    torch.stack(
                        [
                            model.encoder(input_ids=batch.ids, attention_mask=batch.real.long()).last_hidden_state[
                                row, int(end) - 1
                            ]
                            for row, end in enumerate(batch.length)
                        ]
                    )
                )
                + model.autoencoder.latent_bias
            )
            context = batch.context()
            hidden = model.hints_encoder(input_ids=context.ids, attention_mask=context.real.long()).last_hidden_state
            pooled = torch.stack([hidden[row, : int(end)].mean(0) for row, end in enumerate(context.length)])
            mean, log_variance = model.mean_mlp(pooled), model.var_mlp(pooled)
            truth = -torch.distributions.Normal(mean, (0.5 * log_variance).exp()).log_prob(raw).mean()
            torch.testing.assert_close(prior_terms(model, batch, pooled=True, raw=True).nll / 4, truth, rtol=1e-4, atol=1e-5)
