"""Which latents of a crosscoder belong to one stage alone: decoder norms, and latent scaling against their two known artefacts.

A later stage is compared with the first one. d_i^t and f_i are in units of each stage's normalised rows. The *owner* o of a latent
is that of the two stages whose decoder row is longer. Norms alone mislead in two ways (Minder et al. 2025): *complete shrinkage*,
the other stage holds the direction as well but its decoder row was shrunk, so that it is found again in that stage's error;
*latent decoupling*, other latents carry it there, so that it is found again in that stage's reconstruction.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from sae_core.kernels.codes import ByLatent, Codes
from sae_core.kernels.sparse import by_latent, entry_gradients
from sae_core.metrics.prompt_sums import Weights, sums_by_prompt, total
from sae_core.models.crosscoder import Crosscoder


class StageSums(NamedTuple):
    """Sums over the joint rows of each prompt in float64, of one later stage beside the first. `a + b` merges two streams."""

    firings: Float64[Tensor, "prompt d_sae"]
    """Rows on which each latent was active."""
    squares: Float64[Tensor, "prompt d_sae"]
    """Σf²."""
    on_errors: Float64[Tensor, "prompt d_sae 2"]
    """Σf⟨e_s, d^o⟩, s the first and the later stage, e_s = x'_s − x̂'_s."""
    on_reconstructions: Float64[Tensor, "prompt d_sae 2"]
    """Σf⟨x̂'_s − b_dec_s, d^o⟩."""

    def __add__(self, other: "StageSums") -> "StageSums":  # type: ignore[override]  # sums add up
        """Sums of both streams."""
        return StageSums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def totals(self, weights: Weights = None) -> "StageSums":
        """Sums over prompts, weighted, [*replicate, d_sae, …]."""
        return StageSums(*(total(values, weights) for values in self))


class Decoders(NamedTuple):
    """The decoder rows of two stages of a crosscoder."""

    first: Float[Tensor, "d_sae width"]
    later: Float[Tensor, "d_sae width"]

    @property
    def norms(self) -> Float[Tensor, "d_sae 2"]:
        """‖d_i^s‖."""
        return torch.linalg.vector_norm(torch.stack(self, 1), dim=2)

    @property
    def later_owns(self) -> Bool[Tensor, " d_sae"]:
        """Whether the later stage's row is the longer one."""
        return self.norms[:, 1] > self.norms[:, 0]

    @property
    def owner(self) -> Float[Tensor, "d_sae width"]:
        """d^o."""
        return torch.where(self.later_owns[:, None], self.later, self.first)

    @property
    def relative_norm(self) -> Float[Tensor, " d_sae"]:
        """½(1 + (‖d^t‖ − ‖d^0‖)/max): 0 of the first stage alone, ½ of both alike, 1 of the later stage alone.

        Source: Minder et al. 2025, arXiv 2504.02922; Lindsey et al. 2024 with the sum in the place of the maximum.
        """
        norms = self.norms
        return (1 + (norms[:, 1] - norms[:, 0]) / norms.amax(1).clamp_min(1e-12)) / 2

    @property
    def cosine(self) -> Float[Tensor, " d_sae"]:
        """cos(d^0, d^t)."""
        return torch.cosine_similarity(self.first, self.later, dim=1)


def decoders_of(crosscoder: Crosscoder, stage: int) -> Decoders:
    """Those of the first stage and of a later one."""
    rows = crosscoder.decoders()
    return Decoders(rows[:, 0], rows[:, stage])


