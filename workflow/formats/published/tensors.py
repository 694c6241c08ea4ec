"""Tensors out of files of unknown origin: no code of a file is ever run, and what is damaged or missing is told."""

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from workflow.config.section import ConfigError

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *PICKLES)
WRAPPERS = ("state_dict", "model_state_dict", "model", "sae", "ae", "autoencoder", "module")
"""Keys under which projects put the state dict, beside a configuration."""
PREFIXES = ("module.", "_orig_mod.", "sae.", "autoencoder.")
"""What wrapping modules put before every name."""
POINTER = b"version https://git-lfs"


class Stored(NamedTuple):
    """What one file holds."""

    path: Path
    tensors: dict[str, Tensor]
    beside: Mapping[str, Any]
    """What stands beside a wrapped state dict, `config` for example."""

    @property
    def dtype(self) -> str:
        """Of the tensors that have more than one number, joined by `+` where there are several."""
        kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in self.tensors.values() if tensor.numel() > 1}
        return "+".join(sorted(kinds))

    def without(self, names: Sequence[str]) -> "Stored":
        """The same without some tensors."""
        return self._replace(tensors={name: tensor for name, tensor in self.tensors.items() if name not in names})


def read_tensors(path: Path) -> Stored:
    """All tensors of one file.

    Raises:
        ConfigError: it is missing, damaged, of another kind, or holds something that is not a tensor.
    """
    if not path.is_file():
        raise ConfigError(f"{path} must be a file; there is {_neighbours(path)}. Give the path of the weights.")
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"A file of weights must end in {', '.join(SUFFIXES)}; got {path}. Give one of these files.")
    with open(path, "rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            raise ConfigError(f"{path} must hold tensors; it is a pointer of Git LFS. Fetch the file itself: git lfs pull.")
    if path.suffix == ".safetensors":
        return Stored(path, _read_safetensors(path), {})
    tensors, beside = _unwrapped(read_pickle(path), path)
    return Stored(path, tensors, beside)


def _neighbours(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    if not path.parent.is_dir():
        return f"no folder {path.parent} either"
    names = sorted(entry.name for entry in path.parent.iterdir())
    return f"none, but {', '.join(names[:8])}{' and more' if len(names) > 8 else ''} beside it" if names else "nothing beside it"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"{path} must be a whole safetensors file; reading it fails: {error}. Fetch it again.") from error


def read_pickle(path: Path) -> Any:
    """The content of a file of torch.save, mapped and not copied; pickled code is refused, never run.

    Raises:
        ConfigError: it is damaged, or holds more than tensors, numbers and texts.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise _damaged(path, error) from error
        raise ConfigError(
            f"{path} must hold only tensors, numbers and texts, because a pickle can run any code; it asks for {found[1]}. "
            f"Get a safetensors file, or, if you trust whoever wrote it, call within torch.serialization.safe_globals([…])."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise _damaged(path, error) from error


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == b"PK"


def _damaged(path: Path, error: Exception) -> ConfigError:
    told = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ConfigError(f"{path} must be a whole file of torch.save; reading it fails: {told}. Fetch it again.")


def _unwrapped(content: Any, path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The state dict and what stands beside it."""
    beside: dict[str, Any] = {}
    found = [key for key in WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)]
    if len(found) == 1:
        beside = {key: value for key, value in content.items() if key != found[0]}
        content = content[found[0]]
    named = {str(name): value for name, value in content.items()} if isinstance(content, dict) else {}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        what = f"a dict of {', '.join(list(named)[:8])}" if named else type(content).__name__
        raise ConfigError(
            f"{path} must hold a state dict, bare or under one of {', '.join(WRAPPERS)}; got {what}. Save that dict alone."
        )
    beside |= {name: value for name, value in named.items() if name not in tensors}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors, beside


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ConfigError: the file is missing, damaged, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} must hold a JSON object; reading it fails: {error}. Fetch it again.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a JSON object; got a {type(content).__name__}. Fetch it again.")
    return content


def exactly(stored: Stored, names: Sequence[str], kind: str) -> None:
    """Check that a file holds the tensors of a kind and no others, all finite.

    Raises:
        ConfigError: it does not.
    """
    missing = [name for name in names if name not in stored.tensors]
    extra = [name for name in stored.tensors if name not in names]
    if missing or extra:
        told = [f"{', '.join(missing)} missing"] * bool(missing) + [f"{', '.join(extra)} beside them"] * bool(extra)
        raise ConfigError(
            f"{stored.path} must hold {', '.join(names)}, as {kind} does; found {' and '.join(told)}. "
            "Name the right format or kind; tensors that are no part of the SAE can be ignored by name."
        )
    for name, tensor in stored.tensors.items():
        if not torch.isfinite(tensor).all():
            raise ConfigError(f"{stored.path} must hold finite numbers; {name} has NaN or infinity. Fetch it again.")


def oriented(stored: Stored, name: str, wanted: tuple[int, int], latent_first: bool | None) -> Tensor:
    """A matrix as [d_sae, d_model], turned where it is stored the other way round.

    Args:
        wanted: (d_sae, d_model).
        latent_first: how it is stored, where its shape cannot tell because both numbers are equal.

    Raises:
        ConfigError: neither way round fits, or both do and nobody says which.
    """
    tensor, found = stored.tensors[name], tuple(stored.tensors[name].shape)
    if found not in (wanted, wanted[::-1]):
        raise ConfigError(
            f"{name} of {stored.path} must have the shape {wanted} or {wanted[::-1]}, by the lengths of the biases; got {found}. "
            "Fetch the file again, or name its format."
        )
    if wanted[0] != wanted[1]:
        return tensor if found == wanted else tensor.T
    if latent_first is None:
        raise ConfigError(
            f"{name} of {stored.path} must have two different lengths to tell which way round it is stored; got {found}. "
            "Say how the encoder is stored: latent_first or width_first."
        )
    return tensor if latent_first else tensor.T
