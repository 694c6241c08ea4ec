"""Whose latents are counted on which rows, and the counts of all prompts as they wait on disk until they are compared.

The frozen view of stage t is one SAE that never saw its rows, on X_0 and on X_t: S_0, in the chain `null` U_t. What changes there
cannot be re-fit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open
from torch import Tensor

from sae_core.metrics.firing import FiringSums, unpacked
from workflow.formats.drift import BASE, NULL, REAL, Pair, own_pair

OWN_RULE, THRESHOLD = "own_rule", "threshold"
PACKED = ("rows", "offsets", "latents", "firings", "activation")


class View(NamedTuple):
    """An SAE on a store, and what makes its latents active."""

    pair: Pair
    rule: str = OWN_RULE
    """`own_rule`, or `threshold`: one threshold for all latents, see `sae_core.metrics.threshold`."""

    def key(self, field: str) -> str:
        """Name of one tensor of its counts."""
        return f"firings/{self.pair.name}/{self.rule}/{field}"


def frozen_pairs(chain: str, stage: str) -> tuple[Pair, Pair]:
    """The frozen view of a stage: one SAE on X_0 and on X_t."""
    sae = (NULL, stage) if chain == NULL and stage != BASE else (REAL, BASE)
    return Pair(*sae, BASE), Pair(*sae, stage)


def counted_views(stages: Sequence[str], chains: Sequence[str], with_threshold: bool) -> list[View]:
    """Every SAE on the rows that its chain trains on, and the frozen views; those of S_0 also under a threshold."""
    saes = [(REAL, BASE), *((chain, stage) for chain in chains for stage in stages if stage != BASE)]
    views = [View(pair) for sae in saes for pair in (own_pair(*sae), *frozen_pairs(*sae))]
    if with_threshold:
        views += [View(Pair(REAL, BASE, stage), THRESHOLD) for stage in stages]
    return list(dict.fromkeys(views))


def named_firings(firings: Mapping[View, FiringSums]) -> dict[str, Tensor]:
    """Counts as tensors by name, in few bytes."""
    return {view.key(field): tensor for view, sums in firings.items() for field, tensor in sums.packed().items()}


class KeptFirings:
    """Counts read back from the files of the stores, two views at a time instead of all."""

    def __init__(self, files: Mapping[str, Path], d_sae: int) -> None:
        """`files` by the stage of the store."""
        self._files, self._d_sae = files, d_sae

    def of(self, view: View) -> FiringSums:
        """The counts of one view."""
        with safe_open(self._files[view.pair.store_stage], framework="pt") as tensors:
            return unpacked({field: tensors.get_tensor(view.key(field)) for field in PACKED}, self._d_sae)
