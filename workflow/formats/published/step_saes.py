"""Step-level SAEs in the released layout (Miaow-Lab/SSAE): one file of torch with the weights under `model`.

Read with memory mapping and `weights_only`; sizes are taken from the weights, because the numbers stored beside them may be wrong.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workflow.config.section import ConfigError
from workflow.formats.files import replacing

PREFIXES = ("module.", "_orig_mod.")
"""What wrappers of parallel and compiled models put in front of every name."""
BOTTLENECK = "autoencoder.encoder.weight"
EMBEDDING = "encoder.embed_tokens.weight"
HINTS = "hints_encoder."
RESUMED = "resume"
"""What a resumed training wrote in the place of its base model."""


class StepSizes(NamedTuple):
    """What the weights tell of their model."""

    d_model: int
    factor: int
    """Soft tokens per code, c."""
    vocab: int
    """Rows of the embedding, `<sep>` included."""
    blocks: int
    """Transformer blocks of the encoder."""


class PublishedStepSAE(NamedTuple):
    """A file in the released layout."""

    tensors: dict[str, Tensor]
    """By released name; mapped from the file, not read."""
    base_model: str | None
    """What the file says of its base model: a hub id or a path of its authors' machine; None where it does not tell."""
    training: dict[str, Any]
    """What else it says: global_step, best_val_loss, iter_num, config; never trusted for sizes."""

    @property
    def sizes(self) -> StepSizes:
        """Sizes of the model these tensors are of."""
        latents, d_model = self.tensors[BOTTLENECK].shape
        layers = {name.split(".")[2] for name in self.tensors if name.startswith("encoder.layers.")}
        return StepSizes(d_model, latents // d_model, self.tensors[EMBEDDING].shape[0], len(layers))

    @property
    def has_hints_encoder(self) -> bool:
        """Whether the file holds the copy that reads contexts for the prior."""
        return any(name.startswith(HINTS) for name in self.tensors)


def read_published(path: Path | str) -> PublishedStepSAE:
    """A released file, or a bare state dict of the same names.

    Raises:
        ConfigError: the file is missing, cut short, holds other things than tensors and plain values, or no step-level SAE.
    """
    path = Path(path)
    found = _load(path)
    weights = found.get("model", found)
    if not isinstance(weights, Mapping):
        raise _other(path, f"`model` is a {type(weights).__name__}")
    tensors = {_plain(str(name)): tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    if lost := [name for name in (BOTTLENECK, EMBEDDING) if name not in tensors]:
        raise _other(path, f"{', '.join(lost)} missing among {len(tensors)} tensors")
    if weights is found:
        return PublishedStepSAE(tensors, None, {})
    named = found.get("encoder_name")
    told = {name: found[name] for name in ("global_step", "iter_num", "best_val_loss", "config") if name in found}
    return PublishedStepSAE(tensors, named if isinstance(named, str) and named != RESUMED else None, told)


def read_published_moments(path: Path | str) -> dict[str, Tensor]:
    """AdamW's state in a released file, as `<number>.<exp_avg, exp_avg_sq or step>` in the order of its trained tensors.

    Raises:
        ConfigError: the file holds none, or cannot be read.
    """
    found = _load(Path(path)).get("optimizer")
    state = found.get("state") if isinstance(found, Mapping) else None
    if not state:
        raise ConfigError(
            f"To go on with AdamW's moments, {path} must hold them under `optimizer`; it does not. Set ssae.given.resume=false."
        )
    return {
        f"{place}.{name}": value if isinstance(value, Tensor) else torch.tensor(float(value))
        for place, moments in state.items()
        for name, value in moments.items()
        if name in ("exp_avg", "exp_avg_sq", "step")
    }


def write_published(path: Path | str, tensors: Mapping[str, Tensor], *, base_model: str, training: Mapping[str, Any]) -> None:
    """Write tensors by released name so that the original code loads them; a head tied to the embedding stays one storage.

    Args:
        training: plain values beside them; `optimizer`, `iter_num`, `global_step`, `best_val_loss`, `config` are what it looks for.
    """
    with replacing(path) as temporary:
        torch.save({"encoder_name": base_model, "decoder_name": base_model, **training, "model": dict(tensors)}, temporary)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"A step-level SAE must be a file of torch; {path} does not exist. Correct the path.")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        reason = (str(error) or "it is empty").splitlines()[0]
        raise ConfigError(
            f"{path} must hold tensors and plain values alone; it would run code of its own, or is no file of torch: {reason} "
            "Nothing of it was executed. Get it from its authors as a plain state dict."
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise ConfigError(
            f"{path} must be a whole file of torch.save; reading it failed: {(str(error) or 'it ends too early').splitlines()[0]}. "
            "It is probably cut short: download it again."
        ) from None
    if not isinstance(found, dict):
        raise _other(path, f"it is a {type(found).__name__}")
    return found


def _is_zip(path: Path) -> bool:
    """Whether torch can map the file: its format since 1.6; a cut-off one begins like it, too, and fails with a clear reason."""
    with open(path, "rb") as stream:
        return stream.read(2) == b"PK"


def _plain(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _other(path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"{path} must hold the weights of a step-level SAE ({BOTTLENECK}, {EMBEDDING}, …), as they are or under `model`; {found}. "
        "Give a file of Miaow-Lab/SSAE-Checkpoints or one that saedrift wrote."
    )
