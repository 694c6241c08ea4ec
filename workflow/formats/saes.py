"""SAEs on disk: `sae.safetensors` and, beside it, `manifest.json` (artefact `sae`).

sae.safetensors MUST hold, in float32, the tensors of its kind: `W_enc` [d_sae, d_model], `W_dec` [d_sae, d_model] (rows of norm 1),
`b_dec` [d_model], `b_pre` [d_model] (only where pre_bias is `own`), `scale` []; and of the kind

- topk, topk_signed, topk_absolute, relu: `b_enc` [d_sae];
- batchtopk, matryoshka_batchtopk: `b_enc` [d_sae], `threshold` [] (negative: none was learned yet);
- jumprelu: `b_enc` [d_sae], `threshold` [d_sae];
- gated: `b_gate`, `b_mag`, `r_mag` [d_sae];

and `firing_rate` [d_sae] (float32, share of the rows of the epoch whose weights these are), `reinitialised` [d_sae] (bool, since
`base`; all of an SAE that starts fresh behind it). It MAY hold Adam's moments at the end of that epoch: `first_moment.<name>` and
`second_moment.<name>` of every trained tensor and `moment_updates` [] (int64), the updates behind them along the chain. What the
tensors compute, by kind and convention, stands in `sae_core.config.sae` and in the docstrings of `sae_core.models`.

manifest.json MUST say: run, text, kind, chain, seed, stage, `source_stage` (whose policy made the rows), part, hop, layer,
hook_point, d_model, d_sae, `k` (null for kinds without), `widths` (latents; null but for matryoshka_batchtopk), `pre_bias`,
`normalise`, `decoder_norm`, `parent` (digest of the SAE it was started from, or null), `digest` (of sae.safetensors), `row_filter`,
`rows` (kept training rows), `held_out_rows`, `dropped_share`, updates (done), `best_epoch` (the epoch whose weights these are), and
of that epoch nmse, l0 (both held-out) and dead_share. Manifests of topk and topk_signed written before there were other kinds lack
widths, pre_bias, normalise and decoder_norm; they mean null, own, scale and false.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_core.config.sae import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReluConfig,
    SAEConfig,
    TopKConfig,
)
from sae_core.models.build import build, model_of
from sae_core.models.sae import SAE
from sae_core.training.records import Moments, Trained
from workflow.config.section import ConfigError
from workflow.formats.files import file_digest, replacing
from workflow.formats.manifest import read_manifest, write_manifest

ARTEFACT = "sae"
FILE = "sae.safetensors"
EXTRAS = ("firing_rate", "reinitialised")
FIRST, SECOND, UPDATES = "first_moment.", "second_moment.", "moment_updates"
CONVENTIONS = {"k": None, "widths": None, "pre_bias": "own", "normalise": "scale", "decoder_norm": False}
"""What a manifest says of its SAE beside kind, d_model and d_sae, and what it means where it does not."""


class StoredSae(NamedTuple):
    """One SAE as read."""

    model: SAE
    facts: dict[str, Any]
    """Fields of its manifest."""
    extras: dict[str, Tensor]
    """`firing_rate` [d_sae] and `reinitialised` [d_sae]."""
    moments: Moments | None = None
    """Adam's, where the file holds them."""


def config_of(kind: str, d_model: int, d_sae: int, **conventions: Any) -> SAEConfig:
    """The configuration of an SAE of this kind; conventions that the kind does not know are left aside.

    Raises:
        ValueError: the kind is unknown, or a value does not fit.
    """
    named = CONVENTIONS | conventions
    shape = {"d_model": d_model, "d_sae": d_sae, "pre_bias": named["pre_bias"], "normalise": named["normalise"]}
    selecting = shape | {"k": named["k"], "decoder_norm": named["decoder_norm"]}
    match kind:
        case "topk":
            return TopKConfig(**selecting, keep="relu")
        case "topk_signed":
            return TopKConfig(**selecting, keep="signed")
        case "topk_absolute":
            return TopKConfig(**selecting, keep="absolute")
        case "batchtopk":
            return BatchTopKConfig(**selecting)
        case "matryoshka_batchtopk":
            return MatryoshkaConfig(**selecting, widths=tuple(named["widths"]))
        case "relu":
            return ReluConfig(**shape)
        case "jumprelu":
            return JumpReLUConfig(**shape)
        case "gated":
            return GatedConfig(**shape)
        case _:
            raise ValueError(f"The kind of an SAE must be one that this version knows; got {kind!r}. Read it with a newer one.")


def facts_of(config: SAEConfig) -> dict[str, Any]:
    """What a manifest says of the SAE itself beside its kind."""
    known = asdict(config)
    widths = known.pop("widths", None)
    named = {name: known.get(name, default) for name, default in CONVENTIONS.items()}
    return {"d_model": config.d_model, "d_sae": config.d_sae, **named, "widths": widths if widths is None else list(widths)}


def write_sae(path: Path | str, trained: Trained) -> str:
    """Write sae.safetensors in one step and return its digest; equal tensors give equal bytes."""
    everything = {**trained.tensors, "firing_rate": trained.firing_rate, "reinitialised": trained.reinitialised}
    if trained.moments is not None:
        everything |= {f"{FIRST}{name}": tensor for name, tensor in trained.moments.first.items()}
        everything |= {f"{SECOND}{name}": tensor for name, tensor in trained.moments.second.items()}
        everything[UPDATES] = torch.tensor(trained.moments.count)
    write_plain(path, everything)
    return file_digest(path)


def write_plain(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors in one step."""
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def write_sae_manifest(path: Path | str, config: SAEConfig, **fields: Any) -> None:
    """Write the manifest; `fields` are those of this module's docstring that `facts_of` does not tell."""
    write_manifest(path, ARTEFACT, **facts_of(config), **fields)


def read_sae(manifest: Path | str) -> StoredSae:
    """The SAE beside a manifest, on the CPU.

    Raises:
        ConfigError: sae.safetensors is missing, not the one that the manifest describes, or incomplete.
    """
    facts = CONVENTIONS | read_manifest(manifest, ARTEFACT)
    path = Path(manifest).with_name(FILE)
    found = file_digest(path) if path.is_file() else "nothing"
    if found != facts["digest"]:
        raise ConfigError(
            f"{path} must have the digest {facts['digest'][:12]}… that its manifest names; got {found[:12]}. "
            "Delete the manifest and run again, the SAE will be rebuilt."
        )
    tensors = load_file(path)
    config = config_of(facts["kind"], facts["d_model"], facts["d_sae"], **{name: facts[name] for name in CONVENTIONS})
    needed = (*model_of(config).shapes(config), *EXTRAS)
    if lost := [name for name in needed if name not in tensors]:
        raise ConfigError(f"{path} must hold {', '.join(needed)}; {', '.join(lost)} are missing. Rebuild it.")
    return StoredSae(build(config, tensors), facts, {name: tensors[name] for name in EXTRAS}, _moments(tensors))


def _moments(tensors: Mapping[str, Tensor]) -> Moments | None:
    if UPDATES not in tensors:
        return None
    first, second = (
        {name.removeprefix(order): tensor for name, tensor in tensors.items() if name.startswith(order)}
        for order in (FIRST, SECOND)
    )
    return Moments(int(tensors[UPDATES]), first, second)
