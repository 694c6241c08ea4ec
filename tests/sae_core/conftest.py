"""Shapes in the signatures of sae_core are checked by beartype in every test of this run."""

import sys
from collections.abc import Iterator

import pytest
import torch
from jaxtyping import install_import_hook

if "sae_core" not in sys.modules:
    install_import_hook("sae_core", "beartype.beartype")


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory that nobody has written is full of NaN and largest integers."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
