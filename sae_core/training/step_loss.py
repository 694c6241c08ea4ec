"""The loss of a step-level SAE on one micro-batch, with everything random in it keyed by its place in the training."""

import torch
from torch import Tensor, nn

from sae_core.config.step_training import StepTrainingConfig
from sae_core.models.step_batch import StepBatch
from sae_core.models.step_prior import prior
from sae_core.models.step_sae import StepSAE, last_states
from sae_core.training.head_loss import head_nll
from sae_core.training.step_legacy import masked_readout_terms
from sae_core.training.step_schedule import noise_stream
from sae_core.training.step_update import StepNoise, StepTerms, prior_terms, step_terms

UPDATES, EVALUATIONS = 0, 1
"""Random streams."""


class StepLoss(nn.Module):
    """One forward pass of a training: the loss terms in training mode, the sums of `measured` in evaluation mode.

    A module, because what shares the weights of a model among processes hangs on forward passes.
    """

    def __init__(self, model: StepSAE, config: StepTrainingConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: StepBatch, place: tuple[int, ...]) -> StepTerms | Tensor:
        """Of a batch, at a place of the training: (update, micro-batch), or (micro-batch,) in evaluation."""
        with torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self._terms(batch, place) if self.training else measured(self.model, self.config, batch, place)

    def _terms(self, batch: StepBatch, place: tuple[int, ...]) -> StepTerms:
        config, draw = self.config, noise_stream(self.config.seed, UPDATES, *place)
        # dropout, of a language model that has one, draws from the global stream
        torch.manual_seed(draw.initial_seed())
        if config.phase > 1:
            raw = config.phase == 3 and config.legacy.phase3_raw
            return prior_terms(self.model, batch, pooled=raw, raw=raw)
        terms = masked_readout_terms if config.legacy.masked_readout else step_terms
        return terms(self.model, batch, noise=StepNoise(config.token_mask_rate, config.noise), draw=draw)


@torch.no_grad()
def measured(model: StepSAE, config: StepTrainingConfig, batch: StepBatch, place: tuple[int, ...]) -> Tensor:
    """Sums in float64, without hidden tokens and noise: NLL, L1 norms, active latents, scored tokens, steps."""
    states = last_states(model.encoder, batch.ids, batch.real, batch.length - 1)
    code = model.code(states)
    if config.phase == 1:
        nll = _reconstruction_nll(model, config, batch, code, place)
    else:
        raw = config.phase == 3 and config.legacy.phase3_raw
        target = model.autoencoder(states.to(code.dtype)) if raw else code
        nll = prior(model, batch, pooled=raw).nll(target) * len(code)
    scored = (batch.length - batch.start).sum()
    return torch.stack([number.double() for number in (nll, code.sum(), (code > 0).sum(), scored, scored.new_tensor(len(code)))])


def _reconstruction_nll(
    model: StepSAE, config: StepTrainingConfig, batch: StepBatch, code: Tensor, place: tuple[int, ...]
) -> Tensor:
    if config.legacy.eval_noise:
        draw = noise_stream(config.seed, EVALUATIONS, *place)
        code = code + config.noise * torch.randn(code.shape, generator=draw).to(code)
    scored = batch.predicted
    head = model.decoder.get_output_embeddings().weight  # type: ignore[operator]  # a causal language model
    return head_nll(model.decoder_states(code, batch)[scored], head, batch.ids[scored])
