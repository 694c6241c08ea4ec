"""Data files of a data set of the Hugging Face hub: fetched once into its cache, taken from there when offline."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from workflow.config.section import ConfigError
from workflow.problems.row_files import SUFFIXES


class HubFiles(NamedTuple):
    """What of a data set is read."""

    paths: list[Path]
    """Files in the order of the splits, then of their names."""
    revision: str
    """Commit of the data set."""


def hub_files(dataset: str, revision: str | None, config: str | None, split: str) -> HubFiles:
    """The files of the splits of a data set, recognised by their names.

    Args:
        dataset: id on the hub, such as openai/gsm8k.
        revision: commit, branch or tag; None is the newest, or the newest in the cache when the hub is out of reach.
        config: folder of the data set that holds them; None where there is only one.
        split: name, or several joined by `+`.

    Raises:
        ConfigError: the hub is out of reach and the cache lacks it, there is no such data set or revision, or no such file in it.
    """
    snapshot = _snapshot(dataset, revision, config, split)
    files = sorted(path for path in snapshot.rglob("*") if path.suffix in SUFFIXES)
    paths = [path for name in split.split("+") for path in _of_split(files, snapshot, config, name, dataset)]
    return HubFiles(paths, snapshot.name)


def _snapshot(dataset: str, revision: str | None, config: str | None, split: str) -> Path:
    from huggingface_hub import errors, snapshot_download  # needed for this one kind of source

    folder = f"{config}/" if config else ""
    patterns = [f"{folder}*{name}*{suffix}" for name in split.split("+") for suffix in SUFFIXES]
    try:
        return Path(snapshot_download(dataset, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ConfigError(
            f"problems.source and problems.revision must name a data set of the hub that you may read; {dataset!r}, revision "
            f"{revision or 'newest'}, is none: {_first_line(error)}. Correct the name, or run `hf auth login` if it is gated."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError) as error:
        raise ConfigError(
            f"problems.source = {dataset!r} must be in reach on the hub or in its cache; neither is so: {_first_line(error)}. "
            f"On a machine with network run `hf download --repo-type dataset {dataset}` with the same HF_HOME, or set "
            "problems.source to a local .jsonl, .json or .parquet file."
        ) from None


def _of_split(files: list[Path], snapshot: Path, config: str | None, split: str, dataset: str) -> list[Path]:
    """Files of one split: `<split>.jsonl`, `<split>-00000-of-00001.parquet`, or anything in a folder `<split>`."""
    named = re.compile(rf"{re.escape(split)}(?![A-Za-z0-9])")
    found = [path for path in files if named.match(path.name) or split in path.relative_to(snapshot).parts[:-1]]
    if config:
        found = [path for path in found if config in path.relative_to(snapshot).parts[:-1]]
    kinds = [suffix for suffix in SUFFIXES if any(path.suffix == suffix for path in found)]
    found = [path for path in found if path.suffix == kinds[0]]  # the same rows may be there in two formats
    folders = sorted({path.parent.relative_to(snapshot).as_posix() for path in found})
    if len(folders) != 1:
        names = ", ".join(path.relative_to(snapshot).as_posix() for path in files) or "no data file"
        raise ConfigError(
            f"problems.options must choose the files of one config and of existing splits of {dataset}; for config "
            f"{config or 'null'}, split {split!r} there are {len(found)} files in {len(folders)} folders, of {names}. "
            "Set for example problems.options: {config: main, split: train}."
        )
    return found


def _first_line(error: Any) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