@torch.no_grad()
def stage_sums(
    crosscoder: Crosscoder,
    x: Float[Tensor, "row d_model"],
    prompt_index: Int[Tensor, " row"],
    n_prompts: int,
    stage: int,
    codes: Codes | None = None,
) -> StageSums:
    """The sums of one batch of joint rows.

    Args:
        crosscoder: whose latents are asked about.
        x: joint rows in original units.
        prompt_index: prompt of each row, 0 … n_prompts − 1.
        n_prompts: prompts of the whole evaluation set.
        stage: the later stage, from 1.
        codes: of these rows, where they are known.
    """
    codes = crosscoder.encode(x) if codes is None else codes
    config, owner = crosscoder.config, decoders_of(crosscoder, stage).owner
    unit = crosscoder.code_unit()
    f = codes._replace(values=codes.values / unit[codes.latents]).active()
    x_hat = crosscoder.decode(codes) / crosscoder.scale
    error, content = crosscoder.normalised(x).rows - x_hat, x_hat - crosscoder.b_dec
    columns, entries = [torch.ones_like(f.values).double(), f.values.double().square()], by_latent(f, config.d_sae)
    for target in (error, content):
        for of in (0, stage):
            columns.append(_products(f, entries, target.view(len(x), config.stages, config.width)[:, of], owner))
    key = prompt_index[f.rows()] * config.d_sae + f.latents
    sums = sums_by_prompt(torch.stack(columns, 1), key, n_prompts * config.d_sae).view(n_prompts, config.d_sae, 6)
    return StageSums(sums[..., 0], sums[..., 1], sums[..., 2:4], sums[..., 4:6])


def _products(f: Codes, entries: ByLatent, target: Tensor, directions: Tensor) -> Tensor:
    """f⟨target, d⟩ of each entry in float64, in the order of rows."""
    found = torch.empty_like(f.values)
    found[entries.order] = entry_gradients(target.contiguous(), directions, entries)
    return found.double() * f.values.double()


class Presence(NamedTuple):
    """How much of a latent is found in the stage that does not own it, as a share of what its owner has; NaN if never active."""

    in_error: Float64[Tensor, "*replicate d_sae"]
    """ν_ε: in the error with the latent's own part added back. High in spite of a short decoder row: complete shrinkage."""
    in_reconstruction: Float64[Tensor, "*replicate d_sae"]
    """ν_r: in the reconstruction. High in spite of a short decoder row: latent decoupling."""


def presence(sums: StageSums, decoders: Decoders) -> Presence:
    """Latent scaling between two stages, from totals over prompts.

    β_s = argmin Σ‖target_s − β f d^o‖² for s the owner and the other stage; ν = β_other / β_owner. Both divide by Σf²‖d^o‖², which
    drops out.

    Source: Minder et al. 2025, arXiv 2504.02922, eq. 4 and 5, with the error of each stage that leaves the latent itself out.
    """
    own_part = torch.stack([(side.double() * decoders.owner.double()).sum(1) for side in decoders], 1)
    errors = sums.on_errors + sums.squares[..., None] * own_part
    return Presence(_other_over_owner(errors, decoders), _other_over_owner(sums.on_reconstructions, decoders))


def _other_over_owner(beta: Tensor, decoders: Decoders) -> Tensor:
    first, later = beta.unbind(-1)
    return torch.where(decoders.later_owns, first / later, later / first)


class Limits(NamedTuple):
    """Where classes begin."""

    exclusive: float
    """A latent is of one stage when its relative norm is below this, or above 1 − this."""
    cosine: float
    """A latent of both stages has turned when the cosine of its decoder rows is below this."""
    in_error: float
    """A latent of one stage is shrunk when ν_ε is not below this."""
    in_reconstruction: float
    """A latent of one stage is decoupled when ν_r is not below this."""


CLASSES = ("shared", "rotated", "new", "gone", "new_confirmed", "gone_confirmed", "shrunk", "decoupled")
"""The first four tell every latent apart; the others say which of `new` and `gone` hold, and which are which artefact."""


def classes(decoders: Decoders, found: Presence, limits: Limits) -> dict[str, Bool[Tensor, "*replicate d_sae"]]:
    """Which latents are of which class; `shared` to `gone` by decoder rows alone, whatever the rows of a replicate."""
    relative = decoders.relative_norm
    new, gone = relative > 1 - limits.exclusive, relative < limits.exclusive
    turned = decoders.cosine < limits.cosine
    shrunk = ~(found.in_error < limits.in_error)
    decoupled = ~(found.in_reconstruction < limits.in_reconstruction)
    both, one, holds = ~(new | gone), new | gone, ~(shrunk | decoupled)
    named = (both & ~turned, both & turned, new, gone, new & holds, gone & holds, one & shrunk, one & decoupled)
    shape = found.in_error.shape
    return {name: which.expand(shape) for name, which in zip(CLASSES, named, strict=True)}
