"""The TopK SAE, with ReLU after the selection or signed."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_core.config import SAEConfig
from sae_core.kernels.sparse import decode, topk_rows

PARAMETERS = ("W_enc", "W_dec", "b_enc", "b_dec", "b_pre")
TENSORS = (*PARAMETERS, "scale")


class Codes(NamedTuple):
    """The latents kept for each row, in no particular order."""

    values: Float[Tensor, "batch k"]
    """Activations; with ReLU a kept latent may be 0 and is then not active."""
    indices: Int[Tensor, "batch k"]
    """Latents."""


@final
class TopKSAE(nn.Module):
    """z = (x/scale − b_pre) W_encᵀ + b_enc; the k largest of z are kept (ReLU, or signed); x̂ = scale · (f W_dec + b_dec).

    b_pre is not added back: the decoder has a bias of its own. Rows of W_dec have norm 1.

    Source: Gao et al. 2024, eq. 1 (TopK); the separate pre-bias and the signed selection are those of OhhMoo SAE-RL.
    """

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_enc: nn.Parameter
    b_dec: nn.Parameter
    b_pre: nn.Parameter
    scale: Tensor

    def __init__(self, config: SAEConfig, tensors: Mapping[str, Tensor]) -> None:
        """Make the SAE from its tensors in float32, copied; see `initial` for a fresh one.

        Raises:
            ValueError: a tensor is missing or its shape is not that of `config`.
        """
        super().__init__()
        self.config = config
        for name, shape in tensor_shapes(config).items():
            found = tuple(tensors[name].shape) if name in tensors else "nothing"
            if found != shape:
                raise ValueError(
                    f"{name} must have the shape {shape}; got {found}. Use the SAE with d_model and d_sae of its tensors."
                )
            tensor = tensors[name].detach().to(torch.float32, copy=True).contiguous()
            if name in PARAMETERS:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    @property
    def relu(self) -> bool:
        """Whether kept pre-activations below 0 become 0."""
        return self.config.activation == "relu"

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all tensors by name, on the CPU."""
        return {name: getattr(self, name).detach().to("cpu", copy=True).contiguous() for name in TENSORS}

    def pre_activations(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_sae"]:
        """z before the selection."""
        return torch.addmm(self.b_enc, x / self.scale - self.b_pre, self.W_enc.T)

    def encode(self, x: Float[Tensor, "batch d_model"]) -> Codes:
        """The k latents kept for each row."""
        values, indices = topk_rows(self.pre_activations(x), self.config.k)
        return Codes(values.relu() if self.relu else values, indices)

    def encode_dense(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_sae"]:
        """Codes of all latents, 0 where not kept."""
        values, indices = self.encode(x)
        return values.new_zeros(len(x), self.config.d_sae).scatter(1, indices, values)

    def decode(self, codes: Codes) -> Float[Tensor, "batch d_model"]:
        """Rows in original units from codes."""
        return self.scale * (decode(codes.values, codes.indices, self.W_dec) + self.b_dec)

    def forward(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
        """The reconstruction in original units."""
        return self.decode(self.encode(x))


def tensor_shapes(config: SAEConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an SAE's tensors."""
    latents, width = config.d_sae, config.d_model
    return {
        "W_enc": (latents, width),
        "W_dec": (latents, width),
        "b_enc": (latents,),
        "b_dec": (width,),
        "b_pre": (width,),
        "scale": (),
    }


def initial(config: SAEConfig, rows: Float[Tensor, "row d_model"], seed: int, normalise: Literal["rms", "none"] = "rms") -> TopKSAE:
    """A fresh SAE: encoder and decoder tied random unit vectors, both biases of width d_model the mean of `rows`, encoder bias 0.

    Args:
        rows: first rows of the training data in original units.
        seed: seed of the directions.
        normalise: `rms` sets scale so that rows/scale have mean square norm d_model; `none` sets it to 1.

    Raises:
        ValueError: the rows are all 0, or not finite.
    """
    size = rows.double().square().mean().sqrt()
    if not (torch.isfinite(size) and size > 0):
        raise ValueError(
            f"Rows that start an SAE must be finite and not all 0; their root mean square is {float(size)}. Check the store."
        )
    scale = size.float() if normalise == "rms" else torch.ones(())
    mean = (rows.double().mean(0) / scale.double()).float()
    draw = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(config.d_sae, config.d_model, generator=draw), dim=1)
    tensors = {
        "W_enc": directions,
        "W_dec": directions,
        "b_enc": torch.zeros(config.d_sae),
        "b_dec": mean,
        "b_pre": mean,
        "scale": scale,
    }
    return TopKSAE(config, tensors)
