"""Writing so that a killed job leaves nothing half-written: temporary name, fsync, rename."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SNAKEMAKE_STAMP = ".snakemake_timestamp"


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary name beside `path`; on success its content is synced and takes the place of `path` in one rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON whose bytes depend on the value alone: sorted keys, two blanks, a final newline."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def scratch_folder(target: Path | str, key: str) -> Path:
    """The folder in which a resumable job prepares `target`: named by `key`, so that other settings never find old parts.

    Leavings of other keys for the same target are removed.
    """
    target = Path(target)
    partial = target.parent / ".partial"
    mine = partial / f"{target.name}.{key}"
    for stale in partial.glob(f"{target.name}.*") if partial.is_dir() else ():
        if stale != mine:
            shutil.rmtree(stale)
    mine.mkdir(parents=True, exist_ok=True)
    return mine


def publish(scratch: Path, target: Path | str) -> None:
    """Put a finished scratch folder in the place of `target` in one rename."""
    target = Path(target)
    for file in [path for path in scratch.rglob("*") if path.is_file() and not path.is_symlink()]:
        sync(file)
    if target.exists():
        shutil.rmtree(target)
    os.replace(scratch, target)
    sync(target.parent)
    _remove_if_empty(scratch.parent)


def remove_scratch(scratch: Path) -> None:
    """Remove a scratch folder whose result is published otherwise, and the folder of such folders if it was the last."""
    shutil.rmtree(scratch)
    _remove_if_empty(scratch.parent)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another job of the same folder may still be at work there
        folder.rmdir()


def file_digest(path: Path | str) -> str:
    """sha256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of a folder by its name."""
    return {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != SNAKEMAKE_STAMP}


def folder_digest(folder: Path | str) -> str:
    """sha256 over the names and contents of all files below a folder, without Snakemake's time stamp."""
    folder = Path(folder)
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SNAKEMAKE_STAMP):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()
