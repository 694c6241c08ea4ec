"""The loss behind a head beside the table of logits: value and every gradient, in blocks of any size."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its customary name

from sae_core.training import head_loss
from sae_core.training.head_loss import head_nll


def operands(rows: int, vocab: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rows * vocab)
    states, head = (torch.randn(n, 12, generator=draw, dtype=dtype, requires_grad=True) for n in (rows, vocab))
    return states, head, torch.randint(vocab, (rows,), generator=draw)


@pytest.mark.parametrize("logits", [1, 7, 50, 2**24])
@pytest.mark.parametrize(("rows", "vocab"), [(1, 2), (9, 7), (13, 31)])
def test_equals_the_cross_entropy_of_all_logits(rows: int, vocab: int, logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_loss, "LOGITS", logits)
    states, head, targets = operands(rows, vocab)
    ours, truth = head_nll(states, head, targets), F.cross_entropy(states @ head.T, targets, reduction="sum")
    torch.testing.assert_close(ours, truth)
    for found, expected in zip(
        torch.autograd.grad(3 * ours, (states, head)), torch.autograd.grad(3 * truth, (states, head)), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_large_logits_do_not_overflow() -> None:
    states, head, targets = operands(5, 11)
    ours = head_nll(states * 1e4, head, targets)
    torch.testing.assert_close(ours, F.cross_entropy(states * 1e4 @ head.T, targets, reduction="sum"))
    assert all(torch.isfinite(grad).all() for grad in torch.autograd.grad(ours, (states, head)))


def test_one_row_twice_counts_twice() -> None:
    states, head, targets = operands(4, 9)
    twice = head_nll(torch.cat([states, states]), head, torch.cat([targets, targets]))
    torch.testing.assert_close(twice, 2 * head_nll(states, head, targets))


def test_a_frozen_head_gets_no_gradient() -> None:
    states, head, targets = operands(4, 9)
    frozen = head.detach()
    head_nll(states, frozen, targets).backward()
    assert frozen.grad is None
    torch.testing.assert_close(states.grad, torch.autograd.grad(head_nll(states, head, targets), states)[0])


def test_no_rows_give_nothing() -> None:
    states, head, targets = operands(0, 9)
    loss = head_nll(states, head, targets)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(head.grad, torch.zeros_like(head))


def test_autocast_multiplies_in_bfloat16_and_adds_in_float32() -> None:
    states, head, targets = operands(64, 33)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = head_nll(states, head, targets)
    truth = F.cross_entropy((states.bfloat16() @ head.bfloat16().T).float(), targets, reduction="sum")
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, truth, rtol=1e-6, atol=0)
    exact = torch.autograd.grad(F.cross_entropy(states @ head.T, targets, reduction="sum"), head)[0]
    assert float((torch.autograd.grad(ours, head)[0] - exact).norm() / exact.norm()) < 0.01
