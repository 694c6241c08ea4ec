"""cfg.json of SAELens: what version 6 writes, what came before it, and the defaults that SAELens takes for what is missing.

A file is of version 6 if `sae_lens_version`, at the top or in `metadata`, says so. Before, everything lay flat: hook_point,
activation_fn_str, activation_fn_kwargs; architecture and apply_b_dec_to_input may be missing and are then standard and true.
Source: SAELens 6.54.12, handle_config_defaulting and the fields of its configurations.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from packaging.version import InvalidVersion, Version

from workflow.config.section import ConfigError
from workflow.formats.published.facts import Given, settled

KINDS = ("standard", "topk", "abstopk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk")
"""The last two only in files of an SAE that is still trained."""
NORMALISATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")
RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
FIRST = Version("6.0.0rc0")
"""From here on cfg.json has the form of version 6."""
OWN = ("d_in", "d_sae", "dtype", "device", "architecture", "apply_b_dec_to_input", "normalize_activations", "metadata")
"""Keys that are read or of no account; all others are passed on."""


class Settings(NamedTuple):
    """What cfg.json says, gaps filled."""

    architecture: str
    d_in: int | None
    d_sae: int | None
    k: float | None
    """None for kinds without."""
    by_decoder_norm: bool
    widths: tuple[int, ...]
    apply_b_dec_to_input: bool
    normalize_activations: str
    hook_name: str | None
    assumed: tuple[str, ...]
    about: Mapping[str, Any]


def settings(cfg: Mapping[str, Any] | None, given: Given, path: Path, names: Collection[str]) -> Settings:
    """What cfg.json says, or what can be said without one.

    Args:
        cfg: None where there is no such file.
        names: of the tensors; without cfg.json they tell the kind.

    Raises:
        ConfigError: something is missing that nobody may guess, or has no equal here.
    """
    if cfg is None:
        kind = "gated" if "b_gate" in names else "jumprelu" if "threshold" in names else "topk" if given.k else "standard"
        nested: Mapping[str, Any] = {"architecture": kind, "normalize_activations": "none"}
        assumed = [f"architecture: {kind}, normalize_activations: none (there is no cfg.json)"]
    else:
        nested, assumed = (cfg, []) if _is_modern(cfg, path) else _modern(cfg, path)
    architecture = _architecture(nested, path)
    metadata = {**_flat(nested), **(nested.get("metadata") or {})}
    subtracts = _subtracts(nested, given, path, assumed, known=cfg is not None)
    return Settings(
        architecture, nested.get("d_in"), nested.get("d_sae"), _k(nested, architecture, given, path, assumed),
        _by_decoder_norm(nested, architecture, assumed), tuple(nested.get("matryoshka_widths", ())), subtracts,
        _normalisation(nested, path, assumed), _hook_name(metadata, given, path, assumed), tuple(assumed), metadata,
    )  # fmt: skip


def _is_modern(cfg: Mapping[str, Any], path: Path) -> bool:
    nested = cfg.get("metadata") or {}
    if not isinstance(nested, Mapping):
        raise ConfigError(f"metadata of {path} must be a JSON object; got {nested!r}. Correct it.")
    told = cfg.get("sae_lens_version") or nested.get("sae_lens_version")
    try:
        return bool(told) and Version(told) >= FIRST
    except (InvalidVersion, TypeError) as error:
        raise ConfigError(f"sae_lens_version of {path} must be a version; got {told!r}. Correct it, 6.0.0 for example.") from error


def _modern(cfg: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """A configuration of before version 6 in the form of version 6."""
    new = {RENAMED.get(name, name): value for name, value in cfg.items()}
    assumed = []
    activation, kwargs = new.get("activation_fn") or "relu", new.get("activation_fn_kwargs") or {}
    if activation not in ("relu", "topk"):
        raise ConfigError(f"activation_fn of {path} must be relu or topk; got {activation}. SAEs with others cannot be read.")
    if "topk" in (activation, new.get("architecture")):
        new |= {"architecture": "topk", "k": kwargs.get("k", new.get("k"))}
    elif "architecture" not in new:
        new["architecture"] = "standard"
        assumed.append("architecture: standard (SAELens' default of before version 6)")
    if isinstance(new.get("normalize_activations"), bool):
        new["normalize_activations"] = "expected_average_only_in" if new["normalize_activations"] else "none"
    if "hook_z" in str(new.get("hook_name", "")):
        new.setdefault("reshape_activations", "hook_z")
    return new, assumed


def _architecture(cfg: Mapping[str, Any], path: Path) -> str:
    found = cfg.get("architecture")
    if found is None:
        raise ConfigError(
            f"{path} must say architecture, as every file of SAELens 6 does; it is missing. Add one of {', '.join(KINDS)} to it."
        )
    if found not in KINDS:
        raise ConfigError(f"architecture of {path} must be one of {', '.join(KINDS)}; got {found}. Other kinds cannot be read.")
    return found


def _flat(cfg: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in cfg.items() if name not in OWN}


def _k(cfg: Mapping[str, Any], architecture: str, given: Given, path: Path, assumed: list[str]) -> float | None:
    if "topk" not in architecture:
        return None
    k = settled("k", cfg.get("k"), given.k, str(path))
    if k is None:
        raise ConfigError(
            f"{path} must say k, as a {architecture} SAE needs it; it is missing (SAELens would take 100). "
            "Give the k it was trained with."
        )
    if cfg.get("k") is None:
        assumed.append(f"k: {k} (given)")
    return k


def _subtracts(cfg: Mapping[str, Any], given: Given, path: Path, assumed: list[str], known: bool) -> bool:
    told = None if given.pre_bias is None else given.pre_bias == "decoder"
    found = settled("apply_b_dec_to_input", cfg.get("apply_b_dec_to_input"), told, str(path))
    if found is None and not known:
        raise ConfigError(
            f"apply_b_dec_to_input must be known; {path} is missing, which would say it. Give pre_bias: decoder (true, SAELens' "
            "default before version 6) or none (false); the right one has the lower reconstruction error."
        )
    if cfg.get("apply_b_dec_to_input") is None:
        source = "SAELens' default" if found is None else "given"
        assumed.append(f"apply_b_dec_to_input: {'false' if found is False else 'true'} ({source})")
    return True if found is None else bool(found)


def _by_decoder_norm(cfg: Mapping[str, Any], architecture: str, assumed: list[str]) -> bool:
    """Whether selection is by z · ‖W_dec row‖; SAELens' defaults differ between inference and training."""
    found = cfg.get("rescale_acts_by_decoder_norm")
    if found is None and "topk" in architecture:
        found = "batchtopk" in architecture
        assumed.append(f"rescale_acts_by_decoder_norm: {str(found).lower()} (SAELens' default)")
    return bool(found)


def _normalisation(cfg: Mapping[str, Any], path: Path, assumed: list[str]) -> str:
    found = cfg.get("normalize_activations")
    if found is None:
        found = "none"
        assumed.append("normalize_activations: none (SAELens' default)")
    if found not in NORMALISATIONS:
        raise ConfigError(
            f"normalize_activations of {path} must be one of {', '.join(NORMALISATIONS)}; got {found}. "
            "Save the inference model with SAELens, which folds a whitening into the tensors."
        )
    return found


def _hook_name(metadata: Mapping[str, Any], given: Given, path: Path, assumed: list[str]) -> str | None:
    found = metadata.get("hook_name")
    if found is None and given.hook_point:
        assumed.append(f"hook_name: {given.hook_point} (given)")
    return settled("hook_point", found, given.hook_point, str(path))
