"""Whose SAE a file or folder holds, by the names in it; the first that fits decides. `read_any` reads it.

Formats that cannot be read are told by name where they can be told. Nothing is guessed: where files of two projects look alike and
neither the name nor what lies beside tells them apart, the caller has to.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from workflow.config.section import ConfigError
from workflow.formats.published.facts import Format, Given, Published
from workflow.formats.published.linear import LINEAR_PAIR
from workflow.formats.published.ohhmoo import place, read_ohhmoo
from workflow.formats.published.qresearch import NAME, read_qresearch
from workflow.formats.published.saelens import CONFIG, WEIGHTS, read_saelens
from workflow.formats.published.tensors import SUFFIXES, Stored, read_json, read_tensors

READERS: dict[Format, Callable[[Path, Given], Published]] = {
    "saelens": read_saelens, "ohhmoo": read_ohhmoo, "qresearch": read_qresearch
}  # fmt: skip
SHOWN = 8
"""Names listed in an error."""


def read_any(path: Path | str, **given: Any) -> Published:
    """The SAE in a file or folder of another project, whichever of those that can be read.

    Args:
        given: what the file does not say, as fields of `Given`: format, k, pre_bias, norm_scaling_factor, hook_point, encoder,
            ignore.

    Raises:
        ConfigError: there is none, it is damaged, of a format that cannot be read or told, or something must be given.
        ValueError: numbers of the file contradict each other.
    """
    path, known = Path(path), Given(**given)
    if not path.exists():
        raise ConfigError(f"{path} must be a file or folder with an SAE; there is nothing of that name. Correct the path.")
    found = file_in(path) if path.is_dir() else path
    return READERS[known.format or format_of(found)](found, known)


def file_in(folder: Path) -> Path:
    """The file that stands for the SAE of a folder: cfg.json's weights, or the only file of weights.

    Raises:
        ConfigError: there is none, several, or one of a format that cannot be read.
    """
    names = {entry.name for entry in folder.iterdir()}
    if other := _other_folder(names):
        raise _refusal(folder, other)
    if WEIGHTS in names:
        return folder / WEIGHTS
    if CONFIG in names:
        raise ConfigError(f"{folder} must hold {WEIGHTS} beside {CONFIG}; found {_listed(names)}. Fetch the weights, too.")
    weights = sorted(name for name in names if Path(name).suffix in SUFFIXES)
    if len(weights) == 1:
        return folder / weights[0]
    inside = sorted(entry.name for entry in folder.iterdir() if _has_weights(entry))
    raise ConfigError(
        f"{folder} must hold one SAE: {WEIGHTS}, or a single file that ends in {', '.join(SUFFIXES)}; "
        f"found {_listed(weights or names)}. Name one{f': {_listed(inside)} have weights' if inside else ' file'}."
    )


def _has_weights(entry: Path) -> bool:
    return entry.is_dir() and any(path.suffix in SUFFIXES for path in entry.iterdir())


def _other_folder(names: Collection[str]) -> str | None:
    """The format of a folder that cannot be read, by its files."""
    holds = set(names).issuperset
    if holds({"manifest.json", "sae.safetensors"}):
        return "an SAE of saedrift itself (workflow.formats.saes.read_sae reads it)"
    if holds({CONFIG, "sae.safetensors"}):
        return "sparsify"
    if holds({"config.json", "ae.pt"}):
        return "dictionary_learning"
    if holds({"hyperparams.json"}):
        return "OpenMOSS of 2024 (Llama Scope)"
    if holds({"params.npz"}) or holds({"params.safetensors"}):
        return "Gemma Scope"
    return None


def format_of(path: Path) -> Format:
    """Whose SAE a file holds.

    Raises:
        ConfigError: one that cannot be read, or cannot be told.
    """
    if path.suffix == ".npz":
        raise _refusal(path, "Gemma Scope")
    if path.name == CONFIG:
        return "saelens"
    stored = read_tensors(path)
    names = set(stored.tensors)
    if other := _other_file(names, path):
        raise _refusal(path, other)
    if {"b_pre", "encoder.weight"} <= names:
        return "ohhmoo"
    if set(LINEAR_PAIR) <= names:
        return _linear_pair_of(stored)
    if {"W_enc", "W_dec"} <= names:
        return "saelens"
    raise ConfigError(f"{path} must hold an SAE; no format known here has {_listed(names)}. If it is one, name its format.")


def _other_file(names: Collection[str], path: Path) -> str | None:
    """The format of a file that cannot be read, by the names of its tensors."""
    holds = set(names).issuperset
    for told, needed in (
        ("SSAE, whose SAE works on sentences and not on activations", {"autoencoder.latent_bias", "projection_mlp.0.weight"}),
        ("SSAE, its classifier", {"net.0.weight", "net.8.weight"}),
        ("OpenMOSS", {"activation_function.log_jumprelu_threshold"}),
        ("OpenMOSS", {"W_E", "W_D"}),
        ("OpenAI", {"pre_bias", "latent_bias"}),
        ("Goodfire", {"encoder_linear.weight"}),
        ("dictionary_learning (gated)", {"gate_bias", "mag_bias"}),
        ("sparsify", {"W_dec", "encoder.weight"}),
        ("dictionary_learning (Matryoshka)", {"group_sizes"}),
        ("dictionary_learning (top-k)", {"k", "threshold", "b_dec", "encoder.weight"}),
        ("Llama Scope R1", {"log_jumprelu_threshold", "encoder.weight"}),
        ("Llama Scope with a gated linear unit", {"encoder_glu.weight"}),
        ("Gemma Scope", {"w_enc", "w_dec"}),
        ("a transcoder with a skip connection", {"W_skip"}),
        ("SAELens (temporal)", {"D", "b"}),
    ):
        if holds(needed):
            return told
    if holds({"bias", "encoder.weight"}) and "decoder.bias" not in names:
        return "dictionary_learning"
    if any(name.startswith(("W_enc_", "W_dec_")) for name in names):
        return "a cross-layer transcoder"
    if holds({"W_dec", "b_dec"}) and not {"W_enc", "encoder.weight"} & set(names):
        return "SAELens (matching pursuit)"
    return None


def _linear_pair_of(stored: Stored) -> Format:
    """Whose two nn.Linear these are: by what stands in the file, beside it, or in its name."""
    path, config = stored.path, stored.beside.get("config")
    if any((folder / "hyperparams.json").is_file() for folder in (path.parent, path.parent.parent)):
        raise _refusal(path, "OpenMOSS of 2024 (Llama Scope)")
    beside = path.with_name("config.json")
    if beside.is_file() and "dict_class" in (read_json(beside).get("trainer") or {}):
        raise _refusal(path, "dictionary_learning")
    if (isinstance(config, dict) and "k" in config) or place(path):
        return "ohhmoo"
    if NAME.fullmatch(path.stem):
        return "qresearch"
    raise ConfigError(
        f"{path} must tell whose it is: qresearch (ReLU), OhhMoo (signed top-k) and others store {', '.join(LINEAR_PAIR)}; "
        "neither its name nor anything beside it tells. Name the format: qresearch or ohhmoo."
    )


def _listed(names: Collection[str]) -> str:
    told = sorted(names)
    return ", ".join(told[:SHOWN]) + (f" and {len(told) - SHOWN} more" if len(told) > SHOWN else "") if told else "nothing"


def _refusal(path: Path, told: str) -> ConfigError:
    return ConfigError(
        f"An SAE must be in a format that can be read: {', '.join(READERS)}; {path} is of {told}. "
        "Convert it to SAELens with the tools of its project first."
    )
