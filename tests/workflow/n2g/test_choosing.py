"""Which ends of contexts are counted, which patterns are chosen among them, and what chosen ones say of rows."""

import numpy as np
import pytest
from planted_patterns import ID, VOCABULARY, Rule, firings, random_rule, sum_rule, texts

from workflow.config.n2g import N2gConfig
from workflow.n2g.choosing import Chooser, Chosen
from workflow.n2g.encoding import Firings
from workflow.n2g.ends import Ends, forms
from workflow.n2g.halves import overlaps_of_halves
from workflow.n2g.patterns import Tokens, matches
from workflow.n2g.windows import Window

TEXT = texts(150, 0)


@pytest.fixture(scope="module")
def chooser() -> Chooser:
    return Chooser(TEXT, VOCABULARY, 8, 4)


def choose(chooser: Chooser, given: Firings) -> Chosen:
    return chooser.choose([], given, most=16, strong=0.5)


def seven_rule(ids: Window) -> float:
    """Fires on `7`."""
    return 2.0 if ids[-1] == ID["7"] else 0.0


def template_rule(ids: Window) -> float:
    """Fires on the second token of every text, whatever it is."""
    return 1.0 if len(ids) == 2 else 0.0


def half_rule(ids: Window) -> float:
    """Fires on about a third of the rows of ` dog`, on no others."""
    return 1.0 if ids[-1] == ID[" dog"] and sum(ids) % 3 == 0 else 0.0


def test_the_rows_of_an_end_are_those_that_its_pattern_matches() -> None:
    ends = Ends(TEXT, VOCABULARY, 8)
    rows = np.flatnonzero(TEXT.kept)[::97]
    for end in ends.of(rows):
        assert (end.among <= end.seen).all()
        for number, seen in list(zip(end.ids.tolist(), end.seen.tolist(), strict=True))[::7]:
            found = ends.rows(end.form, number)
            wanted = matches(ends.pattern(end.form, number), TEXT.tokens, TEXT.pos, VOCABULARY.members) & TEXT.kept
            np.testing.assert_array_equal(found, np.flatnonzero(wanted))
            assert len(found) == seen


def test_no_end_spans_more_than_asked_for() -> None:
    assert max(place.back for form in forms(5) for place in form) == 4
    assert len(forms(1)) == 2


@pytest.mark.parametrize("rule", [seven_rule, template_rule])
def test_rows_that_an_end_tells_without_a_fault_are_told(chooser: Chooser, rule: Rule) -> None:
    given = firings(TEXT, rule)
    chosen = choose(chooser, given)
    np.testing.assert_array_equal(np.flatnonzero(chosen.covered), given.rows)
    assert chosen.patterns[0].says_active
    assert chosen.patterns[0].matched == chosen.patterns[0].fired == given.count


def test_a_pattern_that_is_seldom_right_says_active_where_nothing_is_better_and_others_stay_silent(chooser: Chooser) -> None:
    (first, *_) = choose(chooser, firings(TEXT, half_rule)).patterns
    assert first.fired < first.matched / 2
    both = choose(chooser, firings(TEXT, lambda ids: max(half_rule(ids), 2 * seven_rule(ids)))).patterns
    says = {one.pattern: one.says_active for one in both}
    assert says[(Tokens((ID["7"],)),)]
    assert all(one.fired >= one.matched / 3 for one in both if one.says_active)


def test_ends_never_choose_a_latent_of_no_firings_and_hardly_a_random_one(chooser: Chooser) -> None:
    assert choose(chooser, firings(TEXT, lambda ids: 0.0)).patterns == []
    assert len(choose(chooser, firings(TEXT, random_rule)).patterns) <= 3


def test_halves_agree_on_what_is_there_and_not_on_chance() -> None:
    rules: list[Rule] = [seven_rule, sum_rule, random_rule]
    given = [firings(TEXT, rule) for rule in rules]
    seven, _, random = overlaps_of_halves(TEXT, VOCABULARY, [[], [], []], given, N2gConfig())
    assert seven == 1.0
    assert random is None or random < 0.5
