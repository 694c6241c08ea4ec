"""Folders for SAELens 6: every kind as the architecture that computes the same there, conventions it lacks folded.

| kind | architecture | folded |
|---|---|---|
| ReLU, JumpReLU, Gated | standard, jumprelu, gated | |
| TopK relu, absolute | topk, abstopk | norms of W_dec's rows where `scale` is not 1 and they decide the selection |
| TopK signed | topk | never silently: SAELens sets negative selected values to 0 |
| BatchTopK, Matryoshka | jumprelu | one threshold for all latents; norms of W_dec's rows where they decide the selection |

A pre-bias of its own goes into the biases of the encoder, `scale` into the matrices; codes stay what they are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_core.config.sae import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReluConfig,
    TopKConfig,
)
from sae_core.models.sae import SAE
from sae_core.models.topk import TopKSAE
from workflow.config.section import ConfigError
from workflow.formats.files import replacing, write_json
from workflow.formats.published.folding import (
    in_float32,
    in_float64,
    never_negative,
    selects_by_decoder_norm,
    without_decoder_norm,
    without_pre_bias,
    without_scale,
)
from workflow.formats.published.saelens import CONFIG, RARE, SPARSITY, TENSORS, WEIGHTS

VERSION = "6.54.12"
"""Of SAELens, whose form this is; without a version of at least 6.0.0 it drops all metadata."""
NORMALISATION = {"scale": "none", "row_norm": "constant_norm_rescale", "layer_norm": "layer_norm"}


def write_saelens(
    folder: Path | str,
    sae: SAE,
    hook_name: str,
    *,
    metadata: Mapping[str, Any] | None = None,
    firing_rate: Tensor | None = None,
    rows: Tensor | None = None,
    approximate: bool = False,
    heads: bool = False,
    force: bool = False,
) -> None:
    """Write an SAE so that `sae_lens.SAE.load_from_disk` computes what it computes.

    Args:
        hook_name: where its rows come from: `blocks.<layer>.hook_resid_post`, or the name of a module for its output.
        metadata: more for cfg.json: model_name, model_class_name, prepend_bos, context_size, dataset_path, …
        firing_rate: [d_sae], share of rows on which each latent is active; written to sparsity.safetensors.
        rows: [row, d_model], on which signed top-k is checked to select no negative value.
        approximate: write signed top-k although SAELens will set negative values to 0.
        heads: rows are the heads of an attention layer side by side, [head · d_head]; SAELens then takes [head, d_head].
        force: replace the files of an SAE that is there.

    Raises:
        ConfigError: the folder holds an SAE, or signed top-k would come out as something else.
    """
    folder = Path(folder)
    _must_be_free(folder, force)
    more: dict[str, Any] = {"sae_lens_version": VERSION, "sae_lens_training_version": None, "hook_name": hook_name}
    if isinstance(sae, TopKSAE) and sae.config.keep == "signed":
        more["signed_topk"] = never_negative(sae, rows, approximate, "SAELens topk", "SAELens sets them to 0")
    architecture, fields, trained = _kind(sae)
    tensors, by_norm = _folded(sae)
    fields |= {} if by_norm is None else {"rescale_acts_by_decoder_norm": by_norm}
    cfg = {
        "architecture": architecture, "d_in": sae.config.d_model, "d_sae": sae.config.d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": sae.config.pre_bias == "decoder", "normalize_activations": NORMALISATION[sae.config.normalise],
        "reshape_activations": "hook_z" if heads else "none", **fields, "metadata": dict(metadata or {}) | trained | more,
    }  # fmt: skip
    _write(folder, cfg, {name: tensors[name] for name in TENSORS[architecture]}, firing_rate)


def _must_be_free(folder: Path, force: bool) -> None:
    if not force and (there := [name for name in (CONFIG, WEIGHTS, SPARSITY) if (folder / name).exists()]):
        raise ConfigError(f"{folder} must not hold an SAE yet; found {', '.join(there)}. Choose another folder, or force it.")


def _kind(sae: SAE) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The architecture, its own fields of cfg.json, and what the metadata say about training."""
    match sae.config:
        case ReluConfig():
            return "standard", {}, {}
        case TopKConfig(k=k, keep=keep):
            return "abstopk" if keep == "absolute" else "topk", {"k": k}, {}
        case BatchTopKConfig(k=k):
            return "jumprelu", {}, _trained_as("batchtopk", k=k)
        case MatryoshkaConfig(k=k, widths=widths):
            return "jumprelu", {}, _trained_as("matryoshka_batchtopk", k=k, matryoshka_widths=list(widths))
        case JumpReLUConfig():
            return "jumprelu", {}, {}
        case GatedConfig():
            return "gated", {}, {}
        case _:
            raise TypeError(f"an SAE must be of one of the kinds; got {type(sae).__name__}")


def _trained_as(architecture: str, **details: Any) -> dict[str, Any]:
    return {"training_architecture": architecture, "training_architecture_details": details}


def _folded(sae: SAE) -> tuple[dict[str, Tensor], bool | None]:
    """Tensors as SAELens stores them, and whether it has to select by decoder norm; None for kinds that never do."""
    tensors, config = in_float64(sae), sae.config
    by_norm = selects_by_decoder_norm(config)
    if by_norm and (not isinstance(config, TopKConfig) or tensors["scale"] != 1):
        tensors, by_norm = without_decoder_norm(tensors), False
    if config.pre_bias == "own":
        tensors = without_pre_bias(tensors)
    tensors = without_scale(tensors)
    if isinstance(config, BatchTopKConfig | MatryoshkaConfig):
        tensors["threshold"] = tensors["threshold"].clamp_min(0).expand(config.d_sae)
    tensors["W_enc"] = tensors["W_enc"].T
    return in_float32(tensors), by_norm if isinstance(config, TopKConfig) else None


def _write(folder: Path, cfg: dict[str, Any], tensors: dict[str, Tensor], firing_rate: Tensor | None) -> None:
    """cfg.json last, so that a killed job leaves no whole folder of two SAEs."""
    for name in (CONFIG, SPARSITY):
        (folder / name).unlink(missing_ok=True)
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    if firing_rate is not None:
        with replacing(folder / SPARSITY) as temporary:
            save_file({"sparsity": torch.log10(firing_rate.double() + RARE).float()}, temporary)
    write_json(folder / CONFIG, cfg)
