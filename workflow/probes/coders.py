"""Everything that turns a row into a sparse code, by the name of its feature sets: SAEs, what they started from, a random map."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_core.config.sae import TopKConfig
from sae_core.kernels.backend import Backend
from sae_core.models.build import build, initial
from sae_core.models.reading import Reader
from sae_core.models.sae import SAE
from workflow.config.section import ConfigError
from workflow.formats.activations import ShuffledBatches, Store
from workflow.formats.saes import StoredSae, read_sae
from workflow.seeds import named_seed

BASE = "base"
FIRST_ROWS = 4096
"""Rows whose mean an untrained SAE starts from."""


class Coder(NamedTuple):
    """Codes of rows, and the sets that are made of them."""

    reader: Reader
    pooling: tuple[str, ...]
    """Of the codes."""
    name: str
    """Of the sets of codes, without the pooling: `sae.topk`."""
    rest: str | None
    """Behind `sae_error.` and `sae_reconstruction.`; None where neither is kept."""
    facts: dict[str, Any]
    """Attributes of its sets."""

    @property
    def width(self) -> int:
        """Latents."""
        return self.reader.sae.config.d_sae


class Wanted(NamedTuple):
    """Which codes are made; the fields of config section `probes.features` have the same names."""

    pooling: Sequence[str]
    random_projection: bool
    untrained: bool
    seed: int


def coders(
    manifests: Sequence[Path | str], store: Store, stage: str, wanted: Wanted, backend: Backend, device: torch.device
) -> list[Coder]:
    """All coders of one layer of one policy.

    Args:
        manifests: of the SAEs of the stage, and behind base also of those of base, at this layer.
        store: rows of the policy at this layer.
        stage: of the policy.
        wanted: see there.
        backend: encodes.
        device: where.

    Raises:
        ConfigError: an SAE of other rows.
    """
    stored = [_fitting(path, store) for path in manifests]
    first = min(sae.facts["seed"] for sae in stored)
    rows = next(ShuffledBatches(store, min(FIRST_ROWS, len(store)), FIRST_ROWS, 0).batches()) if wanted.untrained else None
    found = []
    for sae in stored:
        own = sae.facts["stage"] == stage
        name = _name(sae, first)
        facts = {"sae": sae.facts["digest"], "sae_stage": sae.facts["stage"], "seed": sae.facts["seed"]}
        pooling = tuple(wanted.pooling) if own else ("max",)
        prefix = "sae" if own else "base_sae"
        found.append(Coder(Reader(sae.model.to(device), backend), pooling, f"{prefix}.{name}", name if own else None, facts))
        if own and rows is not None:
            fresh = untrained(sae, rows).to(device)
            facts = {"k": fresh.config.k, "seed": sae.facts["seed"]}  # type: ignore[attr-defined]  # a TopK SAE
            found.append(Coder(Reader(fresh, backend), ("max",), f"untrained.{name}", None, facts))
    if wanted.random_projection:
        one = next(sae for sae in stored if sae.facts["stage"] == stage)
        chance = random_map(one.model.config.d_model, one.model.config.d_sae, active(one), wanted.seed).to(device)
        facts = {"k": active(one), "seed": wanted.seed}
        found.append(Coder(Reader(chance, backend), ("max",), "random_projection", None, facts))
    return found


def active(sae: StoredSae) -> int:
    """Latents that an SAE keeps per row, from its own held-out measurement."""
    return min(max(1, round(sae.facts["l0"])), sae.model.config.d_sae)


def untrained(sae: StoredSae, rows: Tensor) -> SAE:
    """The directions from which the chain of an SAE began, with as many active latents per row as it has now.

    Whatever its kind, the largest latents are kept: what thresholds would let pass before training says nothing. The mean is that
    of `rows`, the scale its own, which training leaves alone.
    """
    own = sae.model.config
    config = TopKConfig(
        d_model=own.d_model, d_sae=own.d_sae, pre_bias=own.pre_bias, normalise=own.normalise, k=active(sae), keep="relu"
    )
    fresh = initial(config, rows, named_seed(f"{sae.facts['seed']}/{sae.facts['layer']}/0/directions"))
    return build(config, fresh.tensors() | {"scale": sae.model.scale})


def random_map(d_model: int, width: int, k: int, seed: int) -> SAE:
    """A map of random unit directions of which the k largest products are kept, with their signs: no mean, no training."""
    directions = torch.randn(width, d_model, generator=torch.Generator().manual_seed(seed))
    directions = torch.nn.functional.normalize(directions, dim=1)
    config = TopKConfig(d_model=d_model, d_sae=width, pre_bias="none", normalise="scale", k=k, keep="absolute")
    nothing = {"b_enc": torch.zeros(width), "b_dec": torch.zeros(d_model), "scale": torch.ones(())}
    return build(config, {"W_enc": directions, "W_dec": directions, **nothing})


def _name(sae: StoredSae, first: int) -> str:
    """Its kind, and where it is not of the first seed, the seed."""
    kind, seed = sae.facts["kind"], sae.facts["seed"]
    return kind if seed == first else f"{kind}.seed_{seed}"


def _fitting(path: Path | str, store: Store) -> StoredSae:
    sae = read_sae(path)
    wanted: Mapping[str, Any] = {"d_model": store.d_model, "layer": store.layer, "hook_point": store.hook_point}
    for field, value in wanted.items():
        if sae.facts[field] != value:
            raise ConfigError(
                f"An SAE must have {field} = {value} to read these rows; {path} has {sae.facts[field]}. Train it on rows of this "
                "layer of these policies."
            )
    return sae
