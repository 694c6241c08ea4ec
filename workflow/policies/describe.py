"""manifest.json of a policy (artefact `policy`): where it comes from, its shape, its digests and its distance to its start.

Fields: `source` (the name it was asked for by), `revision` (the commit a hub id resolved to, else null), `files` (sha256 by file
name), `digest` (of all files), `layers`, `d_model`, `vocab`, `architecture`, `dtype` (of the stored weights), `tokenizer` (see
tokenizer_digest) and `chat_template` (sha256 or null); `run`, `stage`, `update`; `kl` (mean nats per response against the start
policy of its run, null where unknown), `kl_coef`, `kl_in` and `reward` (null where no PPO happened here).
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from transformers import PreTrainedModel

from workflow.formats.files import file_digests
from workflow.formats.manifest import write_manifest
from workflow.language_model import load_tokenizer, model_facts, tokenizer_digest

ARTEFACT = "policy"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
NOT_TOKENIZER = ("config.json", "generation_config.json", "model.safetensors.index.json")


class Place(NamedTuple):
    """Which policy of the study it is, and what PPO says of it."""

    run: str
    stage: str
    update: int
    kl: float | None = None
    kl_coef: float | None = None
    kl_in: str | None = None
    reward: str | None = None


def describe(manifest: Path | str, model: Path | str, place: Place, source: str, revision: str | None) -> dict[str, Any]:
    """Write the manifest of a finished policy folder and return its fields."""
    folder = Path(model)
    files = file_digests(folder)
    template = load_tokenizer(folder).chat_template
    fields = {
        "source": source,
        "revision": revision,
        "files": files,
        "digest": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        **model_facts(folder)._asdict(),
        "dtype": stored_dtype(folder),
        "tokenizer": tokenizer_digest(folder),
        "chat_template": hashlib.sha256(str(template).encode()).hexdigest() if template else None,
        **place._asdict(),
    }
    write_manifest(manifest, ARTEFACT, **fields)
    return fields


def stored_dtype(folder: Path) -> str:
    """Number format of the stored weights: that of the largest tensor, or what config.json says of other files."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config.get("dtype") or config.get("torch_dtype") or "unknown"
    sizes: dict[str, int] = {}
    for path in weights:
        with safe_open(path, framework="pt") as saved:
            for name in saved.keys():  # noqa: SIM118  not a dict
                part = saved.get_slice(name)
                elements = 1
                for extent in part.get_shape():
                    elements *= extent
                sizes[part.get_dtype()] = max(sizes.get(part.get_dtype(), 0), elements)
    largest = max(sorted(sizes), key=lambda form: sizes[form])
    return DTYPES.get(largest, largest)


def save_policy(model: PreTrainedModel, tokenizer_from: Path, folder: Path) -> None:
    """Save weights and configuration, and beside them the tokenizer files of another folder, byte by byte."""
    model.save_pretrained(folder)
    for path in tokenizer_files(tokenizer_from):
        shutil.copyfile(path, folder / path.name)


def tokenizer_files(folder: Path) -> list[Path]:
    """Files of a model's folder that are neither weights nor model configuration."""
    kept = (".json", ".txt", ".model", ".jinja")
    return [path for path in sorted(folder.iterdir()) if path.suffix in kept and path.name not in NOT_TOKENIZER]
