"""What all kinds of SAE share: tensors, normalisation of rows, the way from rows to codes and back."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.config.part import Part
from sae_core.config.sae import SAEConfig
from sae_core.kernels.codes import Codes
from sae_core.kernels.sparse import decode

LAYER_NORM_EPS = 1e-5
"""Added to the standard deviation, as OpenAI and SAELens do."""


class Normalised(NamedTuple):
    """Rows in the units of an SAE, and the way back."""

    rows: Float[Tensor, "batch d_model"]
    """x'."""
    offset: Tensor
    """[] or [batch, 1]: what is added on the way back."""
    size: Tensor
    """[] or [batch, 1]: what is multiplied with on the way back; `layer_norm` leaves its 1e-5 out there, as OpenAI does."""

    def undone(self, rows: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
        """Rows like x' in the units of x."""
        return rows * self.size + self.offset


class SAE(nn.Module, ABC):
    """An SAE in float32. Weights are latent-major, [d_sae, d_model]: a latent is one contiguous vector in each."""

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    b_pre: nn.Parameter
    """Only with a pre-bias of its own."""
    scale: Tensor
    part: Part
    """Which latents of which SAE these are: all of its own, as a rule."""

    def __init__(self, config: SAEConfig, tensors: Mapping[str, Tensor], part: Part | None = None) -> None:
        """Make the SAE from its tensors, which are copied; see `initial` for a fresh one.

        Args:
            part: if this is but a part of an SAE, which; `config` is then that of the part.

        Raises:
            ValueError: a tensor is missing or its shape is not that of `config`.
        """
        super().__init__()
        self.config = config
        self.part = part or Part(config, 0, config.d_sae)
        for name, shape in self.shapes(config).items():
            found = tuple(tensors[name].shape) if name in tensors else "nothing"
            if found != shape:
                raise ValueError(
                    f"{name} must have the shape {shape}; got {found}. Use the SAE with d_model and d_sae of its tensors."
                )
            tensor = tensors[name].detach().to(torch.float32, copy=True).contiguous()
            if name in self.fixed():
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor))

    @classmethod
    @abstractmethod
    def own_shapes(cls, config: SAEConfig) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that belong to this kind alone, biases of the encoder among them."""

    @classmethod
    def fixed(cls) -> tuple[str, ...]:
        """Names of tensors that no gradient moves."""
        return ("scale",)

    @classmethod
    def shapes(cls, config: SAEConfig) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all tensors."""
        latents, width = config.d_sae, config.d_model
        pre = {"b_pre": (width,)} if config.pre_bias == "own" else {}
        return {
            "W_enc": (latents, width),
            "W_dec": (latents, width),
            **cls.own_shapes(config),
            "b_dec": (width,),
            **pre,
            "scale": (),
        }

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the tensors that training moves."""
        return tuple(name for name in self.shapes(self.config) if name not in self.fixed())

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all tensors by name, on the CPU."""
        return {name: getattr(self, name).detach().to("cpu", copy=True).contiguous() for name in self.shapes(self.config)}

    def normalised(self, x: Float[Tensor, "batch d_model"]) -> Normalised:
        """Rows in the units of the SAE."""
        match self.config.normalise:
            case "scale":
                return Normalised(x / self.scale, x.new_zeros(()), self.scale)
            case "row_norm":
                size = self.scale * torch.linalg.vector_norm(x, dim=1, keepdim=True) / self.config.d_model**0.5
                return Normalised(x / size, x.new_zeros(()), size)
            case "layer_norm":
                offset, spread = x.mean(1, keepdim=True), x.std(1, keepdim=True)
                return Normalised((x - offset) / (self.scale * (spread + LAYER_NORM_EPS)), offset, self.scale * spread)

    def centred(self, rows: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
        """Normalised rows without the pre-bias."""
        match self.config.pre_bias:
            case "own":
                return rows - self.b_pre
            case "decoder":
                return rows - self.b_dec
            case "none":
                return rows

    @abstractmethod
    def select(self, centred: Float[Tensor, "batch d_model"]) -> Codes:
        """Codes of centred rows, one bag per row."""

    def encode(self, x: Float[Tensor, "batch d_model"]) -> Codes:
        """Codes of rows in original units."""
        return self.select(self.centred(self.normalised(x).rows))

    def encode_dense(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_sae"]:
        """Codes of all latents, 0 where not active."""
        return self.encode(x).dense(self.config.d_sae)

    def code_unit(self) -> Float[Tensor, " d_sae"] | None:
        """What codes are divided by before they meet W_dec: norms of its rows, or None for 1."""
        return self.unit_of(self.W_dec)

    def unit_of(self, decoders: Float[Tensor, "latent d_model"]) -> Float[Tensor, " latent"] | None:
        """What codes of latents with these decoder rows are divided by, or None for 1."""
        return None

    def decode(self, codes: Codes, x: Float[Tensor, "batch d_model"] | None = None) -> Float[Tensor, "batch d_model"]:
        """Rows in original units from codes.

        Args:
            x: the rows that were encoded; only SAEs that normalise each row by itself need them, to undo it.

        Raises:
            ValueError: x is needed and was not given.
        """
        unit = self.code_unit()
        found = (
            decode(codes if unit is None else codes._replace(values=codes.values / unit[codes.latents]), self.W_dec) + self.b_dec
        )
        if self.config.normalise == "scale":
            return found * self.scale
        if x is None:
            raise ValueError(
                f"An SAE that normalises by {self.config.normalise} must be given the rows it decodes; got none. "
                "Call decode(codes, x)."
            )
        return self.normalised(x).undone(found)

    def forward(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
        """The reconstruction in original units."""
        return self.decode(self.encode(x), x)
