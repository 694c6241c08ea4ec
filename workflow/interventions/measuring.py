"""What a policy predicts when its residual stream is replaced, summed by prompt."""

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from sae_core.metrics.prompt_sums import sums_by_prompt
from workflow.config.section import ConfigError
from workflow.interventions.texts import Batch, Texts
from workflow.tail import Tail

Name = TypeVar("Name", bound=Hashable)
Replace = Callable[[Tensor], Tensor]
"""From rows [row, d_model] of the residual stream, float32, to what stands in their place: the rows themselves if nothing does."""

IDENTITY_TOLERANCE = 1e-3
"""Largest difference of a log-probability, in nats, that putting a row's reconstruction and its error together may make."""


class Predictions(NamedTuple):
    """Sums over the predicted tokens of each prompt, float64 [prompt]."""

    tokens: Tensor
    """Predicted tokens."""
    ce: Tensor
    """Σ −log q(token), nats."""
    kl: Tensor
    """Σ KL(p‖q), nats; p the reference, q what is measured."""


class Sums(dict[Name, Predictions]):
    """Predictions by intervention, added up batch by batch."""

    def add(self, name: Name, batch: Batch, reference: Tensor, logprobs: Tensor, prompts: int) -> None:
        """Add one batch: log-probabilities [prediction, vocab] of the reference p and of what is measured, q."""
        ce = -logprobs.gather(1, batch.targets[:, None])[:, 0]
        values = torch.stack([torch.ones_like(ce), ce, divergence(reference, logprobs)], 1)
        now = Predictions(*sums_by_prompt(values, batch.prompt, prompts).cpu().unbind(1))
        self[name] = Predictions(*(a + b for a, b in zip(self[name], now, strict=True))) if name in self else now


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p‖q) in nats of each row of log-probabilities [row, vocab]; float32, at least 0.

    Source: Kullback & Leibler 1951; rounding may make a sum of a hundred thousand terms about 0 slightly negative.
    """
    return (p.exp() * (p - q)).sum(1).clamp(min=0)


def entropy(p: Tensor) -> Tensor:
    """Entropy in nats of each row of log-probabilities [row, vocab]."""
    return -(p.exp() * p).sum(1)


def predicted(tail: Tail, batch: Batch, residual: Tensor | None = None) -> Tensor:
    """Log-probabilities [prediction, vocab] of a batch, with `residual` behind the layer or as the model is."""
    states = tail.states(batch.ids, residual)
    return tail.logprobs(states.reshape(-1, states.shape[-1]).index_select(0, batch.places))


def replaced(residual: Tensor, batch: Batch, rows: Tensor) -> Tensor:
    """The residual stream with these rows at the positions that may be replaced, in its own number format."""
    changed = residual.clone()
    changed[batch.replaced] = rows.to(residual.dtype)
    return changed


@torch.inference_mode()
def intervene(
    *, tail: Tail, texts: Texts, interventions: Mapping[Name, Replace], batch_tokens: int, vocab: int, unchanged: Name,
    identity: Replace | None = None, reference: Tail | None = None, advance: Callable[[int], None] = lambda texts: None,
) -> Sums[Name]:  # fmt: skip
    """Sums by intervention, and those of the unchanged model under the name `unchanged`.

    The model runs up to the layer once per batch, and behind it once per intervention.

    Args:
        tail: the model that is intervened upon.
        texts: what it reads.
        interventions: what is put in the place of rows, by name.
        batch_tokens: tokens of one pass, padding included.
        vocab: size of the vocabulary.
        unchanged: name of the model as it is.
        identity: a replacement that must change nothing; tried on the first batch against the whole model.
        reference: the model whose distribution is p of KL(p‖q); None is the unchanged model itself.
        advance: told of the texts that were read.

    Raises:
        ConfigError: `identity` changes the predictions.
    """
    sums: Sums[Name] = Sums()
    prompts = len(texts.problems)
    for number, batch in enumerate(texts.batches(batch_tokens, vocab, tail.device)):
        residual = tail.residual(batch.ids)
        rows = residual[batch.replaced].float()
        whole = predicted(tail, batch, residual)
        if identity is not None and number == 0:
            _must_be_the_same(predicted(tail, batch), predicted(tail, batch, replaced(residual, batch, identity(rows))))
        p = whole if reference is None else predicted(reference, batch)
        sums.add(unchanged, batch, p, whole, prompts)
        for name, replace in interventions.items():
            instead = replace(rows)
            same = instead is rows  # a latent that is silent in this batch
            sums.add(name, batch, p, whole if same else predicted(tail, batch, replaced(residual, batch, instead)), prompts)
        advance(len(batch.ids))
    return sums


def _must_be_the_same(whole: Tensor, again: Tensor) -> None:
    likely = whole > -20.0  # nats; what is less likely than 2e-9 weighs nothing in any sum and rounds coarsely
    worst = float((whole - again).abs()[likely].max())
    if not worst <= IDENTITY_TOLERANCE:
        raise ConfigError(
            f"A row's reconstruction with its error added must leave every log-probability within {IDENTITY_TOLERANCE:g} nats; "
            f"one differs by {worst:.3g}. Behind the layer the model does not run as it does as a whole: choose another "
            "architecture, or compute.dtype=float32."
        )
