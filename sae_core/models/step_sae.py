"""Step-level SAEs (SSAE): one sparse code for a whole reasoning step, between two language models.

Names of modules and tensors, and their order, are those of the released files (Miaow-Lab/SSAE), so that these load strictly.
Source: "Step-level sparse autoencoders", arXiv 2603.03031 (2026).
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its customary name

from sae_core.models.step_batch import StepBatch

NORM_EPS = 1e-12
"""Below this length a code is not scaled up: an all-zero code stays zero."""

TRAINED = {
    1: ("encoder", "decoder", "autoencoder", "projection_mlp"),
    2: ("hints_encoder", "mean_mlp", "var_mlp"),
    3: ("var_mlp",),
}
"""What each phase of training moves: 1 codes and reconstruction, 2 the prior of codes given the context, 3 its variance alone."""


class StepBottleneck(nn.Module):
    """z = ReLU(W h + b): no pre-bias and no decoder of its own; the projection behind it takes that place."""

    def __init__(self, d_model: int, d_code: int) -> None:
        super().__init__()
        self.latent_bias = nn.Parameter(torch.zeros(d_code))
        self.encoder = nn.Linear(d_model, d_code, bias=False)

    def forward(self, states: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_code"]:
        return torch.relu(self.encoder(states) + self.latent_bias)


class StepSAE(nn.Module):
    """Encoder language model → sparse code of the step → soft tokens in front of the decoder language model.

    `encoder` and `hints_encoder` give `last_hidden_state` for `input_ids` and `attention_mask`; `decoder` is a causal language
    model with `get_input_embeddings`, `get_decoder` and `get_output_embeddings`, as those of transformers are.
    """

    hints_encoder: nn.Module | None

    def __init__(
        self, *, encoder: nn.Module, decoder: nn.Module, d_model: int, factor: int = 1, hints_encoder: nn.Module | None = None
    ) -> None:
        """Fresh bottleneck, prior and projection around given language models.

        Args:
            factor: soft tokens per code, c; the code has c · d_model latents.
            hints_encoder: reads the context for the prior; phase 1 and encoding need none.
        """
        super().__init__()
        d_code = factor * d_model
        self.d_model, self.d_code, self.factor = d_model, d_code, factor
        self.encoder = encoder
        self.register_module("hints_encoder", hints_encoder)  # keeps its place in the order of tensors even where it is absent
        self.decoder = decoder
        self.autoencoder = StepBottleneck(d_model, d_code)
        narrow, wide = d_code // 8, d_code // 2
        self.mean_mlp = nn.Sequential(
            nn.Linear(d_model, narrow), nn.LeakyReLU(), nn.Linear(narrow, wide), nn.LeakyReLU(), nn.Linear(wide, d_code)
        )
        self.var_mlp = nn.Sequential(
            nn.Linear(d_model, d_model), nn.LeakyReLU(), nn.Linear(d_model, d_code), nn.Linear(d_code, d_code)
        )
        self.projection_mlp = nn.Sequential(nn.Linear(d_code, d_code), nn.ReLU(), nn.Linear(d_code, d_code))

    def train_phase(self, phase: int, *, embeddings: bool = True) -> None:
        """Let gradients reach what this phase trains, and nothing else.

        Args:
            embeddings: also token embeddings, and a head that shares their weights, in phase 1.

        Raises:
            ValueError: the phase trains a module that this SSAE was made without.
        """
        if phase == 2 and self.hints_encoder is None:
            raise ValueError("Phase 2 trains the hints encoder; this SSAE has none. Build it with one.")
        for name, module in self.named_children():
            module.requires_grad_(name in TRAINED[phase])
        for model in () if embeddings else (self.encoder, self.decoder):
            table: Any = model
            table.get_input_embeddings().requires_grad_(False)

    def encode(self, batch: StepBatch, attends: Bool[Tensor, "batch pos"] | None = None) -> Float[Tensor, "batch d_code"]:
        """Codes of steps: non-negative, of Euclidean length 1, without noise.

        Args:
            attends: which tokens the encoder sees; all real ones where it is not given.
        """
        seen = batch.real if attends is None else attends
        return self.code(last_states(self.encoder, batch.ids, seen, batch.length - 1))

    def context_states(self, batch: StepBatch, *, pooled: bool = False) -> Float[Tensor, "batch d_model"]:
        """What the hints encoder knows at the separator, before the step; `pooled` the mean over the context in its place.

        Raises:
            ValueError: this SSAE was made without a hints encoder.
        """
        if self.hints_encoder is None:
            raise ValueError("The prior of codes needs the hints encoder; this SSAE was loaded without it. Load it with it.")
        context = batch.context()
        if not pooled:
            return last_states(self.hints_encoder, context.ids, context.real, context.length - 1)
        hidden = self.hints_encoder(input_ids=context.ids, attention_mask=context.real.long()).last_hidden_state
        weights = context.real.to(hidden.dtype)[..., None]
        return (hidden * weights).sum(1) / weights.sum(1)

    def code(self, states: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_code"]:
        """The normalised code, in the number format of the bottleneck also under autocast: bf16 would merge close latents."""
        with torch.autocast(states.device.type, enabled=False):
            return F.normalize(self.autoencoder(states.to(self.autoencoder.latent_bias.dtype)), dim=-1, eps=NORM_EPS)

    def soft_tokens(self, code: Float[Tensor, "batch d_code"]) -> Float[Tensor, "batch factor d_model"]:
        """What stands in front of the context in the decoder."""
        return self.projection_mlp(code).view(-1, self.factor, self.d_model)

    def decoder_states(
        self, code: Float[Tensor, "batch d_code"], batch: StepBatch, attends: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """Last hidden states of the decoder; the one at `pos` predicts the token at `pos` of the batch.

        Args:
            attends: which tokens may be attended to, soft tokens aside; all real ones where it is not given.
        """
        seen = batch.real if attends is None else attends
        model: Any = self.decoder
        # nobody predicts from the last token, and the last column holds no other real one
        tokens = model.get_input_embeddings()(batch.ids[:, :-1])
        soft = self.soft_tokens(code).to(tokens.dtype)
        mask = torch.cat([seen.new_ones(len(seen), self.factor), seen[:, :-1]], dim=1)
        hidden = model.get_decoder()(inputs_embeds=torch.cat([soft, tokens], dim=1), attention_mask=mask.long()).last_hidden_state
        return hidden[:, self.factor - 1 :]

    def head(self, states: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """Logits of the decoder's last hidden states."""
        model: Any = self.decoder
        return model.get_output_embeddings()(states)


def last_states(
    model: nn.Module, ids: Int[Tensor, "batch pos"], seen: Bool[Tensor, "batch pos"], at: Int[Tensor, " batch"]
) -> Float[Tensor, "batch d_model"]:
    """Last hidden states (behind the final norm) of one position per row."""
    hidden = model(input_ids=ids, attention_mask=seen.long()).last_hidden_state
    return hidden[torch.arange(len(at), device=at.device), at]
