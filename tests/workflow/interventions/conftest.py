"""One scene for the tests that only read it, or write below names of their own."""

from pathlib import Path

import pytest
from small_scene import Scene, make_scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory, tiny_qwen2: Path) -> Scene:
    """Texts, rows and SAEs of a tiny policy."""
    return make_scene(tmp_path_factory.mktemp("interventions"), tiny_qwen2)
