"""Where step-level SAEs and the base models around them are: a file, a folder or the hub.

The hub is asked through its client, whose cache serves alone where the hub cannot be reached.
"""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from workflow.config.models import is_local, model_file
from workflow.config.section import ConfigError
from workflow.formats.step_saes import FILE

ENDINGS = (".pt", ".pth")
"""Of files in the released layout."""
BASES = {"qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B", "llama-3.2-1b": "meta-llama/Llama-3.2-1B"}
"""Hub ids of base models by the name of their folder, which is all that released files tell of the machine they were made on."""
BASE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
"""What a file needs of its base model: all weights are its own."""


class LocatedStepSAE(NamedTuple):
    """An SSAE on this machine."""

    path: Path
    """A file in the released layout, or the manifest.json of an SSAE that saedrift wrote."""
    revision: str | None
    """Commit of a hub id; None of a file that was given."""


def locate_step_sae(name: str | Path, *, file: str | None = None, revision: str | None = None) -> LocatedStepSAE:
    """The file of an SSAE; that of a hub id is fetched into the hub's cache if it is not there.

    Args:
        name: a file, a folder or a hub id; a folder may be one that saedrift wrote.
        file: which of the folder or the hub repository; None: the only one.
        revision: of a hub id, best its commit; None is the newest.

    Raises:
        ConfigError: there is no such file, or several; the hub cannot be reached and its cache lacks the file.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return LocatedStepSAE(path.resolve(), None)
    if path.is_dir():
        if file is None and (path / FILE).is_file():
            return LocatedStepSAE((path / "manifest.json").resolve(), None)
        return LocatedStepSAE((path / _only(_names(path), file, str(name))).resolve(), None)
    if is_local(str(name)) or path.suffix in ENDINGS:
        raise ConfigError(f"A local SSAE must be a file or a folder with one; {path} does not exist. Correct the path.")
    return _from_hub(str(name), file, revision)


def locate_base(named: str | None, *, base: str | Path | None = None, revision: str | None = None) -> Path:
    """Folder with configuration and tokenizer of the base model around which an SSAE was trained.

    Args:
        named: what the SSAE's file says of it: a folder of this machine or another one, a hub id, or nothing.
        base: folder or hub id, whatever the file says.
        revision: of a hub id.

    Raises:
        ConfigError: nothing tells the base model, or it cannot be had.
    """
    if base is None and named is not None:
        base = named if Path(named).is_dir() else BASES.get(PurePosixPath(named).name.casefold())
    if base is None:
        raise ConfigError(
            f"The base model must be known; the SSAE's file says {named or 'nothing'!r}, which is neither a folder here nor one of "
            f"{', '.join(BASES.values())}. Give the folder or the hub id of the model it was trained around (ssae.base_model)."
        )
    config, *_ = [model_file(str(base), revision, file) for file in BASE_FILES]
    return config.parent


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in ENDINGS)


def _only(found: list[str], file: str | None, where: str) -> str:
    listed = ", ".join(found) or f"none that ends in {' or '.join(ENDINGS)}"
    if file is not None and file not in found:
        raise ConfigError(f"{where} must hold the SSAE {file}; its files are: {listed}. Correct the name (ssae.given.file).")
    if file is None and len(found) != 1:
        raise ConfigError(f"{where} must hold one SSAE, or be told which; its files are: {listed}. Name one (ssae.given.file).")
    return file or found[0]


def _from_hub(name: str, file: str | None, revision: str | None) -> LocatedStepSAE:
    from huggingface_hub import hf_hub_download

    chosen = file or _only(_names_on_hub(name, revision), None, f"The hub repository {name}")
    try:
        path = Path(hf_hub_download(name, chosen, revision=revision))
    except Exception as error:  # the hub client raises a family of errors of several packages
        raise _unreachable(name, revision, chosen, error) from None
    return LocatedStepSAE(path, path.parents[len(PurePosixPath(chosen).parts) - 1].name)


def _names_on_hub(name: str, revision: str | None) -> list[str]:
    from huggingface_hub import HfApi, snapshot_download

    try:
        return sorted(file for file in HfApi().list_repo_files(name, revision=revision) if file.endswith(ENDINGS))
    except Exception as error:
        try:
            return _names(Path(snapshot_download(name, revision=revision, local_files_only=True)))
        except Exception:
            raise _unreachable(name, revision, "its list of files", error) from None


def _unreachable(name: str, revision: str | None, wanted: str, error: Exception) -> ConfigError:
    told = str(error).splitlines()[0]
    return ConfigError(
        f"The SSAE {name} (revision {revision or 'newest'}) must be a file or a folder, on the hub or in its cache; fetching "
        f"{wanted} failed: {type(error).__name__}: {told}. Check the name, the revision and the network, or download the file "
        "and give its path."
    )
