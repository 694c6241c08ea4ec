"""The rows of the table causal, from sums by prompt."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from workflow.config.section import ConfigError
from workflow.drift.splice_rows import PromptBootstrap
from workflow.formats.intervention_columns import Causal
from workflow.formats.interventions import ALL, ALL_NULL, DRIFTED, NOTHING, NULL, RANDOM, TRANSPLANT

CELL = ("run", "text", "kind", "seed", "layer", "stage")
AGAINST_NULL = {DRIFTED: NULL, ALL: ALL_NULL}


class Effect(NamedTuple):
    """CE and KL per token of every member of a group, at the point and in each replicate: [member, 1 + replicates]."""

    ce: np.ndarray
    kl: np.ndarray


def causal_rows(update: int, facts: Mapping[str, Any], table: pd.DataFrame, bootstrap: PromptBootstrap) -> Iterator[Causal]:
    """One row per action, strength and group of one causal check.

    Args:
        update: PPO updates behind the stage.
        facts: manifest of the check.
        table: its sums.
        bootstrap: over its prompts.

    Raises:
        ConfigError: the sums are not of the problems that the manifest names.
    """
    effects, tokens = _effects(facts, table, bootstrap)
    for (action, strength, group), effect in effects.items():
        if action == NOTHING:
            continue
        unchanged = effects[NOTHING, 0.0, "base" if action == TRANSPLANT else "policy"]
        delta, kl = effect.ce - unchanged.ce, effect.kl.mean(0)
        random = effects.get((action, strength, RANDOM)) if group in (DRIFTED, NULL) else None
        null = effects.get((action, strength, AGAINST_NULL[group])) if group in AGAINST_NULL else None
        yield Causal(
            **{name: facts[name] for name in CELL}, update=update, action=action, group=group, strength=strength,
            members=len(delta), prompts=len(facts["problems"]), tokens=tokens, delta_ce=bootstrap.estimate(delta.mean(0)),
            delta_ce_least=float(delta[:, 0].min()), delta_ce_most=float(delta[:, 0].max()), kl=bootstrap.estimate(kl),
            kl_least=float(effect.kl[:, 0].min()), kl_most=float(effect.kl[:, 0].max()),
            kl_change=bootstrap.estimate(kl - unchanged.kl[0]) if action == TRANSPLANT else None,
            over_random=None if random is None else bootstrap.estimate(kl - random.kl.mean(0)),
            over_null=None if null is None else bootstrap.estimate(kl - null.kl.mean(0)),
        )  # fmt: skip


def _effects(
    facts: Mapping[str, Any], table: pd.DataFrame, bootstrap: PromptBootstrap
) -> tuple[dict[tuple[str, float, str], Effect], int]:
    """Effects by (action, strength, group), and the predicted tokens."""
    parts: dict[tuple[str, float, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    count = 0
    for name, rows in table.groupby(["action", "strength", "group", "member"], sort=False):
        action, strength, group, _ = tuple(name)  # type: ignore[arg-type]  # four keys
        if list(rows["problem"]) != list(facts["problems"]):
            raise ConfigError(
                f"Sums must be of the {len(facts['problems'])} problems that their manifest names, in that order; got {len(rows)} "
                f"others for {action} of {group}. Delete both and run again, they will be rebuilt."
            )
        tokens = bootstrap.total(rows["tokens"].to_numpy().astype(np.float64))
        count = int(tokens[0])
        ce, kl = (bootstrap.total(rows[column].to_numpy()) / tokens for column in ("ce", "kl"))
        parts.setdefault((str(action), float(strength), str(group)), []).append((ce, kl))
    return {key: Effect(*(np.stack(column) for column in zip(*members, strict=True))) for key, members in parts.items()}, count
