"""Logarithms of the weights of traces: without a probe, and from what a probe says of their steps."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from workflow.config.section import ConfigError
from workflow.config.voting import Aggregation
from workflow.frames import Table
from workflow.voting.pool import Pool

LEAST_P = 1e-30
"""Scores below it count as it."""


def plain_weights(pool: Pool, seed: int) -> Mapping[str, np.ndarray]:
    """Log-weights [problem, sample] of the schemes without a probe; those by log-probabilities only where all are known.

    - `majority`: w = 1 (Wang et al. 2023, Self-Consistency).
    - `length`, `brevity`: tokens of the response, 1 / tokens.
    - `probability`, `confidence`: the probability of the response, Π_t p_t, and the geometric mean of p_t over its tokens; of
      Wang et al. 2023, eq. 1, the unnormalised and the normalised weighted sum.
    - `random`: uniform between 0 and 1, drawn anew for every trace: the control.
    """
    tokens = np.log(np.maximum(pool.column("tokens").astype(np.float64), 1))
    found = {"majority": np.zeros(tokens.shape), "length": tokens, "brevity": -tokens}
    known = pool.column("log_probability").astype(np.float64)
    if np.isfinite(known).all():
        found |= {"confidence": known / np.exp(tokens), "probability": known}
    uniform = 1 - np.random.default_rng([seed, *tokens.shape]).random(tokens.shape)
    return found | {"random": np.log(uniform)}


class StepScores(NamedTuple):
    """What one probe says of the steps of a pool, those without a score left out."""

    shape: tuple[int, ...]
    """[problem, sample]."""
    trace: np.ndarray
    """int64 [step], place of the step's trace among the pool's, rising."""
    p: np.ndarray
    """float64 [step], at least LEAST_P; the steps of a trace in their order."""
    unscored: int
    """Traces none of whose steps has a score."""
    partly: int
    """Traces of which some steps have none."""

    def log_weights(self, aggregation: Aggregation, tau: float) -> np.ndarray:
        """Log-weights [problem, sample]: log of the mean of p_j^τ, or τ times the log of the least, last or product of all p_j.

        A trace without any score gets the mean weight of the others.

        Source of the mean: Miaow-Lab/SSAE, experiment/probing_exp.py, without its defects.
        """
        scored, first, counts = np.unique(self.trace, return_index=True, return_counts=True)
        log_p = np.log(self.p)
        match aggregation:
            case "mean":
                # in powers of the largest p of the trace, so that none of them vanishes
                most = np.maximum.reduceat(log_p, first)
                share = np.add.reduceat(np.exp(tau * (log_p - np.repeat(most, counts))), first) / counts
                found = tau * most + np.log(share)
            case "min":
                found = tau * np.minimum.reduceat(log_p, first)
            case "product":
                found = tau * np.add.reduceat(log_p, first)
            case "last":
                found = tau * log_p[first + counts - 1]
        most = found.max()
        weights = np.full(int(np.prod(self.shape)), most + np.log(np.exp(found - most).mean()))
        weights[scored] = found
        return weights.reshape(self.shape)


def step_scores(pool: Pool, scores: Table, probe: str) -> StepScores | None:
    """The scores of one probe for the steps of a pool, None where it has none for any of them.

    Args:
        pool: traces of one split.
        scores: rows of the split with the columns `trace`, `step` and `p`; a p that is null or NaN is missing.
        probe: names the probe in messages.

    Raises:
        ConfigError: scores of traces or steps that are not in the pool, twice of one step, or beyond 0 and 1.
    """
    steps = pool.traces["steps"].to_numpy()
    places = pool.traces.set_index("trace").index.get_indexer(scores["trace"])
    step, p = scores["step"].to_numpy(), scores["p"].to_numpy(np.float64, na_value=np.nan)
    strange = (places < 0) | (step < 0) | (step >= steps[places])
    if strange.any():
        raise ConfigError(
            f"Scores must be of steps of the traces that are voted on; {probe} has one of step {step[strange][0]} of trace "
            f"{scores['trace'].to_numpy()[strange][0]}, which is not there. Fit the probes on this pool again."
        )
    if ((p < 0) | (p > 1)).any():
        raise ConfigError(
            f"Scores must be probabilities between 0 and 1; of {probe} there is {p[(p < 0) | (p > 1)][0]}. Give probabilities."
        )
    order = np.lexsort((step, places))
    places, step, p = places[order], step[order], p[order]
    if ((places[1:] == places[:-1]) & (step[1:] == step[:-1])).any():
        raise ConfigError(f"A probe must score a step once; {probe} scores steps twice. Delete the scores and run again.")
    there = np.isfinite(p)
    if not there.any():
        return None
    counts = np.bincount(places[there], minlength=len(steps))
    partly = int(((counts > 0) & (counts < steps)).sum())
    return StepScores(pool.ballots.shape, places[there], np.maximum(p[there], LEAST_P), int((counts == 0).sum()), partly)
