"""Sums over single steps: what the loss of training sums, whatever the batch."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # its customary name

from sae_core.metrics import step_reconstruction
from sae_core.metrics.step_reconstruction import StepSums, step_sums, token_nll
from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE
from sae_core.training.step_update import step_terms
from workflow.step_saes import fresh_step_sae
from workflow.step_tokens import step_tokenizer


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> StepSAE:
    torch.manual_seed(0)
    return fresh_step_sae(tiny_llama, factor=2, blocks=None, vocab=step_tokenizer(tiny_llama).vocab).eval()


def steps() -> StepBatch:
    draw = torch.Generator().manual_seed(1)
    start = torch.tensor([4, 9, 2, 12])
    length = start + torch.tensor([6, 2, 11, 3])
    return StepBatch(torch.randint(3, 200, (4, int(length.max())), generator=draw), start, length)


def test_add_up_to_the_terms_of_the_loss(model: StepSAE) -> None:
    found, code = step_sums(model, steps())
    terms = step_terms(model, steps(), noise=None)
    torch.testing.assert_close(found.nll.sum().float(), terms.nll.detach())
    torch.testing.assert_close(found.l1.sum(), terms.l1.detach())
    assert found.tokens.tolist() == [6, 2, 11, 3]
    assert found.active.tolist() == [int(row.count_nonzero()) for row in code]


def test_do_not_depend_on_the_batch(model: StepSAE) -> None:
    whole, _ = step_sums(model, steps())
    for row in range(4):
        alone, _ = step_sums(model, StepBatch(*(tensor[row : row + 1] for tensor in steps())))
        for name, one, other in zip(StepSums._fields, alone, whole, strict=True):
            torch.testing.assert_close(one[0], other[row], rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("logits", [1, 20, 2**24])
def test_token_losses_are_cross_entropies(logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_reconstruction, "LOGITS", logits)
    draw = torch.Generator().manual_seed(0)
    states, head = torch.randn(9, 5, generator=draw), torch.randn(7, 5, generator=draw)
    targets = torch.randint(7, (9,), generator=draw)
    torch.testing.assert_close(token_nll(states, head, targets), F.cross_entropy(states @ head.T, targets, reduction="none"))
    assert token_nll(states[:0], head, targets[:0]).shape == (0,)
