"""From rows taken apart to patterns that might explain a latent."""

from collections.abc import Iterator, Sequence

from workflow.n2g.contexts import Context
from workflow.n2g.patterns import Element, Gap, Kind, Pattern, Tokens
from workflow.n2g.vocabulary import ANY, Vocabulary

LAST_TOKENS = (1, 2, 3)
"""The last so many tokens of a context are tried as they stand, too."""


def candidates_of(context: Context, vocabulary: Vocabulary, *, importance: float, keep: float, max_gap: int) -> Iterator[Pattern]:
    """Patterns that the evidence of one row allows, none twice.

    Each ends at the row itself and holds the important tokens from one of them on, the most important ones, or the last tokens.
    Tokens stand for themselves, or, where substitutes kept the activation, for those or for their class; what lies between is a gap
    of its length, or a loose one.
    """
    last = len(context.tokens) - 1
    matter = {at: share for at, share in enumerate(context.importance) if share >= importance}
    behind = [tuple(at for at in matter if at >= first) for first in matter]
    strongest = sorted(matter, key=lambda at: -matter[at])
    few = [tuple(sorted(strongest[:count])) for count in range(1, len(strongest) + 1)]
    ends = [tuple(range(max(0, last + 1 - count), last + 1)) for count in LAST_TOKENS]
    for chosen in dict.fromkeys((*behind, *few, *ends)):
        forms = [
            tuple(_elements(context, chosen, last, vocabulary, general, loose, keep, max_gap))
            for general in (False, True)
            for loose in (False, True)
        ]
        yield from dict.fromkeys(forms)


def _elements(
    context: Context,
    chosen: Sequence[int],
    last: int,
    vocabulary: Vocabulary,
    general: bool,
    loose: bool,
    keep: float,
    max_gap: int,
) -> Iterator[Element]:
    before = None
    for at in [*chosen, *([] if chosen[-1] == last else [last])]:
        if before is not None and (between := at - before - 1 or (1 if loose else 0)):
            yield Gap(0, max(max_gap, between)) if loose else Gap(between, between)
        token = context.tokens[at]
        if at not in chosen:
            yield Kind(ANY)
        else:
            yield _generalised(token, context.substitutes.get(at, {}), vocabulary, keep) if general else Tokens((token,))
        before = at


def _generalised(token: int, tried: dict[int, float], vocabulary: Vocabulary, keep: float) -> Element:
    """A token's class where most of its members that were tried kept the activation, else the token and those that did."""
    held = [other for other, share in tried.items() if share >= keep]
    if (name := vocabulary.class_of(token)) and tried:
        return Kind(name) if 2 * len(held) > len(tried) else Tokens((token,))
    return Tokens(tuple(sorted({token, *held})))
