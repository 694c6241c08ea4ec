"""The model behind a layer, run from a residual stream: the same as the whole model with a hook of one's own."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from workflow.language_model import blocks, load_model
from workflow.tail import Tail

IDS = torch.randint(3, 300, (3, 11), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["tiny_qwen2", "tiny_llama"])
def model(request: pytest.FixtureRequest):
    return load_model(request.getfixturevalue(request.param), torch.device("cpu"), torch.float32)


def logprobs(tail: Tail, residual: Tensor | None = None) -> Tensor:
    states = tail.states(IDS, residual)
    return tail.logprobs(states.flatten(0, 1)).unflatten(0, states.shape[:2])


@pytest.mark.parametrize("layer", [0, 1])
def test_the_models_own_residual_gives_the_models_own_logits(model, layer: int) -> None:
    tail = Tail(model, layer)
    with torch.inference_mode():
        truth = torch.log_softmax(model(input_ids=IDS).logits.float(), -1)
    assert torch.equal(logprobs(tail, tail.residual(IDS)), truth)
    assert torch.equal(logprobs(tail), truth)


@pytest.mark.parametrize("layer", [0, 1])
def test_another_residual_does_what_a_hook_does(model, layer: int) -> None:
    tail = Tail(model, layer)
    changed = tail.residual(IDS).clone()
    changed[:, 2:5] = 0
    handle = blocks(model)[layer].register_forward_hook(lambda *_: changed)
    with torch.inference_mode():
        truth = torch.log_softmax(model(input_ids=IDS).logits.float(), -1)
    handle.remove()
    found = logprobs(tail, changed)
    assert torch.equal(found, truth)
    assert not torch.allclose(found, logprobs(tail), atol=1e-3)


def test_the_model_is_left_as_it_was(model) -> None:
    tail = Tail(model, 1)
    before = logprobs(tail)
    logprobs(tail, torch.zeros_like(tail.residual(IDS)))
    with pytest.raises(RuntimeError):
        tail.states(IDS, torch.zeros(3, 11, 5))
    assert torch.equal(logprobs(tail), before)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_what_a_model_does_with_its_logits_is_done(tmp_path: Path) -> None:
    """Gemma 2 caps its logits: a head applied by hand would miss that."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, final_logit_softcapping=0.05, sliding_window=4,
    )  # fmt: skip
    gemma = Gemma2ForCausalLM(config).eval()
    tail = Tail(gemma, 1)
    with torch.inference_mode():
        raw = gemma(input_ids=IDS % 300).logits
    assert raw.abs().max() < 0.05
    states = tail.states(IDS % 300, tail.residual(IDS % 300))
    found = tail.logprobs(states.flatten(0, 1)).unflatten(0, states.shape[:2])
    assert torch.equal(found, torch.log_softmax(raw.float(), -1))
