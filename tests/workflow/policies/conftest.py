"""The tiny study, made once."""

from pathlib import Path

import pytest
from tiny_policy import TinyStudy, make_tiny_study


@pytest.fixture(scope="session")
def tiny_study(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """Start and base of a tiny policy whose answers are right about half of the time."""
    return make_tiny_study(tmp_path_factory.mktemp("study"), tiny_qwen2)
