"""Files of OhhMoo's SAE-RL: `sae_{stage}_layer{N}.pt`, signed top-k on the output of block N.

A pickle of {"state_dict", "config"} or of the state dict alone, with `b_pre` [d_model], `encoder.weight` [d_sae, d_model],
`encoder.bias`, `decoder.weight` [d_model, d_sae] (unit columns), `decoder.bias`. z = (x − b_pre) Wᵀ + b; the k largest z are kept
as they are, without a ReLU; x̂ = f Dᵀ + decoder.bias, b_pre is not added back. The first revisions had no b_pre, which is then 0.
k stands in config or only in a name: `saes_k64/…`, `saes_l23_k256/…`, `…_k256_exp8.pt`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_core.config.sae import TopKConfig
from sae_core.models.sae import SAE
from sae_core.models.topk import TopKSAE
from workflow.config.section import ConfigError
from workflow.formats.files import replacing
from workflow.formats.published.facts import Given, Published, facts_of, settled
from workflow.formats.published.folding import in_float32, in_float64, never_negative, without_decoder_norm
from workflow.formats.published.linear import LINEAR_PAIR, linear_pair
from workflow.formats.published.tensors import exactly, read_tensors

K_IN_NAME = re.compile(r"(?:^|_)k(\d+)(?=_|$)")
FOLDERS = 3
"""Folders above the file in whose names k is looked for."""


class Place(NamedTuple):
    """What a file name says."""

    stage: str
    layer: int
    suffix: str
    """What follows the layer, `_k256_exp8` for example."""


def place(path: Path) -> Place | None:
    """Stage, layer and suffix of `sae_{stage}_layer{N}{suffix}.pt`, split at the last `_layer`; None for other names."""
    found = re.fullmatch(r"sae_(.+)_layer(\d+)(.*)", path.stem)
    return Place(found[1], int(found[2]), found[3]) if found else None


def read_ohhmoo(path: Path | str, given: Given | None = None) -> Published:
    """The SAE in one file.

    Raises:
        ConfigError: the file is missing, damaged or another's, or k is nowhere.
        ValueError: k is above d_sae.
    """
    path, given = Path(path), given or Given()
    stored = read_tensors(path).without(given.ignore)
    centred = "b_pre" in stored.tensors
    exactly(stored, LINEAR_PAIR + ("b_pre",) * centred, "an SAE of OhhMoo")
    config = stored.beside.get("config")
    config = dict(config) if isinstance(config, Mapping) else {}
    tensors = linear_pair(stored, given)
    d_sae, d_model = tensors["W_enc"].shape
    for name, found in (("d_model", d_model), ("d_sae", d_sae)):
        settled(name, found, config.get(name), f"the shape in {path.name}")
    assumed = [] if centred else ["b_pre: 0 (there is none, as in the first revisions)"]
    k = _k(path, config, given, assumed)
    tensors |= {"b_pre": stored.tensors["b_pre"].float()} if centred else {}
    sae_config = TopKConfig(d_model=d_model, d_sae=d_sae, k=k, keep="signed", pre_bias="own" if centred else "none")
    where = place(path)
    hook = f"blocks.{where.layer}.hook_resid_post" if where else None
    about = {**config, **({"stage": where.stage, "suffix": where.suffix} if where else {})}
    facts = facts_of("ohhmoo", settled("hook_point", hook, given.hook_point, path.name), stored.dtype, tuple(assumed), about)
    return Published(TopKSAE(sae_config, tensors), facts)


def _k(path: Path, config: Mapping[str, Any], given: Given, assumed: list[str]) -> int:
    """k from config, else from the name of the file or of a folder above it, else from the caller."""
    if config.get("k") is not None:
        return int(settled("k", config["k"], given.k, f"config of {path.name}"))
    names = [path.stem, *(folder.name for folder in path.absolute().parents[:FOLDERS])]
    told = next(((int(match[1]), name) for name in names if (match := K_IN_NAME.search(name))), None)
    k = settled("k", told[0] if told else None, given.k, f"the name {told[1]}" if told else "")
    if k is None:
        raise ConfigError(
            f"k must be known; {path} has none in its config, and neither its name nor that of a folder above has a part such "
            "as k64. Give k."
        )
    assumed.append(f"k: {k} ({f'from the name {told[1]}' if told else 'given'})")
    return k


def write_ohhmoo(
    path: Path | str,
    sae: SAE,
    *,
    config: Mapping[str, Any] | None = None,
    rows: Tensor | None = None,
    approximate: bool = False,
    force: bool = False,
) -> None:
    """Write a TopK SAE for OhhMoo's scripts, with the same reconstruction; `scale` goes into the biases.

    Codes are then in the units of x: `scale` times ours, the number `code_scale` of the file's config.

    Args:
        path: `…/sae_{stage}_layer{N}.pt`.
        config: more for the file's config.
        rows: [row, d_model], on which a TopK SAE with ReLU is checked to select no negative value.
        approximate: write such an SAE although nothing will set its negative values to 0.
        force: replace the file.

    Raises:
        ConfigError: the name is another, the file exists, or the SAE has no equal in this format.
    """
    path = Path(path)
    where, sae = _target(path, force), _with_equal(sae)
    facts: dict[str, Any] = {"d_model": sae.config.d_model, "d_sae": sae.config.d_sae, "k": sae.config.k}
    facts |= {"source": f"{where.stage}_layer{where.layer}", "code_scale": float(sae.scale)}
    if sae.config.keep == "relu":
        facts["relu_topk"] = never_negative(sae, rows, approximate, "OhhMoo's top-k", "there they stay as they are")
    tensors = _folded(sae)
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        torch.save({"state_dict": tensors, "config": dict(config or {}) | facts}, stream)


def _target(path: Path, force: bool) -> Place:
    where = place(path)
    if where is None or path.suffix != ".pt":
        raise ConfigError(f"The file must be named sae_<stage>_layer<number>.pt; got {path.name}. Rename it.")
    if path.exists() and not force:
        raise ConfigError(f"{path} must not exist yet; it does. Choose another name, or force it.")
    return where


def _with_equal(sae: SAE) -> TopKSAE:
    if isinstance(sae, TopKSAE) and sae.config.keep != "absolute" and sae.config.normalise == "scale":
        return sae
    kind = f"{type(sae).__name__} ({getattr(sae.config, 'keep', 'no top-k')}, {sae.config.normalise})"
    raise ConfigError(
        f"Only top-k by value, of rows that are not normalised one by one, has an equal in OhhMoo's format; got {kind}. "
        "Write it for SAELens."
    )


def _folded(sae: TopKSAE) -> dict[str, Tensor]:
    """The state dict: matrices as they are but for decoder norms, biases in the units of x."""
    tensors, pre_bias = in_float64(sae), sae.config.pre_bias
    tensors = without_decoder_norm(tensors) if sae.config.decoder_norm else tensors
    scale = tensors["scale"]
    pre = {"own": tensors.get("b_pre"), "decoder": tensors["b_dec"], "none": torch.zeros(sae.config.d_model)}[pre_bias]
    assert pre is not None, "an SAE with a pre-bias of its own has one"
    return in_float32({
        "b_pre": scale * pre, "encoder.weight": tensors["W_enc"], "encoder.bias": scale * tensors["b_enc"],
        "decoder.weight": tensors["W_dec"].T, "decoder.bias": scale * tensors["b_dec"],
    })  # fmt: skip
