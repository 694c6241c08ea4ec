"""Patterns of some latents: rows are taken apart, patterns chosen, and what they leave unexplained is taken apart in turn."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from workflow.config.n2g import N2gConfig
from workflow.formats.n2g import MINED, SILENT, UNEXPLAINED
from workflow.n2g.candidates import candidates_of
from workflow.n2g.categories import category
from workflow.n2g.choosing import Chooser, Chosen
from workflow.n2g.contexts import Context, Cut, Firing, Replacing, prune, saliency, substitute
from workflow.n2g.drawn_rows import drawn, shared_rows
from workflow.n2g.encoding import CONTEXT, Firings, Text, suffix_keys
from workflow.n2g.graphs import telling
from workflow.n2g.halves import overlaps_of_halves
from workflow.n2g.patterns import Pattern, as_json
from workflow.n2g.suggesting import Suggest, tried_tokens
from workflow.n2g.trie import as_json as trie_json
from workflow.n2g.trie import paths_of
from workflow.n2g.vocabulary import Vocabulary
from workflow.n2g.windows import WindowReader

CANDIDATES = 4
"""Rows from which each wanted one is chosen: room for rows that serve several latents."""
AUGMENTED_ABOVE = 0.8
"""Neuron2Graph tries substitutes for tokens that matter so much, and takes into its trie those above `importance`."""
TOLD_CONTEXTS = 6
"""Contexts of a latent that are written down, its strongest."""


class Mine(NamedTuple):
    """What mining reads."""

    text: Text
    """Of the store of the hop."""
    sampled: int
    """Its first rows, on which patterns are chosen."""
    vocabulary: Vocabulary
    skip: int
    """Positions at the start of a text that stand in front of every window."""


def mine_latents(
    reader: WindowReader, mine: Mine, names: Sequence[int], every: Sequence[Firings], settings: N2gConfig, suggest: Suggest
) -> list[dict[str, Any]]:
    """What graphs.json says of these latents, without group and SAE.

    Args:
        reader: of exactly these latents.
        mine: the store.
        names: indices of the latents.
        every: their firings.
        settings: of the section.
        suggest: other tokens for important places.
    """
    keys = suffix_keys(mine.text, CONTEXT)
    contexts: list[list[Context]] = [[] for _ in every]
    sample = Text(*(column[: mine.sampled] for column in mine.text))
    chosen = [Chosen([], np.zeros(mine.sampled, dtype=bool)) for _ in every]
    candidates: list[list[Pattern]] = []
    chooser = Chooser(sample, mine.vocabulary, settings.max_context, settings.max_gap) if settings.method == "patterns" else None
    if chooser:
        chosen = [chooser.choose([], firings, most=settings.max_patterns, strong=settings.strong) for firings in every]
    for number in range(settings.rounds):
        seen = [{keys[context.row] for context in found} for found in contexts]
        picked = _firings(every, chosen, seen, keys, names, settings, number)
        for context in take_apart(reader, mine, picked, settings, suggest):
            contexts[context.latent].append(context)
        if chooser:
            candidates = [_candidates(found, mine.vocabulary, settings) for found in contexts]
            chosen = [
                chooser.choose(patterns, firings, most=settings.max_patterns, strong=settings.strong)
                for patterns, firings in zip(candidates, every, strict=True)
            ]
    kept = int(mine.text.kept.sum())
    halves = overlaps_of_halves(sample, mine.vocabulary, candidates, every, settings) if chooser else [None] * len(every)
    return [
        _told(name, firings, kept, found, _patterns(one, found, firings, mine.vocabulary, settings), mine.vocabulary)
        | {"overlap_halves": overlap}
        for name, firings, found, one, overlap in zip(names, every, contexts, chosen, halves, strict=True)
    ]


def _firings(
    every: Sequence[Firings], chosen: Sequence[Chosen], seen: Sequence[set[Any]], keys: np.ndarray, names: Sequence[int],
    settings: N2gConfig, number: int,
) -> dict[Firing, float]:  # fmt: skip
    """Rows to take apart in one round, with activations: in the first the strongest ones, in all some of those not explained.

    Args:
        every: firings of the latents.
        chosen: what explains them so far.
        seen: contexts that were taken apart before, by `keys`.
        keys: context of every row.
        names: indices of the latents.
        settings: of the section.
        number: of the round.
    """
    groups: list[tuple[list[np.ndarray], int]] = []
    if number == 0:
        groups.append(([firings.top[: CANDIDATES * settings.top] for firings in every], settings.top))
    if settings.uniform:
        free = [
            np.array([row for row in firings.rows[~one.covered[firings.rows]].tolist() if keys[row] not in known], dtype=np.int64)
            for firings, one, known in zip(every, chosen, seen, strict=True)
        ]
        wanted = CANDIDATES * settings.uniform
        pools = [drawn(rows, keys, wanted, [settings.seed, number, name]) for rows, name in zip(free, names, strict=True)]
        groups.append((pools, settings.uniform))
    found: dict[Firing, float] = {}
    for pools, quota in groups:
        for latent, rows in enumerate(shared_rows(pools, quota)):
            firings = every[latent]
            values = dict(zip(firings.rows.tolist(), firings.values.tolist(), strict=True))
            values |= dict(zip(firings.top.tolist(), firings.top_values.tolist(), strict=True))
            found |= {(row, latent): values[row] for row in rows.tolist()}
    return found


def take_apart(
    reader: WindowReader, mine: Mine, picked: Mapping[Firing, float], settings: N2gConfig, suggest: Suggest
) -> list[Context]:
    """Cut contexts with what their tokens matter and what may stand in the place of important ones."""
    if not picked:
        return []
    cuts = prune(reader, mine.text, picked, skip=mine.skip, longest=settings.max_context, keep=settings.keep)
    lost = [firing for firing, cut in cuts.items() if cut.activation <= 0]  # it needs more context, or is a tie of rounding
    nothing = [_without_evidence(firing, mine.text, cuts.pop(firing), picked[firing]) for firing in lost]
    replacing = Replacing(settings.random_tokens, settings.mean_embedding, settings.fixed_token, settings.seed)
    left = saliency(reader, mine.text, cuts, skip=mine.skip, replacing=replacing) if cuts else {}
    tokens = {firing: _tokens(mine.text, firing[0], cut) for firing, cut in cuts.items()}
    needed = AUGMENTED_ABOVE if settings.method == "original" else settings.importance
    important = {firing: np.flatnonzero(1 - shares.mean(1) >= needed).tolist() for firing, shares in left.items()}
    tried = tried_tokens(tokens, important, mine.vocabulary, settings, suggest) if settings.substitutes else {}
    held = substitute(reader, mine.text, cuts, tried, skip=mine.skip) if tried else {}
    return nothing + [
        Context(
            *firing, tokens[firing], picked[firing], cut.activation / max(picked[firing], 1e-9),
            tuple((1 - left[firing].mean(1)).tolist()), float(np.ptp(left[firing], axis=1).max()), held.get(firing, {}),
        )
        for firing, cut in cuts.items()
    ]  # fmt: skip


def _without_evidence(firing: Firing, text: Text, cut: Cut, activation: float) -> Context:
    """A row whose latent is silent in every window that was tried."""
    return Context(*firing, _tokens(text, firing[0], cut), activation, 0.0, (0.0,) * cut.length, 0.0, {})


def _tokens(text: Text, row: int, cut: Cut) -> tuple[int, ...]:
    return tuple(text.tokens[row - cut.length + 1 : row + 1].tolist())


def _candidates(contexts: Sequence[Context], vocabulary: Vocabulary, settings: N2gConfig) -> list[Pattern]:
    limits = {"importance": settings.importance, "keep": settings.keep, "max_gap": settings.max_gap}
    return list(dict.fromkeys(pattern for context in contexts for pattern in candidates_of(context, vocabulary, **limits)))


def _patterns(
    chosen: Chosen, contexts: Sequence[Context], firings: Firings, vocabulary: Vocabulary, settings: N2gConfig
) -> list[dict[str, Any]]:
    if settings.method == "original":
        paths = paths_of(contexts, importance=settings.importance, activation=settings.strong, largest=firings.largest)
        return trie_json(paths, vocabulary.texts)
    return [{**one._asdict(), "elements": as_json(one.pattern, vocabulary)} for one in chosen.patterns]


def _told(
    name: int, firings: Firings, rows: int, contexts: Sequence[Context], patterns: Sequence[dict[str, Any]], vocabulary: Vocabulary
) -> dict[str, Any]:
    strongest = sorted(contexts, key=lambda one: (-one.activation, one.row))[:TOLD_CONTEXTS]
    return {
        "latent": name, "state": SILENT if not firings.count else MINED if patterns else UNEXPLAINED, "firings": firings.count,
        "rows": rows, "largest": firings.largest, "category": category(telling(patterns)), "taken_apart": len(contexts),
        "context_tokens": _mean([float(len(one.tokens)) for one in contexts]), "kept": _mean([one.kept for one in contexts]),
        "spread": _mean([one.spread for one in contexts]),
        "patterns": [{key: value for key, value in one.items() if key != "pattern"} for one in patterns],
        "contexts": [
            {"texts": [vocabulary.texts[token] for token in one.tokens], "activation": one.activation, "kept": one.kept,
             "importance": [round(share, 4) for share in one.importance]}
            for one in strongest
        ],
    }  # fmt: skip


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
