"""What an SAE is: its kind, its shape and the conventions that its tensors alone do not tell.

Every kind computes, with x' the normalised row,

    z = (x' − pre) W_encᵀ + b_enc        f = activation(z)        x̂' = f W_dec + b_dec

and brings x̂' back to the units of x. `pre` is `b_pre`, `b_dec` or nothing (`pre_bias`); it is never added back.
"""

from abc import ABC
from dataclasses import dataclass
from typing import Literal, final

PreBias = Literal["own", "decoder", "none"]
Normalise = Literal["scale", "row_norm", "layer_norm"]


@dataclass(frozen=True, kw_only=True)
class SAEConfig(ABC):
    """What all kinds share."""

    d_model: int
    """Width of a row."""

    d_sae: int
    """Latents."""

    pre_bias: PreBias = "own"
    """What is subtracted before the encoder: a vector of its own (OhhMoo SAE-RL), `b_dec` (Gao et al. 2024; SAELens with
    apply_b_dec_to_input; sparsify; dictionary_learning), or nothing (Gemma Scope, qresearch)."""

    normalise: Normalise = "scale"
    """`scale`: rows are divided by one fixed number, the tensor `scale`; `row_norm`: each row by ‖x‖/√d_model (SAELens'
    constant_norm_rescale); `layer_norm`: each row loses its mean and is divided by its unbiased standard deviation + 1e-5 (OpenAI;
    SAELens' layer_norm). All are undone on the reconstruction."""

    def __post_init__(self) -> None:
        for name in ("d_model", "d_sae"):
            _at_least_one(name, getattr(self, name))
        _one_of("pre_bias", self.pre_bias, ("own", "decoder", "none"))
        _one_of("normalise", self.normalise, ("scale", "row_norm", "layer_norm"))


@final
@dataclass(frozen=True, kw_only=True)
class ReluConfig(SAEConfig):
    """f = ReLU(z); sparse by a penalty on f while training (Bricken et al. 2023)."""


@final
@dataclass(frozen=True, kw_only=True)
class TopKConfig(SAEConfig):
    """f keeps k latents of each row."""

    k: int
    """Latents kept per row."""

    keep: Literal["relu", "signed", "absolute"] = "relu"
    """`relu`: the k largest z, those below 0 become 0 (Gao et al. 2024); `signed`: the k largest z as they are (OhhMoo SAE-RL);
    `absolute`: the k largest |z| as they are (SAELens' abstopk)."""

    decoder_norm: bool = False
    """Select by z · ‖W_dec row‖, and give the codes in that unit (SAELens' rescale_acts_by_decoder_norm, OpenMOSS'
    sparsity_include_decoder_norm); no difference where the rows of W_dec have norm 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _must_hold_k(self.k, self.d_sae)
        _one_of("keep", self.keep, ("relu", "signed", "absolute"))


@final
@dataclass(frozen=True, kw_only=True)
class BatchTopKConfig(SAEConfig):
    """While training, f keeps the batch · k largest ReLU(z) of a batch; later, ReLU(z) above one learned threshold.

    Source: Bussmann et al. 2024.
    """

    k: int
    """Latents kept per row on average."""

    decoder_norm: bool = False
    """As in `TopKConfig`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _must_hold_k(self.k, self.d_sae)


@final
@dataclass(frozen=True, kw_only=True)
class MatryoshkaConfig(SAEConfig):
    """BatchTopK whose first latents alone must reconstruct, too, at each of several widths (Bussmann et al. 2025)."""

    k: int
    """Latents kept per row on average, of all widths together."""

    widths: tuple[int, ...]
    """Numbers of first latents that reconstruct, rising; the last is d_sae."""

    decoder_norm: bool = False
    """As in `TopKConfig`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _must_hold_k(self.k, self.d_sae)
        rising = all(low < high for low, high in zip((0, *self.widths), self.widths, strict=False))
        if not (self.widths and rising and self.widths[-1] == self.d_sae):
            raise ValueError(
                f"widths must rise from at least 1 to d_sae = {self.d_sae}; got {self.widths}. Order them, end with it."
            )


@final
@dataclass(frozen=True, kw_only=True)
class JumpReLUConfig(SAEConfig):
    """f = ReLU(z) where z exceeds the latent's own threshold, 0 elsewhere (Rajamanoharan et al. 2024b)."""


@final
@dataclass(frozen=True, kw_only=True)
class GatedConfig(SAEConfig):
    """f = ReLU(u exp(r_mag) + b_mag) where u + b_gate > 0, with u = (x' − pre) W_encᵀ (Rajamanoharan et al. 2024a)."""


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}. Raise it.")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}. Choose one of them.")


def _must_hold_k(k: int, d_sae: int) -> None:
    _at_least_one("k", k)
    if k > d_sae:
        raise ValueError(f"k must be at most d_sae = {d_sae}; got {k}. Lower k or raise d_sae.")
