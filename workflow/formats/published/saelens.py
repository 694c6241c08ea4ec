"""Folders of SAELens: cfg.json, sae_weights.safetensors and, where there is one, sparsity.safetensors.

W_enc is stored [d_sae, d_model] here and [d_model, d_sae] there. What SAELens computes from a folder, `SAE.load_from_disk` in
float32, the SAE that is read from it computes, too. Two folders are read that SAELens refuses: SAEs saved while a BatchTopK or
Matryoshka SAE was still trained, and weights without cfg.json.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.config.sae import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    Normalise,
    PreBias,
    ReluConfig,
    SAEConfig,
    TopKConfig,
)
from sae_core.models.build import build
from workflow.config.section import ConfigError
from workflow.formats.published.facts import Given, Published, facts_of, settled
from workflow.formats.published.saelens_config import Settings, settings
from workflow.formats.published.tensors import Stored, exactly, oriented, read_json, read_tensors

CONFIG, WEIGHTS, SPARSITY, SCALER = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "activation_scaler.json"
PLAIN = ("W_enc", "b_enc", "W_dec", "b_dec")
TENSORS = {
    "standard": PLAIN, "topk": PLAIN, "abstopk": PLAIN, "jumprelu": (*PLAIN, "threshold"),
    "gated": ("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec"),
    "batchtopk": (*PLAIN, "topk_threshold"), "matryoshka_batchtopk": (*PLAIN, "topk_threshold"),
}  # fmt: skip
"""Names of the tensors of each architecture."""
RARE = 1e-10
"""What SAELens adds to a frequency before it takes the logarithm."""


def read_saelens(path: Path | str, given: Given | None = None) -> Published:
    """The SAE in a folder, also named by its cfg.json or its weights.

    Raises:
        ConfigError: a file is missing or damaged, something has no equal here, or must be given.
        ValueError: a number of cfg.json is not possible, such as k above d_sae.
    """
    given = given or Given()
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    weights = Path(path) if Path(path).suffix == ".safetensors" else folder / WEIGHTS
    cfg = folder / CONFIG
    stored = _prepared(read_tensors(weights), given)
    told = settings(read_json(cfg) if cfg.is_file() else None, given, cfg, stored.tensors)
    exactly(stored, TENSORS[told.architecture], f"a {told.architecture} SAE of SAELens")
    d_model, d_sae = len(stored.tensors["b_dec"]), len(stored.tensors["b_gate" if told.architecture == "gated" else "b_enc"])
    for what, says, found in (("d_in", told.d_in, d_model), ("d_sae", told.d_sae, d_sae)):
        settled(what, found, says, str(weights))
    assumed = list(told.assumed)
    tensors = _latent_first(stored, (d_sae, d_model), _order(given, cfg.is_file()), assumed)
    tensors = _scaled(tensors, told, _scaling(told, given, folder, assumed))
    model = build(_config(told, d_model, d_sae, assumed), tensors)
    facts = facts_of("saelens", told.hook_name, stored.dtype, tuple(assumed), told.about)
    return Published(model, facts, _firing_rate(folder / SPARSITY, d_sae))


def _prepared(stored: Stored, given: Given) -> Stored:
    """Without what is no part of the SAE, and with the threshold of older JumpReLU SAEs."""
    stored = stored.without(given.ignore)
    tensors = dict(stored.tensors)
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    factor = tensors.get("scaling_factor")
    if factor is not None and bool((factor == 1).all()):
        del tensors["scaling_factor"]
    return stored._replace(tensors=tensors)


def _order(given: Given, has_config: bool) -> bool | None:
    """Whether the encoder is stored latent by latent; with cfg.json it is not, without only its shape can tell."""
    if given.encoder:
        return given.encoder == "latent_first"
    return False if has_config else None


def _latent_first(stored: Stored, shape: tuple[int, int], first: bool | None, assumed: list[str]) -> dict[str, Tensor]:
    """Our tensors in float32: matrices as [d_sae, d_model]."""
    matrices = {
        "W_enc": oriented(stored, "W_enc", shape, first),
        "W_dec": oriented(stored, "W_dec", shape, None if first is None else not first),
    }
    if stored.tensors["W_enc"].shape == shape and shape[0] != shape[1]:
        assumed.append("W_enc: [d_sae, d_model], by its shape (SAELens stores the other way round)")
    found = {name.removeprefix("topk_"): tensor.float() for name, tensor in (stored.tensors | matrices).items()}
    return found | {"scale": torch.ones(())}


def _scaling(told: Settings, given: Given, folder: Path, assumed: list[str]) -> float:
    """What rows are multiplied with before expected_average_only_in; 1 for other normalisations."""
    if told.normalize_activations != "expected_average_only_in":
        if given.norm_scaling_factor is not None:
            raise ConfigError(
                f"norm_scaling_factor belongs to expected_average_only_in; {folder} has {told.normalize_activations}. Leave it out."
            )
        return 1.0
    scaler = read_json(folder / SCALER) if (folder / SCALER).is_file() else {}
    factor = settled("norm_scaling_factor", scaler.get("scaling_factor"), given.norm_scaling_factor, SCALER)
    if factor is None:
        raise ConfigError(
            "The number that rows were multiplied with must be known where normalize_activations is expected_average_only_in; "
            f"nothing in {folder} tells it. Give norm_scaling_factor: sqrt(d_model) / mean norm of the training rows, or 1 for "
            "what SAELens computes from rows as they are."
        )
    if not (math.isfinite(factor) and factor > 0):
        raise ConfigError(f"norm_scaling_factor must be above 0 and finite; got {factor}. Correct it.")
    assumed.append(f"norm_scaling_factor: {factor} ({'given' if 'scaling_factor' not in scaler else SCALER})")
    return float(factor)


def _scaled(tensors: dict[str, Tensor], told: Settings, factor: float) -> dict[str, Tensor]:
    """The factor moved into the tensors, as SAELens does where it knows it."""
    if factor == 1:
        return tensors
    moved = {
        "W_enc": tensors["W_enc"] * factor, "W_dec": tensors["W_dec"] / factor, "b_dec": tensors["b_dec"] / factor
    }  # fmt: skip
    if "batchtopk" in told.architecture and told.by_decoder_norm:
        moved["threshold"] = tensors["threshold"] / factor
    return tensors | moved


def _config(told: Settings, d_model: int, d_sae: int, assumed: list[str]) -> SAEConfig:
    pre_bias: PreBias = "decoder" if told.apply_b_dec_to_input else "none"
    rowwise: Mapping[str, Normalise] = {"constant_norm_rescale": "row_norm", "layer_norm": "layer_norm"}
    common: dict[str, Any] = {
        "d_model": d_model, "d_sae": d_sae, "pre_bias": pre_bias, "normalise": rowwise.get(told.normalize_activations, "scale")
    }  # fmt: skip
    match told.architecture:
        case "standard":
            return ReluConfig(**common)
        case "jumprelu":
            return JumpReLUConfig(**common)
        case "gated":
            return GatedConfig(**common)
    k = _whole(told, assumed)
    match told.architecture:
        case "topk":
            return TopKConfig(k=k, decoder_norm=told.by_decoder_norm, **common)
        case "abstopk":
            return TopKConfig(k=k, keep="absolute", decoder_norm=told.by_decoder_norm, **common)
        case "batchtopk":
            return BatchTopKConfig(k=k, decoder_norm=told.by_decoder_norm, **common)
        case _:
            widths = told.widths if told.widths[-1:] == (d_sae,) else (*told.widths, d_sae)
            return MatryoshkaConfig(k=k, widths=widths, decoder_norm=told.by_decoder_norm, **common)


def _whole(told: Settings, assumed: list[str]) -> int:
    """k; the average over a batch may be a fraction, which is of account only where the SAE is trained on."""
    assert told.k is not None, "top-k without k is refused before"
    if told.k == int(told.k):
        return int(told.k)
    if "batchtopk" not in told.architecture:
        raise ConfigError(f"k of a {told.architecture} SAE must be a whole number; got {told.k}. Correct it in {CONFIG}.")
    assumed.append(f"k: {max(1, round(told.k))} for {told.k}, of account only where the SAE is trained on")
    return max(1, round(told.k))


def _firing_rate(path: Path, d_sae: int) -> Tensor | None:
    """Shares of rows, from logarithms to base 10."""
    if not path.is_file():
        return None
    found = read_tensors(path).tensors.get("sparsity")
    if found is None or tuple(found.shape) != (d_sae,):
        raise ConfigError(
            f"{path} must hold `sparsity` [{d_sae}]; got {'nothing' if found is None else tuple(found.shape)}. Remove that file."
        )
    return (torch.pow(10, found.double()) - RARE).clamp_min(0).float()
