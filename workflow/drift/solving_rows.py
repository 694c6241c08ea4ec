"""The rows of the table solving, from graded answers."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from workflow.config.section import ConfigError
from workflow.drift.splice_rows import SAE_OF, PromptBootstrap
from workflow.formats.drift import BASE
from workflow.formats.intervention_columns import Solving
from workflow.formats.interventions import NOTHING

RULES = ("strict", "flexible")
"""Answer rules that are told of; the answers are graded by all."""


def solving_rows(
    *, run: str, update: int, facts: Mapping[str, Any], table: pd.DataFrame, bootstrap: PromptBootstrap
) -> Iterator[Solving]:
    """One row per SAE and answer rule of one policy, chain `real` first, S_0 last.

    Args:
        run: RL run in which it is told; `base` may be told in each.
        update: PPO updates behind the policy.
        facts: manifest of the answers.
        table: the answers.
        bootstrap: over its problems.

    Raises:
        ConfigError: the answers are not to the problems that the manifest names.
    """
    answers = {str(put): rows.sort_values("problem") for put, rows in table.groupby("put", sort=False)}
    for put, rows in answers.items():
        if list(rows["problem"]) != list(facts["problems"]):
            raise ConfigError(
                f"Answers must be to the {len(facts['problems'])} problems that their manifest names, one each; got {len(rows)} "
                f"others with {put}. Delete both and run again, they will be rebuilt."
            )
    for name in (name for name in SAE_OF if name in answers):
        for rule in RULES:
            yield _row(run, update, name, rule, facts, answers, bootstrap)


def _row(
    run: str, update: int, name: str, rule: str, facts: Mapping[str, Any], answers: Mapping[str, pd.DataFrame],
    bootstrap: PromptBootstrap,
) -> Solving:  # fmt: skip
    right = {put: rows[rule].to_numpy(bool) for put, rows in answers.items()}
    share = {put: bootstrap.total(found.astype(np.float64)) / len(found) for put, found in right.items()}
    before, after, plain, spliced = right[NOTHING], right[name], answers[NOTHING], answers[name]
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    frozen = share[name] - share["frozen"] if "frozen" in share and name != "frozen" else None
    null = share[name] - share["null"] if "null" in share and name == "real" else None
    return Solving(
        run=run, text=facts["text"], kind=facts["kind"], chain=SAE_OF[name], seed=facts["seed"], layer=facts["layer"],
        sae_stage=BASE if name == "frozen" else facts["stage"], stage=facts["stage"], update=update, rule=rule,
        prompts=len(before), accuracy=bootstrap.estimate(share[NOTHING]), accuracy_spliced=bootstrap.estimate(share[name]),
        accuracy_mean=float(share["mean"][0]) if "mean" in share else None,
        accuracy_zero=float(share["zero"][0]) if "zero" in share else None,
        change=bootstrap.estimate(share[name] - share[NOTHING]),
        over_frozen=None if frozen is None else bootstrap.estimate(frozen),
        over_null=None if null is None else bootstrap.estimate(null),
        right_right=int((before & after).sum()), right_wrong=lost, wrong_right=won, wrong_wrong=int((~before & ~after).sum()),
        flip_p=float(stats.binomtest(lost, lost + won).pvalue) if lost + won else None,
        same=float((plain["response"].to_numpy() == spliced["response"].to_numpy()).mean()),
        finished=_mean(plain, "finished"), finished_spliced=_mean(spliced, "finished"),
        response_tokens=_mean(plain, "tokens"), response_tokens_spliced=_mean(spliced, "tokens"),
    )  # fmt: skip


def _mean(answers: pd.DataFrame, column: str) -> float:
    return float(answers[column].to_numpy(np.float64).mean())
