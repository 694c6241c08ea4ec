"""Codes of steps changed on purpose: latents set or scaled, two codes mixed. What they do is seen by decoding them."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its customary name

from sae_core.models.step_sae import NORM_EPS


def with_latents(
    code: Float[Tensor, "batch d_code"], values: Mapping[int, float], *, normalise: bool = True
) -> Float[Tensor, "batch d_code"]:
    """Codes with these latents at these values, in units of the code, whose length is 1; 0 silences a latent.

    Args:
        values: by latent.
        normalise: bring the changed codes back to length 1, the only length the decoder was trained on; the other latents shrink or
            grow by one factor. Without, they stay as they are and the length is another one.

    Raises:
        ValueError: a latent that the code does not have, or a value below 0.
    """
    _check(code, values)
    changed = code.clone()
    changed[:, list(values)] = torch.tensor(list(values.values()), dtype=code.dtype, device=code.device)
    return _of_length_1(changed) if normalise else changed


def with_scaled_latents(
    code: Float[Tensor, "batch d_code"], factors: Mapping[int, float], *, normalise: bool = True
) -> Float[Tensor, "batch d_code"]:
    """Codes with these latents multiplied by these factors; latents that are off stay off.

    Args:
        factors: by latent.
        normalise: as for `with_latents`.

    Raises:
        ValueError: a latent that the code does not have, or a factor below 0.
    """
    _check(code, factors)
    scale = torch.ones(code.shape[-1], dtype=code.dtype)
    scale[list(factors)] = torch.tensor(list(factors.values()), dtype=code.dtype)
    changed = code * scale.to(code.device)
    return _of_length_1(changed) if normalise else changed


def between(
    first: Float[Tensor, "batch d_code"], second: Float[Tensor, "batch d_code"], share: float, *, normalise: bool = True
) -> Float[Tensor, "batch d_code"]:
    """Codes on the line from the first (share 0) to the second (share 1).

    Args:
        normalise: as for `with_latents`; without, codes between two others are shorter than both.
    """
    mixed = torch.lerp(first, second, share)
    return _of_length_1(mixed) if normalise else mixed


def _of_length_1(code: Float[Tensor, "batch d_code"]) -> Float[Tensor, "batch d_code"]:
    return F.normalize(code, dim=-1, eps=NORM_EPS)


def _check(code: Float[Tensor, "batch d_code"], numbers: Mapping[int, float]) -> None:
    wrong = {latent: number for latent, number in numbers.items() if not (0 <= latent < code.shape[-1] and number >= 0)}
    if wrong:
        raise ValueError(
            f"Latents must be 0 to {code.shape[-1] - 1} and their numbers 0 or more, as in any code; got {wrong}. Correct them."
        )
