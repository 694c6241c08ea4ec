"""How far graphs of one latent differ by chance alone: chosen on each half of the texts, and compared."""

from collections.abc import Sequence

import numpy as np

from workflow.config.n2g import N2gConfig
from workflow.n2g.choosing import Chooser
from workflow.n2g.encoding import Firings, Text
from workflow.n2g.graphs import path_of, telling
from workflow.n2g.patterns import Pattern, as_json
from workflow.n2g.vocabulary import Vocabulary


def overlaps_of_halves(
    text: Text, vocabulary: Vocabulary, candidates: Sequence[Sequence[Pattern]], every: Sequence[Firings], settings: N2gConfig
) -> list[float | None]:
    """Of the paths of both halves' graphs, the share that both have; None of a latent that has none in either.

    Args:
        text: the rows on which patterns are chosen; its texts are dealt to the halves in turn.
        vocabulary: classes of tokens.
        candidates: of each latent, those of rows taken apart.
        every: firings of each.
        settings: of the section.
    """
    number, paths = np.cumsum(text.pos == 0), list[list[set[str]]]()
    for half in (0, 1):
        rows = np.flatnonzero(number % 2 == half)
        chooser = Chooser(Text(*(column[rows] for column in text)), vocabulary, settings.max_context, settings.max_gap)
        paths.append([])
        for patterns, firings in zip(candidates, every, strict=True):
            mine = np.isin(firings.rows, rows)
            own = firings._replace(rows=np.searchsorted(rows, firings.rows[mine]), values=firings.values[mine])
            chosen = chooser.choose(patterns, own, most=settings.max_patterns, strong=settings.strong).patterns
            told = telling([{**one._asdict(), "elements": as_json(one.pattern, vocabulary)} for one in chosen])
            paths[-1].append(set(map(path_of, told)))
    return [len(one & other) / len(one | other) if one | other else None for one, other in zip(*paths, strict=True)]
