"""A cache of the hub as its client leaves it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put_into_cache(cache: Path, repository: str, files: Mapping[str, Path | str], commit: str = COMMIT) -> Path:
    """Files, by name a file or a text, under a commit; COMMIT is the newest. The folder they are in."""
    kept = cache / f"models--{repository.replace('/', '--')}"
    for name, content in files.items():
        path = kept / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copy(content, path)
        else:
            path.write_text(content, encoding="utf-8")
    (kept / "refs").mkdir(exist_ok=True)
    (kept / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    return kept / "snapshots" / commit
