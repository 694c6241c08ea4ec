"""Where patterns match, what they cost, and how they are written down."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_patterns import ID, VOCABULARY

from workflow.n2g.graphs import KEPT, LOST, NEW, compared, dot, graph_of
from workflow.n2g.layers import layered
from workflow.n2g.patterns import Costs, Element, Gap, Kind, Pattern, Tokens, as_json, from_json, matches, shown, span
from workflow.n2g.vocabulary import ANY, NUMBER

ALPHABET = 6
element = st.one_of(
    st.sets(st.integers(0, ALPHABET - 1), min_size=1, max_size=3).map(lambda ids: Tokens(tuple(sorted(ids)))),
    st.tuples(st.integers(0, 2), st.integers(0, 2)).map(lambda ends: Gap(min(ends), max(ends))),
)
literal = st.integers(0, ALPHABET - 1).map(lambda token: Tokens((token,)))
whole = st.tuples(literal, st.lists(element, max_size=3), literal).map(lambda parts: (parts[0], *parts[1], parts[2]))


def as_expression(pattern: Pattern) -> str:
    """The same as a regular expression over letters."""
    parts = []
    for one in pattern:
        match one:
            case Gap(least, most):
                parts.append(f".{{{least},{most}}}")
            case Tokens(ids):
                parts.append("[" + "".join(chr(97 + token) for token in ids) + "]")
    return "".join(parts)


def merged(pattern: Pattern) -> Pattern:
    """Neighbouring gaps as one, as candidates have them."""
    found: list[Element] = []
    for one in pattern:
        if isinstance(one, Gap) and found and isinstance(found[-1], Gap):
            found[-1] = Gap(found[-1].least + one.least, found[-1].most + one.most)
        else:
            found.append(one)
    return tuple(found)


@settings(max_examples=150, deadline=None)
@given(whole, st.lists(st.integers(1, 12), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_matches_are_those_of_a_regular_expression_within_each_text(pattern: Pattern, sizes: list[int], draw) -> None:
    pattern, tokens, pos, wanted = merged(pattern), [], [], []
    expression = re.compile(as_expression(pattern))
    for size in sizes:
        ids = [draw.randrange(ALPHABET) for _ in range(size)]
        text = "".join(chr(97 + token) for token in ids)
        wanted += [any(expression.fullmatch(text, start, end) for start in range(end)) for end in range(1, size + 1)]
        tokens, pos = tokens + ids, pos + list(range(size))
    assert matches(pattern, np.array(tokens), np.array(pos), {}).tolist() == wanted


def test_classes_match_their_members() -> None:
    tokens = np.array([ID["3"], ID["+"], ID[" cat"], ID["7"]])
    assert matches((Kind(NUMBER),), tokens, np.arange(4), VOCABULARY.members).tolist() == [True, False, False, True]
    assert matches((Kind(NUMBER), Gap(1, 2), Kind(ANY)), tokens, np.arange(4), VOCABULARY.members).tolist() == [
        False,
        False,
        True,
        True,
    ]


def test_a_pattern_survives_json_and_reads_as_text() -> None:
    pattern = (Kind(NUMBER), Gap(0, 4), Tokens((ID["+"], ID["-"])))
    assert from_json(as_json(pattern, VOCABULARY)) == pattern
    assert shown(as_json(pattern, VOCABULARY)) == "<NUM> *{0,4} '+'|'-'"
    assert span(pattern) == 6


def test_rare_tokens_and_more_elements_cost_more() -> None:
    tokens = np.array([ID["3"]] * 90 + [ID[" cat"]] * 10)
    costs = Costs(tokens, VOCABULARY, 4)
    assert costs.of((Tokens((ID[" cat"],)),)) > costs.of((Tokens((ID["3"],)),)) > costs.of((Kind(ANY),))
    assert costs.of((Kind(NUMBER), Tokens((ID["3"],)))) > costs.of((Tokens((ID["3"],)),))


BEFORE = [{"elements": as_json(one, VOCABULARY), "activation": 2.0} for one in ((Tokens((11,)), Tokens((13,))), (Tokens((12,)),))]
NOW = [{"elements": as_json(one, VOCABULARY), "activation": 1.0}
       for one in ((Tokens((11,)), Gap(0, 3), Tokens((13,))), (Kind(NUMBER), Tokens((13,))))]  # fmt: skip


def test_paths_are_compared_without_their_gaps() -> None:
    assert sorted(compared(BEFORE, NOW).values()) == [KEPT, LOST, NEW]


def test_a_graph_shares_common_ends_and_its_drawings_depend_on_it_alone() -> None:
    nodes = graph_of([*NOW, BEFORE[1]], 4.0, compared(BEFORE, NOW))
    assert [node.parent for node in nodes] == [None, 0, 0, None]
    assert [node.depth for node in nodes] == [0, 1, 1, 0]
    assert nodes[1].gap == "*{0,3}"
    assert nodes[0].state == KEPT
    drawing = layered(nodes, "what <became> of it")
    assert drawing == layered(nodes, "what <became> of it")
    assert drawing.count("<rect") == 4
    assert "&lt;NUM&gt;" in drawing
    assert "n1 -> n0" in dot(nodes, 'a "graph"')


@pytest.mark.parametrize("pattern", [(Tokens((11,)),), (Tokens((11,)), Gap(2, 2), Tokens((13,)))])
def test_a_match_never_begins_before_its_text(pattern: Pattern) -> None:
    tokens, pos = np.array([11, 0, 0, 13]), np.array([0, 0, 1, 2])
    assert not matches(pattern, tokens, pos, {})[1:].any()
