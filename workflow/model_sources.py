"""Models by name: the embedded one, a hub id or a local directory, found on this machine or fetched into their caches."""

from pathlib import Path
from typing import NamedTuple

from workflow.config.models import EMBEDDED_PREFIX, is_local
from workflow.config.section import ConfigError
from workflow.embedded_model import embedded_model

SMALL = ["*.json", "*.jinja", "*.model", "vocab.txt", "merges.txt"]
WEIGHTS = (["*.safetensors"], ["*.bin"])
"""In order of preference."""


class Located(NamedTuple):
    """A model on this machine."""

    folder: Path
    revision: str | None
    """Commit of a hub id, package of the embedded model, null of a directory."""
    kind: str
    """`embedded`, `hub` or `directory`."""


def locate(name: str, revision: str | None = None) -> Located:
    """Folder of a model; the embedded model and hub ids are fetched into their caches if they are not there.

    Raises:
        ConfigError: the directory does not exist or holds no model; the hub cannot be reached and the cache lacks the model.
    """
    if name.startswith(EMBEDDED_PREFIX):
        folder, pinned = embedded_model(name.removeprefix(EMBEDDED_PREFIX))
        return Located(folder, pinned, "embedded")
    if not is_local(name):
        return _from_hub(name, revision)
    folder = Path(name).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(
            f"A local model must be a directory; {folder} does not exist. Put config.json, the tokenizer's files and the weights "
            "(or adapter_config.json and the adapter) there, or correct the path."
        )
    return Located(folder, None, "directory")


def _from_hub(name: str, revision: str | None) -> Located:
    from huggingface_hub import snapshot_download

    try:
        for weights in WEIGHTS:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*SMALL, *weights], ignore_patterns=["*/*"]))
            if any(folder.glob(weights[0])):
                return Located(folder, folder.name, "hub")
    except Exception as error:  # the hub client raises a family of errors of several packages
        raise ConfigError(
            f"The model {name} (revision {revision or 'newest'}) must be on the hub or in its cache; fetching it failed: "
            f"{type(error).__name__}: {str(error).splitlines()[0]}. Check the name, the revision and the network, or download "
            "the model to a directory and give its path."
        ) from None
    raise ConfigError(f"The model {name} must hold weights as *.safetensors or *.bin; found neither. Choose another model.")
