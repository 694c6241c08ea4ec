"""The rows of the tables splice and outputs, from sums by prompt."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workflow.config.section import ConfigError
from workflow.formats.drift import BASE, NULL, REAL
from workflow.formats.drift_columns import Estimate
from workflow.formats.intervention_columns import Outputs, Splice
from workflow.formats.interventions import NOTHING
from workflow.statistics import interval, multiplicities

Sums = Mapping[str, np.ndarray]
"""Float64 [prompt] by column."""
SAE_OF = {"real": REAL, "frozen": REAL, "null": NULL}
"""Chain of the SAE that a splice calls by this name."""


class PromptBootstrap:
    """Ratios of sums over prompts: the point, then a replicate for each draw of prompts; the same draws for all."""

    def __init__(self, prompts: int, replicates: int, confidence: float, seed: int) -> None:
        """Draw the prompts.

        Raises:
            ConfigError: fewer than two prompts.
        """
        drawn = multiplicities(prompts, replicates, seed)
        self._weights = np.vstack([np.ones((1, prompts), drawn.dtype), drawn]).astype(np.float64)
        self._confidence = confidence

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum over the drawn prompts, [1 + replicates]."""
        return self._weights @ values

    def estimate(self, statistic: np.ndarray) -> Estimate:
        """Point and percentile interval of a statistic.

        Raises:
            ConfigError: a replicate is not finite.
        """
        return Estimate(float(statistic[0]), *interval(statistic[1:], self._confidence))


def splice_rows(
    *, run: str, stage: str, update: int, facts: Mapping[str, Any], table: pd.DataFrame, bootstrap: PromptBootstrap
) -> Iterator[Splice]:
    """One row per SAE of one splice, chain `real` first, S_0 last.

    Args:
        run: RL run in which it is told; `base` is told in each.
        stage: of the policy.
        update: PPO updates behind it.
        facts: manifest of the splice.
        table: its sums.
        bootstrap: over its prompts.

    Raises:
        ConfigError: the sums are not of the problems that the manifest names.
    """
    named = ["tokens", "ce", "kl"]
    sums = {str(put): _columns(rows, facts["problems"], named) for put, rows in table.groupby("put", sort=False)}
    tokens = bootstrap.total(sums[NOTHING]["tokens"])
    ce = {put: bootstrap.total(columns["ce"]) / tokens for put, columns in sums.items()}
    own = ce[NOTHING]
    for name in (name for name in SAE_OF if name in sums):
        frozen = ce[name] - ce["frozen"] if "frozen" in sums and name != "frozen" else None
        null = ce[name] - ce["null"] if "null" in sums and name == "real" else None
        yield Splice(
            run=run, text=facts["text"], kind=facts["kind"], chain=SAE_OF[name], seed=facts["seed"], layer=facts["layer"],
            sae_stage=BASE if name == "frozen" else stage, stage=stage, update=update, prompts=len(facts["problems"]),
            tokens=int(tokens[0]), ce=float(own[0]), ce_spliced=float(ce[name][0]),
            ce_mean=float(ce["mean"][0]) if "mean" in ce else None, ce_zero=float(ce["zero"][0]) if "zero" in ce else None,
            delta_ce=bootstrap.estimate(ce[name] - own), kl=bootstrap.estimate(bootstrap.total(sums[name]["kl"]) / tokens),
            recovered_mean=_recovered(bootstrap, ce, name, "mean"), recovered_zero=_recovered(bootstrap, ce, name, "zero"),
            over_frozen=None if frozen is None else bootstrap.estimate(frozen),
            over_null=None if null is None else bootstrap.estimate(null),
        )  # fmt: skip


def _recovered(bootstrap: PromptBootstrap, ce: Mapping[str, np.ndarray], name: str, ablation: str) -> Estimate | None:
    """(CE_abl − CE_S)/(CE_abl − CE_orig). Source: `ce_loss_score` of SAELens, `loss_recovered` of dictionary_learning."""
    if ablation not in ce:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return bootstrap.estimate((ce[ablation] - ce[name]) / (ce[ablation] - ce[NOTHING]))


def outputs_row(update: int, facts: Mapping[str, Any], table: pd.DataFrame, bootstrap: PromptBootstrap) -> Outputs:
    """The row of one comparison of π_t with π_0.

    Raises:
        ConfigError: the sums are not of the problems that the manifest names.
    """
    columns = _columns(table, facts["problems"], [name for name in table.columns if name != "problem"])
    tokens = bootstrap.total(columns["tokens"])
    mean = {name: bootstrap.total(values) / tokens for name, values in columns.items()}
    points = {name: float(mean[name][0]) for name in ("entropy", "entropy_base", "ce", "ce_base")}
    return Outputs(
        run=facts["run"], text=facts["text"], stage=facts["stage"], update=update, prompts=len(facts["problems"]),
        tokens=int(tokens[0]), kl=bootstrap.estimate(mean["kl"]), kl_reverse=bootstrap.estimate(mean["kl_reverse"]),
        entropy_change=bootstrap.estimate(mean["entropy"] - mean["entropy_base"]), **points,
    )  # fmt: skip


def _columns(rows: pd.DataFrame, problems: Sequence[str], names: Sequence[str]) -> Sums:
    if list(rows["problem"]) != list(problems):
        raise ConfigError(
            f"Sums must be of the {len(problems)} problems that their manifest names, in that order; got {len(rows)} others. "
            "Delete both and run again, they will be rebuilt."
        )
    return {name: rows[name].to_numpy().astype(np.float64) for name in names}
