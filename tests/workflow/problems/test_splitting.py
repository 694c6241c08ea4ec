"""Splits: near-duplicates together, strata even, prefixes random, mixtures drawn by weight."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from workflow.config.problems import ProblemsConfig
from workflow.config.section import ConfigError
from workflow.problems.splitting import Candidate, group_id, near_duplicates, split_problems

WEIGHTS = {"warmup": 0.04, "ppo": 0.16, "train": 0.62, "val": 0.06, "test": 0.12}


def sums(highest: int, digits: int) -> list[Candidate]:
    low = 10 ** (digits - 1)
    return [
        Candidate(f"{a} + {b} =", str(a + b), None, str(digits))
        for a in range(low, low + highest)
        for b in range(low, low + highest)
    ]


TWO_STRATA = [*sums(9, 1), *sums(30, 2)]


def test_every_stratum_is_cut_in_proportion_to_the_weights() -> None:
    problems = split_problems(TWO_STRATA, ProblemsConfig(splits=WEIGHTS))
    for stratum, total in Counter(candidate.stratum for candidate in TWO_STRATA).items():
        counts = Counter(problem.split for problem in problems if problem.stratum == stratum)
        assert all(abs(counts[split] - weight * total) <= 2.5 for split, weight in WEIGHTS.items())
    assert len(problems) == len({problem.problem for problem in problems}) == len(TWO_STRATA)


def test_swapped_terms_are_near_duplicates_and_share_a_split() -> None:
    assert group_id("12 + 5 =") == group_id("5 + 12 = ") != group_id("12 - 5 =")
    assert group_id("Ann has 3 Cats.") == group_id("has ann 3 cats.")
    problems = split_problems(TWO_STRATA, ProblemsConfig(splits=WEIGHTS))
    homes = defaultdict(set)
    for problem in problems:
        homes[problem.group].add(problem.split)
    assert all(len(splits) == 1 for splits in homes.values())
    pairs = 9 * 8 // 2 + 30 * 29 // 2
    assert near_duplicates(problems) == {"groups": pairs, "problems": 2 * pairs}


def test_the_split_depends_on_questions_and_seed_not_on_their_order() -> None:
    config = ProblemsConfig(splits=WEIGHTS)
    assert split_problems(TWO_STRATA, config) == split_problems(TWO_STRATA[::-1], config)
    other = split_problems(TWO_STRATA, config.model_copy(update={"seed": 1}))
    assert {p.problem: p.split for p in other} != {p.problem: p.split for p in split_problems(TWO_STRATA, config)}


def test_any_prefix_of_a_split_is_a_random_sample() -> None:
    train = [problem for problem in split_problems(TWO_STRATA, ProblemsConfig(splits=WEIGHTS)) if problem.split == "train"]
    share = sum(problem.stratum == "1" for problem in train) / len(train)
    prefix = [problem for problem in train if problem.rank < 200]
    assert abs(sum(problem.stratum == "1" for problem in prefix) / 200 - share) < 0.08
    firsts = [int(problem.question.split()[0]) for problem in prefix if problem.stratum == "2"]
    assert abs(sum(firsts) / len(firsts) - 24.5) < 3


def test_weights_draw_the_mixture_in_every_split_with_mean_1() -> None:
    problems = split_problems(TWO_STRATA, ProblemsConfig(splits=WEIGHTS, mixture={"1": 1, "2": 3}))
    for split in WEIGHTS:
        weights = {p.problem: p.weight for p in problems if p.split == split}
        easy = sum(p.weight for p in problems if p.split == split and p.stratum == "1")
        assert sum(weights.values()) == pytest.approx(len(weights))
        assert easy / sum(weights.values()) == pytest.approx(0.25)
    assert {problem.weight for problem in split_problems(TWO_STRATA, ProblemsConfig(splits=WEIGHTS))} == {1.0}


def test_a_stratum_outside_the_mixture_is_never_drawn() -> None:
    problems = split_problems(TWO_STRATA, ProblemsConfig(splits=WEIGHTS, mixture={"2": 1}))
    assert {problem.weight for problem in problems if problem.stratum == "1"} == {0.0}


def test_a_split_with_weight_0_stays_empty() -> None:
    problems = split_problems(TWO_STRATA, ProblemsConfig(splits=WEIGHTS | {"ppo": 0}))
    assert {problem.split for problem in problems} == {"warmup", "train", "val", "test"}


def test_strata_of_one_problem_each_do_not_all_fall_into_one_split() -> None:
    alone = [candidate._replace(stratum=candidate.question) for candidate in sums(20, 2)]
    counts = Counter(problem.split for problem in split_problems(alone, ProblemsConfig(splits=WEIGHTS)))
    assert all(abs(counts[split] - weight * len(alone)) < 45 for split, weight in WEIGHTS.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mixture": {"3": 1}}, r"may name only strata of the problems: '1', '2'; got '3'"),
        ({"mixture": {"1": 0}}, "got only zeros"),
        ({"splits": WEIGHTS | {"val": 0.0001}}, "must get 2 problems or more; got val 0, from 981 distinct"),
        (
            {"splits": WEIGHTS | {"ppo": 0.004}, "mixture": {"1": 1, "2": 1}},
            "'1' has none. Raise problems.size or problems.splits.ppo",
        ),
    ],
)
def test_what_cannot_be_split_or_mixed_is_told(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        split_problems(TWO_STRATA, ProblemsConfig(**({"splits": WEIGHTS} | options)))


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.text("ab1+ ", min_size=1, max_size=6), st.sampled_from("xyz"), min_size=60, max_size=90), st.integers(0, 5)
)
def test_splits_partition_any_problems(questions: dict[str, str], seed: int) -> None:
    candidates = [Candidate(f"q {text}", "1", None, stratum) for text, stratum in questions.items()]
    config = ProblemsConfig(seed=seed, splits={"train": 1, "val": 1, "test": 1})
    try:
        problems = split_problems(candidates, config)
    except ConfigError:
        reject()  # large groups may leave a split empty, which is refused
    assert sorted(problem.question for problem in problems) == sorted(f"q {text}" for text in questions)
    for split in ("train", "val", "test"):
        assert sorted(p.rank for p in problems if p.split == split) == list(range(sum(p.split == split for p in problems)))
