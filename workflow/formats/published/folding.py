"""Conventions that a format does not know, moved into the tensors it has: exact, computed in float64."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sae_core.config.sae import BatchTopKConfig, MatryoshkaConfig, SAEConfig, TopKConfig
from sae_core.models.sae import SAE
from sae_core.models.topk import TopKSAE
from workflow.config.section import ConfigError

ROWS_AT_ONCE = 4096


class Negative(NamedTuple):
    """How many of the selected values of signed top-k are negative."""

    values: int
    """Negative ones."""
    selected: int
    """All."""

    @property
    def share(self) -> float:
        """Negative ones of all."""
        return self.values / self.selected


def in_float64(sae: SAE) -> dict[str, Tensor]:
    """All tensors in float64."""
    return {name: tensor.double() for name, tensor in sae.tensors().items()}


def in_float32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as files hold them."""
    return {name: tensor.float().contiguous() for name, tensor in tensors.items()}


def selects_by_decoder_norm(config: SAEConfig) -> bool:
    """Whether codes are counted in units of the norms of W_dec's rows."""
    return isinstance(config, TopKConfig | BatchTopKConfig | MatryoshkaConfig) and config.decoder_norm


def without_decoder_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The norms of W_dec's rows moved into the encoder, for SAEs that select by them: same selection, same codes, unit rows."""
    norms = torch.linalg.vector_norm(tensors["W_dec"], dim=1)
    return tensors | {
        "W_enc": tensors["W_enc"] * norms[:, None],
        "b_enc": tensors["b_enc"] * norms,
        "W_dec": tensors["W_dec"] / norms.clamp_min(1e-300)[:, None],
    }


def without_pre_bias(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A pre-bias of its own moved into the biases of the encoder: b_enc − W_enc b_pre."""
    shift = tensors["W_enc"] @ tensors["b_pre"]
    moved = {name: tensors[name] - shift for name in ("b_enc", "b_gate") if name in tensors}
    if "b_mag" in tensors:
        moved["b_mag"] = tensors["b_mag"] - shift * tensors["r_mag"].exp()
    return {name: tensor for name, tensor in (tensors | moved).items() if name != "b_pre"}


def without_scale(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`scale` moved into the matrices, codes unchanged: W_enc / scale, W_dec · scale, b_dec · scale.

    A pre-bias of its own must be gone before; b_dec as pre-bias is right after, in the units of x.
    """
    scale = tensors["scale"]
    assert "b_pre" not in tensors, "a pre-bias is in units of x / scale"
    rest = {name: tensor for name, tensor in tensors.items() if name != "scale"}
    return rest | {
        "W_enc": tensors["W_enc"] / scale, "W_dec": tensors["W_dec"] * scale, "b_dec": tensors["b_dec"] * scale
    }  # fmt: skip


def negative(sae: TopKSAE, rows: Tensor) -> Negative:
    """The sign of what top-k selects, before any ReLU."""
    signed = TopKSAE(replace(sae.config, keep="signed"), sae.tensors())
    values = torch.cat([signed.encode(part.float()).values for part in rows.split(ROWS_AT_ONCE)])
    return Negative(int((values < 0).sum()), len(values))


def never_negative(sae: TopKSAE, rows: Tensor | None, approximate: bool, target: str, becomes: str) -> dict[str, float | None]:
    """Check that the ReLU after top-k makes no difference, and return what was measured, to be stored with the SAE.

    Args:
        rows: [row, d_model], on which it is checked; None where there are none.
        approximate: go on where it does make a difference, or none can be told.

    Raises:
        ConfigError: a selected value is negative, or there are no rows, and `approximate` is not set; rows do not fit the SAE.
    """
    advice = "Allow the approximate conversion if that is wanted; the share is then stored with the SAE."
    if rows is None:
        if not approximate:
            raise ConfigError(
                f"Writing {sae.config.keep} top-k as {target} needs rows to check that no selected value is negative, because "
                f"{becomes}; got none. Give rows. {advice}"
            )
        return {"negative_share": None, "rows": 0}
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != sae.config.d_model or not torch.isfinite(rows).all():
        raise ConfigError(
            f"Rows must be finite and [row, {sae.config.d_model}], as the SAE takes them; got {tuple(rows.shape)}, "
            f"finite: {bool(torch.isfinite(rows).all())}. Take rows from its hook point."
        )
    found = negative(sae, rows)
    if found.values and not approximate:
        raise ConfigError(
            f"No selected value may be negative where {sae.config.keep} top-k is written as {target}, because {becomes}; "
            f"{found.values} of {found.selected} ({found.share:.3%}) on {len(rows)} rows are. {advice}"
        )
    return {"negative_share": found.share, "rows": len(rows)}
