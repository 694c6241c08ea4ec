"""Latents born and died between two stages: the five conditions, each with its own mask, so that a table can say which one failed.

Births of the chain `real` mean something only as excess over those that the null chain makes with the same settings.
"""

from typing import NamedTuple

import numpy as np

from workflow.config.section import ConfigError


class AliveRule(NamedTuple):
    """When a latent counts as alive: two thresholds, so that one near the border does not die and rise at every stage."""

    min_firings: int
    """Firings that make it alive, …"""
    min_prompts: int
    """… over at least as many prompts."""
    keep_firings: int
    """Firings that keep it alive once it was, …"""
    keep_prompts: int
    """… over at least as many prompts."""


class Births(NamedTuple):
    """The conditions of a birth, bool [latent] each; for deaths the same with time reversed."""

    appeared: np.ndarray
    """(1) Alive now and not before as what it is: not alive at all, or so far turned that it is no relative of itself."""
    unrelated: np.ndarray
    """(2) No alive ancestor with a cosine above the bound."""
    own: np.ndarray
    """(3) Not re-initialised."""
    unexplained: np.ndarray
    """(4) The frozen SAE leaves at least the bound's share ν of its contribution in its error."""

    @property
    def born(self) -> np.ndarray:
        """All of (1)–(4): bool [latent]."""
        return self.appeared & self.unrelated & self.own & self.unexplained

    def remaining(self) -> tuple[int, int, int, int]:
        """How many latents are left after (1), after (1) and (2), after (1)–(3) and after all."""
        steps = np.cumprod(np.stack(self), axis=0).sum(1)
        return tuple(int(step) for step in steps)  # type: ignore[return-value]  # four conditions


class Excess(NamedTuple):
    """(5) A count beside that of the null chain."""

    real: int
    """Of the chain in question."""
    null: int
    """Of the null chain at the same stage with the same settings."""
    excess: int
    """real − null; it may be negative, and of one SAE seed it has no interval."""


def alive_states(firings: np.ndarray, prompts: np.ndarray, reinitialised: np.ndarray, rule: AliveRule) -> np.ndarray:
    """Which latents are alive at each stage of one chain, with hysteresis: bool [stage, latent].

    Args:
        firings: rows on which each latent was active [stage, latent], stages in order.
        prompts: prompts with at least one such row.
        reinitialised: whether it was re-initialised since the first stage; at the stage where this turns true nothing is inherited.
        rule: thresholds.

    Raises:
        ConfigError: it is harder to stay alive than to become so.
    """
    if rule.keep_firings > rule.min_firings or rule.keep_prompts > rule.min_prompts:
        raise ConfigError(
            f"To stay alive a latent must need no more than to become alive, {rule.min_firings} firings over {rule.min_prompts} "
            f"prompts; got {rule.keep_firings} over {rule.keep_prompts}. Lower the latter."
        )
    enough = (firings >= rule.min_firings) & (prompts >= rule.min_prompts)
    kept = (firings >= rule.keep_firings) & (prompts >= rule.keep_prompts)
    states = enough.copy()
    for stage in range(1, len(states)):
        same = reinitialised[stage] == reinitialised[stage - 1]
        states[stage] |= states[stage - 1] & kept[stage] & same
    return states


def births(
    *,
    alive_before: np.ndarray,
    alive_now: np.ndarray,
    own_cosine: np.ndarray,
    ancestor_cosine: np.ndarray,
    reinitialised: np.ndarray,
    unexplained_share: np.ndarray,
    max_cosine: float,
    min_unexplained: float,
) -> Births:
    """Which latents of the later SAE were born; indices are those of one chain.

    An index says who was trained from whom and not who is who: most births of planted directions take a latent that was alive
    as something else, so (1) asks for life under the same direction.

    Args:
        alive_before: alive at the earlier stage [latent].
        alive_now: alive at the later stage.
        own_cosine: cosine of the directions of the same index at both stages.
        ancestor_cosine: largest signed cosine with any latent alive at the earlier stage, `kinship.Kinship`.
        reinitialised: re-initialised between the two.
        unexplained_share: ν of the later latents by the frozen earlier SAE on later rows, `latent_scaling.scaling`; NaN: unknown.
        max_cosine: τ; with an ancestor above it a latent is a relative.
        min_unexplained: least ν.

    Source: the need for conditions beyond (1) follows from births that reward-free control runs show as well (OhhMoo SAE-RL);
        ν after Minder et al. 2025, arXiv 2504.02922.
    """
    return Births(
        appeared=alive_now & ~(alive_before & (own_cosine > max_cosine)),
        unrelated=~(ancestor_cosine > max_cosine),
        own=~reinitialised,
        unexplained=np.nan_to_num(unexplained_share, nan=-np.inf) >= min_unexplained,
    )


def deaths(
    *,
    alive_before: np.ndarray,
    alive_now: np.ndarray,
    own_cosine: np.ndarray,
    descendant_cosine: np.ndarray,
    reinitialised: np.ndarray,
    unexplained_share: np.ndarray,
    max_cosine: float,
    min_unexplained: float,
) -> Births:
    """Which latents of the earlier SAE died: births read backwards, but for what a warm start does not forget.

    A birth is judged by the whole earlier SAE, which never saw the later rows. The later SAE inherits every latent of the earlier
    one and keeps those that no row needs any more: on earlier rows it would explain them all, and nothing would ever die. So
    (4) asks its alive latents alone whether others took over what the dead one contributed.

    Args:
        alive_before: alive at the earlier stage [latent].
        alive_now: alive at the later stage.
        own_cosine: cosine of the directions of the same index at both stages.
        descendant_cosine: largest signed cosine with any latent alive at the later stage.
        reinitialised: re-initialised between the two; its index is another latent now, so nothing is said about it.
        unexplained_share: ν of the earlier latents by the alive latents of the later SAE on earlier rows.
        max_cosine: τ.
        min_unexplained: least ν.
    """
    return births(
        alive_before=alive_now, alive_now=alive_before, own_cosine=own_cosine, ancestor_cosine=descendant_cosine,
        reinitialised=reinitialised, unexplained_share=unexplained_share, max_cosine=max_cosine, min_unexplained=min_unexplained,
    )  # fmt: skip


def excess(real: np.ndarray, null: np.ndarray) -> Excess:
    """Counts of two masks and their difference."""
    mine, theirs = int(real.sum()), int(null.sum())
    return Excess(mine, theirs, mine - theirs)
