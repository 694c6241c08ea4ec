"""Scores of responses: equal to a plain forward pass, in values and gradients, whatever the padding and the common start."""

from pathlib import Path

import pytest
import torch

from workflow.language_model import load_model
from workflow.policies.scoring import arrange, score

PROMPTS = [[5, 6, 7, 8, 9], [5, 6, 7, 30], [5, 6, 7, 31, 32, 33, 34]]
RESPONSES = [[40, 41, 2], [42, 43, 44, 45, 2], [46]]
CPU = torch.device("cpu")


@pytest.fixture(params=["tiny_qwen2", "tiny_llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def plain(model: torch.nn.Module, row: int) -> torch.Tensor:
    """Logits before each response token of one row, without padding or cache."""
    ids = torch.tensor([PROMPTS[row] + RESPONSES[row]])
    return model(ids).logits[0, len(PROMPTS[row]) - 1 : -1]


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0], [1], [2]])
def test_scores_are_those_of_a_plain_forward_pass(folder: Path, rows: list[int]) -> None:
    model = load_model(folder, CPU, torch.float32)
    texts = arrange([PROMPTS[r] for r in rows], [RESPONSES[r] for r in rows], CPU)
    with torch.no_grad():
        scored = score(model, texts, temperature=0.7)
        for at, row in enumerate(rows):
            count = len(RESPONSES[row])
            logits = plain(model, row) / 0.7
            logprobs = logits.log_softmax(-1)
            torch.testing.assert_close(scored.logits[at, :count], logits, atol=1e-5, rtol=0)
            wanted = logprobs.gather(-1, torch.tensor(RESPONSES[row])[:, None]).squeeze(-1)
            torch.testing.assert_close(scored.logprobs[at, :count], wanted, atol=1e-5, rtol=0)
            torch.testing.assert_close(scored.entropy[at, :count], -(logprobs.exp() * logprobs).sum(-1), atol=1e-4, rtol=0)
            head = model.get_output_embeddings()
            torch.testing.assert_close(head(scored.states[at, :count]) / 0.7, logits, atol=1e-5, rtol=0)
    assert texts.written.sum(-1).tolist() == [len(RESPONSES[r]) for r in rows]


def test_gradients_flow_through_the_common_start_as_through_every_row(folder: Path) -> None:
    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, [p for name, p in sorted(model.named_parameters()) if "layers" in name]))

    model = load_model(folder, CPU, torch.float32)
    texts = arrange(PROMPTS, RESPONSES, CPU)
    assert texts.start.tolist() == [[5, 6, 7]]
    shared = gradients((score(model, texts).logprobs * texts.written).sum())
    rows = range(len(PROMPTS))
    alone = gradients(
        # a sum of tensors, but for the 0 it begins with
        sum(plain(model, r).log_softmax(-1).gather(-1, torch.tensor(RESPONSES[r])[:, None]).sum() for r in rows)
    )
    for found, wanted in zip(shared, alone, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_the_entropy_carries_a_gradient_only_when_asked(folder: Path) -> None:
    model = load_model(folder, CPU, torch.float32)
    texts = arrange(PROMPTS, RESPONSES, CPU)
    assert not score(model, texts).entropy.requires_grad
    assert score(model, texts, entropy_grad=True).entropy.requires_grad
