"""What can be known of a language model before any job starts: its shape and its tokenizer, from two small files."""

import json
from pathlib import Path
from typing import NamedTuple

from workflow.config.section import ConfigError

EMBEDDED_PREFIX = "embedded:"


class ModelShape(NamedTuple):
    """Size of a language model."""

    layers: int
    """Transformer blocks."""
    d_model: int
    """Width of the residual stream."""
    parameters: int
    """Weights, roughly, for the estimate of disk space."""


EMBEDDED = {"SmolLM2-135M-Instruct": ModelShape(layers=30, d_model=576, parameters=134_515_008)}
"""Models that come from the package index."""


def is_local(model: str) -> bool:
    """Whether a model is named by its directory: a path, or anything that exists as one."""
    return model.startswith((".", "/", "~")) or Path(model).is_dir()


def model_shape(model: str, revision: str | None = None) -> ModelShape:
    """Shape of an embedded, local or hub model.

    Raises:
        ConfigError: the model is missing, unreachable, or its config.json lacks the sizes.
    """
    if model.startswith(EMBEDDED_PREFIX):
        name = model.removeprefix(EMBEDDED_PREFIX)
        if name not in EMBEDDED:
            raise ConfigError(
                f"An embedded model must be one of {', '.join(EMBEDDED)}; got {name!r}. "
                "Correct policies.model, or give a hub id or a directory."
            )
        return EMBEDDED[name]
    return _shape(json.loads(model_file(model, revision, "config.json").read_text(encoding="utf-8")), model)


def _shape(config: dict, model: str) -> ModelShape:
    config = config.get("text_config", config)
    try:
        layers, width = config["num_hidden_layers"], config["hidden_size"]
    except KeyError as missing:
        raise ConfigError(
            f"config.json of {model} must tell num_hidden_layers and hidden_size; {missing} is missing. "
            "Give a decoder-only transformers model."
        ) from None
    inner = config.get("intermediate_size", 4 * width)
    return ModelShape(layers, width, layers * (4 * width**2 + 3 * width * inner) + config.get("vocab_size", 0) * width)


def vocabulary(model: str, revision: str | None = None) -> dict[str, int]:
    """Tokens of a model's tokenizer.json and their ids; empty for the embedded model, which is never compared."""
    if model.startswith(EMBEDDED_PREFIX):
        return {}
    tokenizer = json.loads(model_file(model, revision, "tokenizer.json").read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    plain = vocab if isinstance(vocab, dict) else {entry[0]: number for number, entry in enumerate(vocab)}
    return plain | {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}


def model_file(model: str, revision: str | None, name: str) -> Path:
    """One small file of a local or hub model; of the hub's, the cached one if there is one.

    Raises:
        ConfigError: the directory lacks it, or the hub cannot be reached or has no such model.
    """
    if is_local(model):
        return _local_file(model, name)
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
    except ImportError:
        raise ConfigError(
            f"The hub model {model} needs the package huggingface_hub beside Snakemake to be looked up; it is not installed. "
            "Install it (pip install huggingface_hub), or give the model as a directory."
        ) from None
    cached = try_to_load_from_cache(model, name, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except Exception as error:  # the hub client raises a family of errors of several packages
        raise ConfigError(
            f"The model {model} (revision {revision or 'newest'}) must be on the hub or in its cache; asking for {name} failed: "
            f"{type(error).__name__}: {str(error).splitlines()[0]}. Check the name, the revision and the network, "
            "or download the model to a directory and give its path."
        ) from None


def _local_file(model: str, name: str) -> Path:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"A local model must be a directory; {folder} does not exist. "
            "Put config.json, tokenizer.json and the weights there, or correct the path."
        )
    if not (folder / name).is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise ConfigError(
            f"The model directory {folder} must hold {name}; found {found or 'nothing'}. "
            "Save the model and its tokenizer there with save_pretrained."
        )
    return folder / name


def local_weights(model: str, adapter: str | None) -> list[str]:
    """Files of local directories whose change must re-make what was built from them."""
    folders = [Path(name).expanduser() for name in (model, adapter) if name and is_local(name)]
    endings = (".json", ".safetensors", ".bin", ".jinja", ".model")
    return [str(path) for folder in folders for path in sorted(folder.glob("*")) if path.suffix in endings]
