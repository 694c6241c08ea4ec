"""The step-level SAE beside what the published one computes: codes, logits, loss, and what may depend on what."""

from pathlib import Path

import original_step_sae as original
import pytest
import torch
from torch import Tensor

from sae_core.models.step_batch import StepBatch
from sae_core.models.step_prior import prior
from sae_core.models.step_sae import StepSAE
from workflow.step_saes import fresh_step_sae
from workflow.step_tokens import step_tokenizer


@pytest.fixture(params=["qwen2", "llama"])
def base(request: pytest.FixtureRequest, tiny_qwen2: Path, tiny_llama: Path) -> Path:
    return {"qwen2": tiny_qwen2, "llama": tiny_llama}[request.param]


def made(base: Path, factor: int = 1, *, prior: bool = False) -> StepSAE:
    torch.manual_seed(0)
    model = fresh_step_sae(base, factor=factor, blocks=None, vocab=step_tokenizer(base).vocab, prior=prior).eval()
    for module in (model.encoder, model.decoder):  # random backbones of this size hardly depend on their input
        for parameter in module.parameters():
            parameter.data.mul_(3)
    return model


def steps(rows: int = 5) -> StepBatch:
    """Irregular lengths, a step of one token among them."""
    draw = torch.Generator().manual_seed(1)
    start = torch.tensor([4, 9, 2, 12, 7])[:rows]
    length = start + torch.tensor([6, 2, 11, 3, 8])[:rows]
    return StepBatch(torch.randint(3, 200, (rows, int(length.max())), generator=draw), start, length)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_codes_equal_the_published_ones_bit_by_bit(base: Path, factor: int) -> None:
    model, batch = made(base, factor), steps()
    assert torch.equal(model.encode(batch), original.codes(model, batch.ids, batch.real.long())[:, 0])


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_logits_of_the_step_equal_the_published_ones(base: Path, factor: int) -> None:
    model, batch = made(base, factor), steps()
    code = model.encode(batch)
    ours = model.head(model.decoder_states(code, batch))
    theirs = original.forward(model, batch.ids, batch.real.long()).logits[:, factor - 1 :]
    torch.testing.assert_close(ours[batch.predicted], theirs[batch.predicted], rtol=1e-5, atol=1e-5)


def test_padding_and_neighbours_do_not_change_a_code(base: Path) -> None:
    model, batch = made(base), steps()
    together = model.encode(batch)
    for row in range(5):
        length = int(batch.length[row])
        alone = StepBatch(batch.ids[row : row + 1, :length], batch.start[row : row + 1], batch.length[row : row + 1])
        torch.testing.assert_close(model.encode(alone)[0], together[row], rtol=1e-5, atol=1e-6)
    poisoned = batch._replace(ids=torch.where(batch.real, batch.ids, 99))
    torch.testing.assert_close(model.encode(poisoned), together, rtol=1e-5, atol=1e-6)


def test_no_scored_position_depends_on_its_own_token_given_the_code(base: Path) -> None:
    model, batch = made(base, 2), steps()
    code = model.encode(batch)
    attends = batch.real.clone()
    attends[0, 5], attends[2, 4], attends[4, 9] = False, False, False  # tokens of steps hidden
    before = model.decoder_states(code, batch, attends)
    for pos in range(batch.ids.shape[1]):
        changed = batch.ids.clone()
        changed[:, pos] = (changed[:, pos] + 1) % 200
        after = model.decoder_states(code, batch._replace(ids=changed), attends)
        scored = batch.predicted[:, : pos + 1]
        assert torch.equal(after[:, : pos + 1][scored], before[:, : pos + 1][scored])


def test_the_published_token_mask_lets_positions_read_their_own_label(base: Path) -> None:
    """The defect that our read-out avoids; if this fails, the comparison with the original means nothing."""
    model, batch = made(base), steps(1)
    mask = batch.real.long()
    mask[0, 5] = 0
    z = original.codes(model, batch.ids, mask)
    before = original.logits(model, z, batch.ids, mask)
    changed = batch.ids.clone()
    changed[0, -1] += 1
    after = original.logits(model, z, changed, mask)
    assert not torch.equal(after[0, -1], before[0, -1])


def test_an_all_zero_code_stays_zero(tiny_qwen2: Path) -> None:
    model = made(tiny_qwen2)
    model.autoencoder.latent_bias.data.fill_(-1e6)
    assert torch.equal(model.encode(steps()), torch.zeros(5, model.d_code))


@pytest.mark.parametrize(
    ("phase", "trained"),
    [(1, {"encoder", "decoder", "autoencoder", "projection_mlp"}), (2, {"hints_encoder", "mean_mlp", "var_mlp"}), (3, {"var_mlp"})],
)
def test_a_phase_trains_its_modules_alone(tiny_qwen2: Path, phase: int, trained: set[str]) -> None:
    model = made(tiny_qwen2, prior=True)
    model.train_phase(phase)
    found = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found == trained


@pytest.mark.parametrize("frozen", [(), ("encoder",), ("embeddings",), ("encoder", "embeddings")])
def test_what_is_frozen_is_not_trained(tiny_qwen2: Path, frozen: tuple[str, ...]) -> None:
    model = made(tiny_qwen2)
    model.train_phase(1, frozen=frozen)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(name.startswith("encoder.layers") for name in trained) == ("encoder" not in frozen)
    assert ("decoder.model.embed_tokens.weight" in trained) == ("embeddings" not in frozen)
    assert {"autoencoder.latent_bias", "projection_mlp.0.weight", "decoder.model.norm.weight"} <= trained


def test_phase_2_needs_a_hints_encoder(tiny_qwen2: Path) -> None:
    with pytest.raises(ValueError, match="Phase 2 trains the hints encoder"):
        made(tiny_qwen2).train_phase(2)


class TestPrior:
    def test_is_that_of_a_normal_distribution(self, tiny_qwen2: Path) -> None:
        model, batch = made(tiny_qwen2, prior=True), steps()
        found, code = prior(model, batch), model.encode(batch)
        normal = torch.distributions.Normal(found.mean, (0.5 * found.log_variance).exp())
        torch.testing.assert_close(found.nll(code), -normal.log_prob(code).mean())
        assert float(found.rmse(found.mean).detach()) == 0

    def test_knows_the_context_alone(self, tiny_qwen2: Path) -> None:
        model, batch = made(tiny_qwen2, prior=True), steps()
        other: Tensor = torch.where(batch.predicted, (batch.ids + 7) % 200, batch.ids)
        for pooled in (False, True):
            first, second = (prior(model, batch._replace(ids=ids), pooled=pooled) for ids in (batch.ids, other))
            torch.testing.assert_close(first.mean, second.mean)

    def test_samples_are_codes_and_repeat_with_their_seed(self, tiny_qwen2: Path) -> None:
        found = prior(made(tiny_qwen2, prior=True), steps())
        drawn, again = (found.sample(torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(drawn, again)
        assert (drawn >= 0).all()
        torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(5))
        assert not torch.allclose(found.sample(torch.Generator().manual_seed(3), normalise=False).norm(dim=-1), torch.ones(5))
