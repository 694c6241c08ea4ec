"""Reading the residual stream of several layers in one forward pass that stops after the last of them."""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workflow.config.section import ConfigError
from workflow.language_model import blocks, trunk


class _Enough(Exception):  # noqa: N818 - not an error: it ends a pass whose rest nobody reads
    pass


class ResidualReader:
    """Outputs of chosen blocks; use as a context manager, it leaves no hooks behind.

    The output of the last block is read before the final norm, unlike the last entry of transformers' `hidden_states`.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        """`layers` count from 0 and may stand in any order."""
        self.model, self._trunk, self._layers, self._last = model, trunk(model), list(layers), max(layers)
        self.device = next(model.parameters()).device
        self._read: dict[int, Tensor] = {}
        self._to_the_end = False
        modules = blocks(model)
        self._handles = [modules[layer].register_forward_hook(self._keeper(layer)) for layer in layers]

    def _keeper(self, layer: int):
        def keep(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            self._read[layer] = output if isinstance(output, Tensor) else output[0]
            if layer == self._last and not self._to_the_end:
                raise _Enough

        return keep

    @torch.inference_mode()
    def read(self, ids: Tensor) -> list[Tensor]:
        """Residual streams [text, token, d_model] of the layers, in their order, for token ids padded on the right."""
        with contextlib.suppress(_Enough):
            self._trunk(input_ids=ids, use_cache=False)
        return [self._read.pop(layer) for layer in self._layers]

    @torch.inference_mode()
    def read_to_the_end(self, ids: Tensor) -> tuple[list[Tensor], Tensor]:
        """As `read`, and the last hidden states [text, token, d_model], from which the head predicts."""
        self._to_the_end = True
        try:
            states = self._trunk(input_ids=ids, use_cache=False).last_hidden_state
        finally:
            self._to_the_end = False
        return [self._read.pop(layer) for layer in self._layers], states

    def __enter__(self) -> "ResidualReader":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def check_length(longest: int, model: PreTrainedModel) -> None:
    """Refuse texts beyond the positions that a model was made for.

    Raises:
        ConfigError: with both numbers.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and longest > context:
        raise ConfigError(
            f"Texts must fit into the {context} positions of the model; the longest has {longest} tokens. "
            f"Set activations.max_tokens to {context} or less."
        )


def check_layers(layers: Sequence[int], model_layers: int, model: str) -> None:
    """Refuse layers that a model does not have.

    Raises:
        ConfigError: with the layers there are.
    """
    if beyond := [layer for layer in layers if layer >= model_layers]:
        raise ConfigError(
            f"design.layers must lie between 0 and {model_layers - 1}, the blocks of {model}; got "
            f"{', '.join(map(str, beyond))}. Correct design.layers."
        )
