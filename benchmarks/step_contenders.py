"""One update of a step-level SAE, by ours and by the published procedure."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig

from sae_core.config.step_training import StepTrainingConfig
from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE
from sae_core.training.micro_batches import micro_batches
from sae_core.training.sparsity_control import SparsityTarget, StepwiseControl
from sae_core.training.step_trainer import StepTrainer
from workflow.step_saes import checkpoint_activations

VOCAB, WEIGHT = 49153, 1e-3


def model_of(blocks: int, *, vocab: int = VOCAB) -> StepSAE:
    """Random weights in the shapes of SmolLM2-135M with one more token, three times: encoder, hints encoder and decoder."""
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=576, intermediate_size=1536, num_hidden_layers=blocks, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    hints = AutoModel.from_config(config)
    return StepSAE(
        encoder=AutoModel.from_config(config), decoder=AutoModelForCausalLM.from_config(config), d_model=576, hints_encoder=hints
    )


def drawn_steps(steps: int, seed: int, vocab: int = VOCAB) -> StepBatch:
    """Random tokens: contexts of 60 to 200, steps of 10 to 60."""
    draw = torch.Generator().manual_seed(seed)
    start = torch.randint(60, 201, (steps,), generator=draw) + 1
    length = start + torch.randint(10, 61, (steps,), generator=draw) + 1
    return StepBatch(torch.randint(0, vocab, (steps, int(length.max())), generator=draw), start, length)


class StepContender(ABC):
    """A model and its optimiser."""

    @abstractmethod
    def __init__(self, model: StepSAE) -> None: ...

    @abstractmethod
    def update(self, batch: StepBatch) -> None:
        """One whole update on these steps."""


@final
class Published(StepContender):
    """Micro-batches of 16 in the order given, logits of all positions, three language models in memory, float32."""

    def __init__(self, model: StepSAE) -> None:
        self.model = model.train()
        model.train_phase(1)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trained, lr=1e-6, betas=(0.9, 0.95), weight_decay=0.01)

    def update(self, batch: StepBatch) -> None:
        self.optimiser.zero_grad()
        for piece in micro_batches(batch, 16, by_length=False):
            real = piece.real
            kept = real & ~(piece.predicted & (torch.rand(piece.ids.shape) < 0.1))
            published_loss(self.model, piece, kept.long(), 0.01).backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()


def published_loss(model: StepSAE, batch: StepBatch, mask: Tensor, noise: float) -> Tensor:
    """The published loss of a micro-batch, its loops over rows written as tensor operations."""
    decoder: Any = model.decoder
    rows, last = torch.arange(len(mask)), mask.sum(1) - 1
    state = model.encoder(input_ids=batch.ids, attention_mask=mask).last_hidden_state[rows, last]
    code = functional.normalize(model.autoencoder(state), dim=-1)
    sparsity = code.abs().sum()
    soft = model.projection_mlp(code + noise * torch.randn_like(code)).view(len(mask), model.factor, model.d_model)
    pos = torch.arange(batch.ids.shape[1] - 1)[None]
    tokens = decoder.get_input_embeddings()(batch.ids.gather(1, pos + (pos >= last[:, None]).long()))
    attention = torch.cat([mask.new_ones(len(mask), model.factor - 1), mask], dim=1)
    logits = decoder(inputs_embeds=torch.cat([soft, tokens], dim=1), attention_mask=attention).logits[:, model.factor - 1 :]
    scored = batch.predicted.float()
    every = functional.cross_entropy(logits.transpose(1, 2), batch.ids, reduction="none")
    return (every * scored).sum() / scored.sum() + WEIGHT * sparsity / len(mask)


class Ours(StepContender):
    """Micro-batches of 4 of like length, the head on scored positions alone, two language models."""

    settings: ClassVar[dict[str, Any]] = {}
    checkpointed = False

    def __init__(self, model: StepSAE) -> None:
        model.register_module("hints_encoder", None)
        config = StepTrainingConfig(updates_per_epoch=1000, **self.settings)
        control = StepwiseControl(SparsityTarget(10.0, start=WEIGHT))
        self.trainer = StepTrainer(model, config, control)
        if self.checkpointed:
            checkpoint_activations(model)

    def update(self, batch: StepBatch) -> None:
        self.trainer.advance(micro_batches(batch, 4))


@final
class OursBf16(Ours):
    """Products in bfloat16."""

    settings: ClassVar[dict[str, Any]] = {"precision": "bf16"}


@final
class OursSparing(Ours):
    """Activations computed again in the backward pass."""

    checkpointed = True


@final
class OursSparingBf16(Ours):
    """Both."""

    settings: ClassVar[dict[str, Any]] = {"precision": "bf16"}
    checkpointed = True


VARIANTS: dict[str, type[StepContender]] = {
    "published": Published,
    "ours": Ours,
    "ours, bf16": OursBf16,
    "ours, checkpointed": OursSparing,
    "ours, bf16, checkpointed": OursSparingBf16,
}


def gradient_error(variant: str, model: StepSAE, batch: StepBatch) -> float:
    """Norm of the difference to the gradient of the published loss, relative to it, without hidden tokens and noise."""
    if variant == "published":
        return 0.0
    model.train_phase(1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    published_loss(model, batch, batch.real.long(), 0.0).backward()
    truth = torch.cat([gradient.flatten() for gradient in _taken(trained)])
    quiet = {**VARIANTS[variant].settings, "token_mask_rate": 0.0, "noise": 0.0, "grad_clip": 0.0}
    ours = type("Quiet", (VARIANTS[variant],), {"settings": quiet})(model)
    ours.trainer.optimiser.step = ours.trainer.optimiser.zero_grad = lambda *_, **__: None
    ours.update(batch)
    found = torch.cat([gradient.flatten() for gradient in _taken(trained)])
    return float((found - truth).norm() / truth.norm())


def _taken(parameters: list[nn.Parameter]) -> list[Tensor]:
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return [gradient for gradient in gradients if gradient is not None]
