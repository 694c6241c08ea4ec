"""What a language model does behind one layer, run again and again from residual streams that are given to it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from workflow.language_model import blocks, trunk
from workflow.residuals import ResidualReader


class Tail:
    """The blocks behind a layer, the final norm and the head of a model.

    The model's own code runs, with stand-ins for the parts that are not to be computed: blocks before the layer pass on what they
    are given, and the layer gives out the residual stream that was asked for. Whatever an architecture does between its blocks,
    with its masks or with its logits is done here, too.
    """

    def __init__(self, model: PreTrainedModel, layer: int) -> None:
        """`layer` counts from 0; its output is what can be replaced."""
        self._model, self._trunk, self._layer = model, trunk(model), layer
        *self._before, self._block = list(blocks(model))[: layer + 1]
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def residual(self, ids: Tensor) -> Tensor:
        """The residual stream [text, token, d_model] behind the layer, for token ids padded on the right."""
        with ResidualReader(self._model, [self._layer]) as reader:
            return reader.read(ids)[0]

    @torch.inference_mode()
    def states(self, ids: Tensor, residual: Tensor | None = None) -> Tensor:
        """Last hidden states [text, token, d_model], behind the final norm.

        Args:
            ids: token ids padded on the right.
            residual: what stands in the place of the layer's output; None lets the whole model run.
        """
        given: dict[nn.Module, Callable[..., Any]] = {}
        if residual is not None:
            given = dict.fromkeys(self._before, _passing_on) | {self._block: lambda *_, **__: residual}
        with _standing_in(given):
            return self._trunk(input_ids=ids, use_cache=False).last_hidden_state

    @torch.inference_mode()
    def logprobs(self, states: Tensor) -> Tensor:
        """Log-probabilities [row, vocab] of the next token, float32, from last hidden states [row, d_model]."""
        found = BaseModelOutputWithPast(last_hidden_state=states.unsqueeze(0))  # type: ignore[arg-type]  # a tensor
        nothing = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        with _standing_in({self._trunk: lambda *_, **__: found}):
            logits: Tensor = self._model(input_ids=nothing, use_cache=False).logits[0]
        return torch.log_softmax(logits.float(), -1)


def _passing_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


@contextlib.contextmanager
def _standing_in(given: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Modules compute what is given for them; afterwards they are as they were."""
    before = {module: module.__dict__.get("forward") for module in given}
    try:
        for module, forward in given.items():
            module.forward = forward
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward
