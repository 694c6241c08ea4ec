"""What is known about a published SAE beside its tensors, and what a caller may add to it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from sae_core.models.sae import SAE
from workflow.config.section import ConfigError

Format = Literal["saelens", "ohhmoo", "qresearch"]
Side = Literal["input", "output"]
STREAM_NAME = re.compile(r"blocks\.(\d+)\.hook_(?:resid_)?(pre|in|post|out)")
MODULE_NAME = re.compile(r"(?:.*\.)?(?:layers|blocks|h)\.(\d+)")


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the caller says about a file that does not say it. It fills gaps: contradicting the file is an error."""

    format: Format | None = None
    """Who wrote it."""

    k: int | None = None
    """Latents kept per row."""

    pre_bias: Literal["decoder", "none"] | None = None
    """Whether `b_dec` is subtracted before the encoder; SAELens' apply_b_dec_to_input, true for `decoder`."""

    norm_scaling_factor: float | None = None
    """Number that rows are multiplied with before an SAE of SAELens' expected_average_only_in: √d_model / mean ‖x‖."""

    hook_point: str | None = None
    """Where the rows come from: `blocks.<n>.hook_resid_post`, `blocks.<n>.hook_resid_pre`, or a module's name for its output."""

    encoder: Literal["latent_first", "width_first"] | None = None
    """How the encoder is stored, [d_sae, d_model] or [d_model, d_sae]; asked for where both are equal and nothing else tells."""

    ignore: tuple[str, ...] = ()
    """Tensors of the file that are not part of the SAE."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("format", get_args(Format)), ("pre_bias", ("decoder", "none")), ("encoder", ("latent_first", "width_first"))
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)}; got {value!r}. Choose one, or leave it out.")


class HookPoint(NamedTuple):
    """A hook point in the terms in which projects differ."""

    name: str
    """As it was written."""
    side: Side | None
    """Of the block; None where it is no block's residual stream, or not known to be one."""
    block: int | None
    """Index of the block from 0."""

    @property
    def layer(self) -> int | None:
        """The block whose output these rows are: for the input of block n, n − 1; None for the embeddings and other places."""
        if self.block is None or self.side is None:
            return None
        layer = self.block if self.side == "output" else self.block - 1
        return layer if layer >= 0 else None


class Facts(NamedTuple):
    """What is known about a published SAE beside its tensors."""

    format: Format
    """Who wrote it."""
    hook_point: str | None
    """Where its rows come from, as the file or the caller says; None where neither does."""
    side: Side | None
    """Side of the block that is read."""
    block: int | None
    """Index of that block from 0."""
    layer: int | None
    """Layer in the words of this project: the block whose output residual stream these rows are."""
    dtype: str
    """Of the stored tensors, for example `bfloat16`; the model is float32."""
    assumed: tuple[str, ...]
    """What the file does not say and was taken from the caller, a file name or the writer's defaults."""
    about: Mapping[str, Any]
    """Everything else that the file says."""


class Published(NamedTuple):
    """An SAE as read from a file of another project."""

    model: SAE
    """In float32, on the CPU."""
    facts: Facts
    firing_rate: Tensor | None = None
    """[d_sae]: share of rows on which each latent is active, where the file tells it."""


def hook_point(name: str) -> HookPoint:
    """The parts of a hook point's name; a module such as `model.layers.18` stands for its output."""
    if stream := STREAM_NAME.fullmatch(name):
        return HookPoint(name, "input" if stream[2] in ("pre", "in") else "output", int(stream[1]))
    if module := MODULE_NAME.fullmatch(name):
        return HookPoint(name, "output", int(module[1]))
    return HookPoint(name, None, None)


def facts_of(
    source: Format, name: str | None, dtype: str, assumed: tuple[str, ...] = (), about: Mapping[str, Any] | None = None
) -> Facts:
    """Facts about an SAE with the given hook point."""
    where = hook_point(name) if name else HookPoint("", None, None)
    return Facts(source, name, where.side, where.block, where.layer, dtype, assumed, dict(about or {}))


def settled(what: str, found: Any, given: Any, where: str) -> Any:
    """What the file says, or the caller where it says nothing; None where neither does.

    Raises:
        ConfigError: both say something, and not the same.
    """
    if found is not None and given is not None and found != given:
        raise ConfigError(f"{what} must be what {where} says, {found}; got {given}. Leave it out, or correct it.")
    return given if found is None else found
