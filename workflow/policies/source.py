"""Models by name: the embedded one, a hub id or a local directory, put into a results folder as links to their files."""

import contextlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

from workflow.config.models import EMBEDDED_PREFIX, is_local
from workflow.config.section import ConfigError
from workflow.formats.files import write_json
from workflow.policies.embedded import RECORD, embedded_model

log = logging.getLogger(__name__)
SMALL = ["*.json", "*.jinja", "*.model", "vocab.txt", "merges.txt"]
WEIGHTS = (["*.safetensors"], ["*.bin"])
"""In order of preference."""
KEPT = (".json", ".jinja", ".model", ".txt", ".safetensors", ".bin")
PAD_CANDIDATES = ("<|endoftext|>", "<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>", "<unk>")


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


def put(located: Located, folder: Path) -> dict[str, Any]:
    """Link a located model's files into an empty folder and give its tokenizer a padding token; facts for provenance.

    Raises:
        ConfigError: it is not a complete transformers directory, or no token can serve as padding.
    """
    files = [path for path in sorted(located.folder.iterdir()) if path.suffix in KEPT and path.name != RECORD]
    _check_complete(located.folder, [path.name for path in files])
    folder.mkdir(parents=True, exist_ok=True)
    symbolic = [_link(path, folder / path.name, located.kind == "directory") for path in files]
    return {
        "model_kind": located.kind,
        "model_files": "symbolic links" if any(symbolic) else "hard links",
        **_settle_padding(folder),
    }


def _link(source: Path, target: Path, symbolic: bool) -> bool:
    """A hard link where possible, so that a cleared cache takes nothing away; else, or if asked for, a symbolic one."""
    target.unlink(missing_ok=True)
    if not symbolic:
        with contextlib.suppress(OSError):
            os.link(source.resolve(), target)
            return False
    target.symlink_to(source.resolve())
    return True


def _check_complete(folder: Path, files: list[str]) -> None:
    missing = [name for name in ("config.json",) if name not in files]
    missing += [] if any(name.endswith((".safetensors", ".bin")) for name in files) else ["*.safetensors"]
    missing += [] if any(name.startswith(("tokenizer", "vocab")) for name in files) else ["tokenizer.json"]
    if missing:
        raise ConfigError(
            f"The model directory {folder} must hold {', '.join(missing)}; found {', '.join(files) or 'nothing'}. "
            "Save the model and its tokenizer there with save_pretrained."
        )


def _settle_padding(folder: Path) -> dict[str, Any]:
    """Give a tokenizer without a padding token of its own one that no text uses."""
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return {}
    vocab = tokenizer.get_vocab()
    pad = next((token for token in PAD_CANDIDATES if token in vocab and token != tokenizer.eos_token), None)
    path = folder / "tokenizer_config.json"
    if pad is None or not path.is_file():
        raise ConfigError(
            f"The tokenizer in {folder} must have a padding token other than its end token {tokenizer.eos_token!r}; none of "
            f"{', '.join(PAD_CANDIDATES)} is in its vocabulary. Set pad_token in tokenizer_config.json to a token without use."
        )
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()  # a link: what it points to stays as it is
    write_json(path, {**settings, "pad_token": pad})
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    log.info("padding token set to %s, which differs from the end token %s", pad, tokenizer.eos_token)
    return {"pad_token": pad}


def emptied(folder: Path) -> Path:
    """The folder, existing and empty."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
