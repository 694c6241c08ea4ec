"""One finished tiny study for all tests of the whole pipeline."""

from pathlib import Path

import pytest
from tiny_study import run_study, write_study


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny study that ran to the report once."""
    folder = write_study(tmp_path_factory.mktemp("study") / "tiny")
    run_study(folder)
    return folder
