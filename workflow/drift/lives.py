"""Which latents of each SAE are alive, and what became of those of base: births, deaths, lineage."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from sae_core.metrics.firing import LatentTotals, latent_totals
from workflow.config.drift import DriftConfig
from workflow.drift.births import AliveRule, Births, alive_states, births, deaths
from workflow.drift.kinship import Kinship, kinship
from workflow.drift.lineage import Lineage, lineage
from workflow.drift.matching import unit
from workflow.drift.relating import Relation
from workflow.drift.views import KeptFirings, View
from workflow.formats.drift import BASE, COLD, REAL, own_pair
from workflow.formats.saes import StoredSae

Saes = Mapping[tuple[str, str], StoredSae]


class Life(NamedTuple):
    """The latents of one SAE on the rows that its chain trains on."""

    totals: LatentTotals
    alive: np.ndarray
    """bool [latent], with hysteresis along the chain."""
    reinitialised: np.ndarray
    """bool [latent]: since base."""

    @property
    def usable(self) -> np.ndarray:
        """Latents that are alive and still those of base."""
        return self.alive & ~self.reinitialised


class Fate(NamedTuple):
    """One SAE behind base beside S_0."""

    ancestor_cosine: np.ndarray
    """Largest cosine of each of its latents with one alive at base."""
    descendant_cosine: np.ndarray
    """Largest cosine of each latent of S_0 with one of its alive latents."""
    unexplained: np.ndarray
    """See `relating.Relation`."""
    ancestor_unexplained: np.ndarray
    """See `relating.Relation`."""
    born: Births
    died: Births
    lineage: Lineage


def directions(sae: StoredSae, rows: str = "W_dec") -> np.ndarray:
    """Directions of the latents at norm 1 in float64: of the decoder, or of another latent-major matrix."""
    tensor: Tensor = getattr(sae.model, rows)
    return unit(tensor.detach().cpu().numpy())


def own_cosine(sae: StoredSae, base: StoredSae, rows: str = "W_dec") -> np.ndarray:
    """Cosine of each latent's row with that of the same index at base."""
    return (directions(sae, rows) * directions(base, rows)).sum(1)


def lives(
    stages: Sequence[str], chains: Sequence[str], saes: Saes, firings: KeptFirings, drift: DriftConfig
) -> dict[tuple[str, str], Life]:
    """The life of every SAE's latents, chain by chain, by (chain, stage)."""
    rule = AliveRule(drift.min_firings, drift.min_prompts, *drift.to_stay_alive)
    found: dict[tuple[str, str], Life] = {}
    for chain in chains:
        names = [(REAL if stage == BASE else chain, stage) for stage in stages]
        totals = [latent_totals(firings.of(View(own_pair(*name)))) for name in names]
        marked = np.stack([_marked(saes[name], name[1]) for name in names])
        rows, prompts = (np.stack([getattr(one, field).numpy() for one in totals]) for field in ("firings", "prompts"))
        if chain == COLD:  # each stage is a fresh SAE, whose indices inherit nothing
            alive = np.concatenate(
                [alive_states(*one, rule) for one in zip(rows[:, None], prompts[:, None], marked[:, None], strict=True)]
            )
        else:
            alive = alive_states(rows, prompts, marked, rule)
        found |= {name: Life(totals[place], alive[place], marked[place]) for place, name in enumerate(names)}
    return found


def _marked(sae: StoredSae, stage: str) -> np.ndarray:
    """Latents re-initialised since base: all of a fresh SAE; what happened in base's own training does not count."""
    flags = sae.extras["reinitialised"].numpy().astype(bool)
    assert flags.shape == (sae.model.config.d_sae,)
    fresh = sae.facts["parent"] is None
    return (flags | fresh) & (stage != BASE)


def relatives(sae: StoredSae, base: StoredSae, now: Life, before: Life, drift: DriftConfig) -> Kinship:
    """Which latents of S_0 those of a later SAE point like."""
    return kinship(
        directions(sae), directions(base), now.alive, before.alive, usable_now=now.usable, min_cosine=drift.ancestor_cosine,
        most=drift.lineage_nearest,
    )  # fmt: skip


def fate(sae: StoredSae, base: StoredSae, now: Life, before: Life, found: Kinship, relation: Relation, drift: DriftConfig) -> Fate:
    """What became of the latents of base in one SAE.

    Args:
        sae: the later SAE.
        base: S_0.
        now: life of its latents.
        before: life of those of S_0.
        found: their `relatives`.
        relation: of their pairs.
        drift: bounds.
    """
    pairs, ancestor, descendant = found
    unexplained, taken_over = relation.unexplained.numpy(), relation.ancestor_unexplained.numpy()
    common = {
        "alive_before": before.alive, "alive_now": now.alive, "own_cosine": own_cosine(sae, base),
        "reinitialised": now.reinitialised, "max_cosine": drift.ancestor_cosine, "min_unexplained": drift.min_unexplained,
    }  # fmt: skip
    born = births(ancestor_cosine=ancestor, unexplained_share=unexplained, **common)
    died = deaths(descendant_cosine=descendant, unexplained_share=taken_over, **common)
    events = lineage(
        pairs, relation.correlation.numpy(), usable_now=now.usable, usable_base=before.alive, born=born.born, died=died.born,
        min_correlation=drift.lineage_correlation, persist_cosine=drift.persist_cosine,
    )  # fmt: skip
    return Fate(ancestor, descendant, unexplained, taken_over, born, died, events)
