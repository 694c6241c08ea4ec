"""dictionary_learning (package dictionary-learning): dense products, autograd, AuxK bookkeeping in every update."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import final

import torch
from torch import Tensor

from benchmarks import truth
from benchmarks.contender import Contender
from benchmarks.shapes import Shape, Tensors

NAMES = {
    "nnsight": ("LanguageModel",),
    "circuitsvis": (),
    "circuitsvis.activations": ("text_neuron_activations",),
    "umap": (),
    "llvmlite": (),
    "zstandard": (),
}
"""What it imports to read language models and to draw, and its trainers never use; these need another torch."""


@contextlib.contextmanager
def _stood_in() -> Iterator[None]:
    """Empty modules in the place of those that are not installed, until the end of the block."""
    absent = [name for name in NAMES if importlib.util.find_spec(name.partition(".")[0]) is None]
    for name in absent:
        module = sys.modules[name] = ModuleType(name)
        for attribute in NAMES[name]:
            setattr(module, attribute, type(attribute, (), {}))
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


with _stood_in():
    from dictionary_learning.trainers.top_k import TopKTrainer


@final
class DictionaryLearning(Contender):
    """`TopKTrainer.update`."""

    name, precision = "dictionary-learning", "fp32"

    def __init__(self, shape: Shape, start: Tensors, device: torch.device) -> None:
        self.trainer = TopKTrainer(
            steps=100_000, activation_dim=shape.d_model, dict_size=shape.d_sae, k=shape.k, layer=0, lm_name="", device=str(device)
        )
        self.count, self.k, sae = 1, shape.k, self.trainer.ae  # update 0 would replace the decoder bias
        self.parameters = {
            "W_enc": sae.encoder.weight,
            "W_dec": sae.decoder.weight,
            "b_enc": sae.encoder.bias,
            "b_dec": sae.b_dec,
        }
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(start[name].T if name == "W_dec" else start[name])

    def update(self, rows: Tensor) -> None:
        self.trainer.update(self.count, rows)
        self.count += 1

    def gradients(self, rows: Tensor, dead: Tensor | None) -> Tensors:
        since_fired = self.trainer.num_tokens_since_fired
        if dead is not None:
            # the loss counts this batch's rows for all latents before it asks which are dead, and those that fired are not
            since_fired[dead] = self.trainer.dead_feature_threshold
        loss = self.trainer.loss(rows, step=self.count)
        found = dict(zip(self.parameters, torch.autograd.grad(loss, list(self.parameters.values())), strict=True))
        return found | {"W_dec": found["W_dec"].T}

    def true_loss(self, p: Tensors, rows: Tensor, dead: Tensor | None, active: Tensor | None) -> Tensor:
        z = truth.pre_activations(p, rows, "b_dec")
        codes = truth.topk_relu(z, self.k, active)
        error = truth.decoded(p, codes) - rows
        if dead is None:
            return truth.summed(error)
        dead = dead[z.detach().topk(self.k).indices.flatten().bincount(minlength=z.shape[1])[dead] == 0]
        residual = error.detach()
        left = truth.dead_decoded(p, z[:, dead].relu(), dead) + residual
        return truth.summed(error) + self.trainer.auxk_alpha * truth.summed(left) / truth.summed(residual - residual.mean(0))
