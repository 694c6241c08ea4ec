"""Located models, put into a results folder as links to their files."""

import contextlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from workflow.config.section import ConfigError
from workflow.embedded_model import RECORD
from workflow.formats.files import write_json
from workflow.model_sources import Located

log = logging.getLogger(__name__)
KEPT = (".json", ".jinja", ".model", ".txt", ".safetensors", ".bin")
PAD_CANDIDATES = ("<|endoftext|>", "<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>", "<unk>")


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
