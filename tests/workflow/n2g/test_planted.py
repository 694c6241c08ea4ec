"""Planted patterns are recovered and random latents are not explained; the reader of windows is made by hand."""

from typing import Any

import numpy as np
import pytest
from planted_patterns import (
    ID,
    VOCABULARY,
    HandMadeReader,
    activations,
    firings,
    no_suggestion,
    random_rule,
    silent_rule,
    sum_rule,
    texts,
)

from workflow.config.n2g import N2gConfig
from workflow.n2g.judging import explanation_of
from workflow.n2g.mining import Mine, mine_latents
from workflow.n2g.predicting import PatternSet
from workflow.n2g.scoring import LEVELS, scores
from workflow.statistics import interval, multiplicities

MINED, HELD_OUT = texts(150, 0), texts(120, 1)
RULES = [sum_rule, random_rule, silent_rule]


def mined(**settings: Any) -> list[dict[str, Any]]:
    every = [firings(MINED, rule) for rule in RULES]
    mine = Mine(MINED, len(MINED.pos), VOCABULARY, skip=1)
    return mine_latents(HandMadeReader(RULES), mine, [4, 7, 9], every, N2gConfig(**settings), no_suggestion)


def judged(told: dict[str, Any], rule: Any, method: str = "patterns") -> dict[str, np.ndarray]:
    """Scores of a graph on the held-out texts, the point and replicates over texts."""
    said = explanation_of(told, method, VOCABULARY.members, 0.5).predict(HELD_OUT.tokens, HELD_OUT.pos)
    active = activations(HELD_OUT, rule) > 0
    prompt, kept = np.cumsum(HELD_OUT.pos == 0) - 1, HELD_OUT.kept
    kinds = (said.fires & active, said.fires & ~active, ~said.fires & active)
    hits = np.stack([np.bincount(prompt[kind & kept], minlength=120) for kind in kinds], axis=1).astype(np.float32)
    level = LEVELS - np.ceil(said.score / max(said.score.max(), 1e-9) * LEVELS).astype(int)
    levels = np.zeros((120, LEVELS + 1, 2), dtype=np.float32)
    np.add.at(levels, (prompt[kept], level[kept], 0), 1)
    np.add.at(levels, (prompt[kept & active], level[kept & active], 1), 1)
    weights = np.vstack([np.ones((1, 120)), multiplicities(120, 500, 0)])
    return scores(hits, levels, weights)._asdict() | {"base": active[kept].mean()}


def test_a_planted_pattern_with_a_class_and_a_gap_is_recovered() -> None:
    found = judged(mined()[0], sum_rule)
    assert found["f1"][0] >= 0.95
    assert interval(found["f1"][1:], 0.95).low >= 0.9
    assert found["ap"][0] >= 0.9


def test_its_pattern_names_the_operator_and_leaves_the_second_number_open() -> None:
    told = mined()[0]
    assert told["state"] == "mined"
    ids = {token for one in told["patterns"] for element in one["elements"] for token in element.get("ids", [])}
    assert {ID["+"], ID["="]} <= ids
    assert ID["-"] not in ids


def test_a_random_latent_is_scored_at_its_base_rate() -> None:
    told = mined()[1]
    found = judged(told, random_rule)
    assert found["base"] == pytest.approx(0.05, abs=0.015)
    assert found["ap"][0] == pytest.approx(found["base"], abs=0.02)
    assert found["f1"][0] < 0.15


def test_the_patterns_of_another_latent_have_the_precision_of_a_guess() -> None:
    found = judged(mined()[0], random_rule)
    assert interval(found["precision"][1:], 0.95).contains(float(found["base"]))


def test_a_latent_that_never_fires_is_told_and_not_mined() -> None:
    told = mined()[2]
    assert (told["state"], told["patterns"], told["taken_apart"], told["firings"]) == ("silent", [], 0, 0)


def test_the_published_form_makes_a_trie_of_exact_contexts() -> None:
    told = mined(method="original")[0]
    assert all(len(element.get("ids", [0])) == 1 for one in told["patterns"] for element in one["elements"])
    assert {tuple(element["gap"]) for one in told["patterns"] for element in one["elements"] if "gap" in element} <= {(1, 1)}
    assert judged(told, sum_rule, "original")["f1"][0] >= 0.9


def test_equal_seeds_give_equal_graphs_and_latents_alone_are_mined_as_among_others() -> None:
    assert mined() == mined()
    every = firings(MINED, sum_rule)
    alone = mine_latents(
        HandMadeReader([sum_rule]),
        Mine(MINED, len(MINED.pos), VOCABULARY, 1),
        [4],
        [every],
        N2gConfig(),
        no_suggestion,
    )
    assert PatternSet(alone[0]["patterns"], VOCABULARY.members).reach > 3
