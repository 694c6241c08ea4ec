"""Explanations against baselines on held-out rows: one row per latent, and means over latents."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sae_core.models.sae import SAE
from workflow.config.n2g import N2gConfig
from workflow.formats.drift_columns import Estimate
from workflow.formats.n2g import SILENT
from workflow.n2g.encoding import Firings, Text
from workflow.n2g.inputs import Rows
from workflow.n2g.predicting import Explanation, Lookups, PatternSet, Prediction, looked_up
from workflow.n2g.scoring import Asked, Measured, Scores, measure, scores, top_prompts
from workflow.n2g.trie import Trie
from workflow.n2g.trie import from_json as paths_from_json
from workflow.statistics import interval, multiplicities

N2G, UNIGRAM, NGRAM, SHUFFLED = "n2g", "unigram", "ngram", "shuffled"
NGRAMS = 3
UNIFORM, TOP = "uniform", "top"
METRICS = Scores._fields


class HeldOut(NamedTuple):
    """Rows on which explanations are scored."""

    rows: Rows
    prompt: np.ndarray
    """Index of each row's problem."""
    prompts: int


class Bootstrap:
    """Weights of prompts, the point first, and estimates from vectors of that length."""

    def __init__(self, prompts: int, *, replicates: int, confidence: float, seed: int) -> None:
        drawn = multiplicities(prompts, replicates, seed)
        self.weights = np.vstack([np.ones((1, prompts), drawn.dtype), drawn]).astype(np.float32)
        self._confidence = confidence

    def estimate(self, vector: np.ndarray) -> Estimate:
        """Point and interval."""
        return Estimate(float(vector[0]), *interval(vector[1:], self._confidence))


def explanation_of(told: Mapping[str, Any], method: str, members: Mapping[str, np.ndarray], strong: float) -> Explanation:
    """What the graph of a latent predicts by.

    Args:
        told: of graphs.json.
        method: of graphs.json.
        members: bool [token] by class.
        strong: share of the largest activation from which one is strong.
    """
    if method == "patterns":
        return PatternSet(told["patterns"], members)
    above = strong * told["largest"]
    return Trie(paths_from_json(told["patterns"]), threshold=above, strong=above)


