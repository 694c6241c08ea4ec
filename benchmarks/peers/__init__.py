"""Public SAE trainers that can be installed as packages, each behind one update; what is not installed is absent, and says so."""

import importlib.metadata

import torch

from benchmarks.contender import Contender
from benchmarks.shapes import Shape, Tensors

PEERS = ("eai-sparsify", "dictionary-learning", "sae-lens")


def version_of(name: str) -> str:
    """The installed version of a package.

    Raises:
        ImportError: it is not installed.
    """
    return importlib.metadata.version(name)


def peer(name: str, shape: Shape, start: Tensors, device: torch.device) -> Contender:
    """A peer's SAE with its own optimiser and defaults.

    Raises:
        ImportError: it, or something it needs, is not installed.
    """
    match name:
        case "eai-sparsify":
            from benchmarks.peers.sparsify import Sparsify

            return Sparsify(shape, start, device)
        case "dictionary-learning":
            from benchmarks.peers.dictionary_learning import DictionaryLearning

            return DictionaryLearning(shape, start, device)
        case "sae-lens":
            from benchmarks.peers.sae_lens import SAELens

            return SAELens(shape, start, device)
        case _:
            raise ValueError(f"A peer must be one of {', '.join(PEERS)}; got {name!r}. Choose one of them.")
