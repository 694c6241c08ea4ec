"""Stores that every test of this room reads."""

from pathlib import Path

import pytest
from planted_stores import planted_store


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Rows of `base`, of another stage on the same texts with more sinks, and held-out ones."""
    folder = tmp_path_factory.mktemp("stores")
    return {
        "base": planted_store(folder / "base", "train", seed=1),
        "moved": planted_store(folder / "moved", "train", seed=2, sinks=7),
        "val": planted_store(folder / "val", "val", texts=30, seed=3),
    }