class Judge:
    """Scores of the latents of one SAE."""

    def __init__(
        self, *, sae: SAE, held_out: HeldOut, mined: Rows, sampled: int, members: Mapping[str, np.ndarray], method: str,
        settings: N2gConfig, bootstrap: Bootstrap,
    ) -> None:  # fmt: skip
        """
        Args:
            sae: whose latents they are.
            held_out: where they are scored.
            mined: where they were mined.
            sampled: rows of that on which firings are known.
            members: bool [token] by class.
            method: of the graphs.
            settings: of the section.
            bootstrap: over the held-out prompts.
        """
        self._sae, self._held_out, self._settings, self._bootstrap = sae, held_out, settings, bootstrap
        self._lookups = Lookups(mined.text, sampled, NGRAMS)
        self._members, self._method = members, method
        self._read: Text | None = None
        self._known: list[np.ndarray] = []
        self._sums: dict[tuple[str, str], list[np.ndarray]] = {}
        self._base: dict[str, float] = {UNIFORM: 0.0, TOP: 0.0}
        self.latents = 0
        """Scored latents that are active on held-out rows."""

    def rows(self, told: Sequence[Mapping[str, Any]], every: Sequence[Firings]) -> list[dict[str, Any]]:
        """Columns of `N2gLatent` that scores tell, for latents in the order of `told`.

        Args:
            told: of graphs.json.
            every: their firings in mining.
        """
        mined = [at for at, one in enumerate(told) if one["state"] != SILENT]
        graphs = {at: explanation_of(told[at], self._method, self._members, self._settings.strong) for at in mined}
        order = sorted(mined, key=lambda at: (every[at].count, told[at]["latent"]))
        other = dict(zip(order, [*order[1:], *order[:1]], strict=True)) if len(order) > 1 else {}
        found: list[dict[str, Any]] = [{} for _ in told]
        for start in range(0, len(mined), self._settings.together):
            part = mined[start : start + self._settings.together]
            asked = [self._asked(told[at]["latent"], every[at], graphs[at], graphs.get(other.get(at, -1))) for at in part]
            held_out = self._held_out
            measured = measure(
                held_out.rows.store, held_out.rows.text, held_out.prompt, held_out.prompts, self._sae, asked,
                strong=self._settings.strong,
            )  # fmt: skip
            for at, one in zip(part, measured, strict=True):
                found[at] = self._row(one)
        return found

    def _asked(self, latent: int, firings: Firings, graph: Explanation, other: Explanation | None) -> Asked:
        tables = self._lookups.of(firings, self._settings.strong)

        def predict(text: Text) -> dict[str, Prediction]:
            said = {N2G: graph.predict(text.tokens, text.pos)}
            if other is not None:
                said[SHUFFLED] = other.predict(text.tokens, text.pos)
            places = self._places(text)
            return said | {UNIGRAM: looked_up(tables[:1], places[:1]), NGRAM: looked_up(tables, places)}

        reach = max(graph.reach, NGRAMS, other.reach if other is not None else 1)
        return Asked(latent, firings.largest, predict, reach)

    def _places(self, text: Text) -> list[np.ndarray]:
        if self._read is not text:  # the same for all latents
            self._read, self._known = text, self._lookups.places(text)
        return self._known

    def _row(self, one: Measured) -> dict[str, Any]:
        weights, active = self._bootstrap.weights, float(one.active.sum())
        row: dict[str, Any] = {"prompts": int((one.active > 0).sum()), "base_rate": active / float(one.rows.sum())}
        if not active:
            return row
        top = top_prompts(one, self._settings.top_prompts)
        every: dict[tuple[str, str], Scores] = {}
        for name, counts in one.by_explanation.items():
            every[name, UNIFORM] = scores(counts.hits, counts.levels, weights)
            every[name, TOP] = scores(counts.strong[top], counts.levels[top], weights[:, top])
        for metric in METRICS:
            row[metric] = self._bootstrap.estimate(getattr(every[N2G, UNIFORM], metric))
        for metric in METRICS[:3]:
            row[f"{metric}_top"] = self._bootstrap.estimate(getattr(every[N2G, TOP], metric))
        for name in (UNIGRAM, NGRAM, SHUFFLED):
            if (name, UNIFORM) in every:
                row |= {f"f1_{name}": float(every[name, UNIFORM].f1[0]), f"ap_{name}": float(every[name, UNIFORM].ap[0]),
                        f"f1_top_{name}": float(every[name, TOP].f1[0])}  # fmt: skip
        row["gain"] = self._bootstrap.estimate(
            every[N2G, UNIFORM].f1 - np.maximum(every[UNIGRAM, UNIFORM].f1, every[NGRAM, UNIFORM].f1)
        )
        self._add(every, one, top)
        return row

    def _add(self, every: Mapping[tuple[str, str], Scores], one: Measured, top: np.ndarray) -> None:
        self.latents += 1
        for key, found in every.items():
            sums = self._sums.setdefault(key, [np.zeros_like(vector) for vector in found] + [np.zeros(1)])
            for total, vector in zip(sums[:-1], found, strict=True):
                total += vector
            sums[-1] += 1
        strong = next(iter(one.by_explanation.values())).strong[top]
        self._base[UNIFORM] += float(one.active.sum() / one.rows.sum())
        self._base[TOP] += float((strong[:, 0] + strong[:, 2]).sum() / one.rows[top].sum())

    def means(self) -> list[dict[str, Any]]:
        """Columns of `N2gScore` that scores tell."""
        found = []
        for (name, rows), (*vectors, count) in sorted(self._sums.items()):
            means = {metric: self._bootstrap.estimate(total / count[0]) for metric, total in zip(METRICS, vectors, strict=True)}
            base = self._base[rows] / self.latents
            found.append({"explanation": name, "rows": rows, "latents": int(count[0]), "base_rate": base, **means})
        return found
