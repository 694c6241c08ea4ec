"""Splits of distinct problems: near-duplicates stay together, strata are even, and the training mixture is drawn by weights."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from workflow.config.problems import ProblemsConfig
from workflow.config.section import ConfigError, nearest
from workflow.formats.problems import SPLIT_ORDER, Problem, problem_id

FOR_POLICIES = ("warmup", "ppo")
FEWEST = 2
"""Problems that every split must have: with one, nothing can be compared or drawn."""


class Candidate(NamedTuple):
    """A distinct question before it is split."""

    question: str
    answer: str
    solution: str | None
    stratum: str


def split_problems(candidates: Sequence[Candidate], settings: ProblemsConfig) -> list[Problem]:
    """The problems with group, split, rank and weight, depending on the questions, splits, mixture and seed alone.

    Raises:
        ConfigError: a split would get fewer than two problems, or the mixture names a stratum that is missing.
    """
    _check_mixture(settings.mixture, {candidate.stratum for candidate in candidates})
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[group_id(candidate.question)].append(candidate)
    home = _assign(groups, settings)
    members: dict[str, list[tuple[str, Candidate]]] = {split: [] for split in SPLIT_ORDER if settings.splits.get(split)}
    for group, inside in groups.items():
        members[home[group]] += [(group, candidate) for candidate in inside]
    _check_sizes(members, settings)
    return [problem for split, inside in members.items() for problem in _ranked(split, inside, settings)]


def group_id(question: str) -> str:
    """`g` and 12 hex digits, equal for questions with the same words, numbers and signs in any order and case."""
    tokens = sorted(re.findall(r"\w+|[^\w\s]", question.casefold()))
    return "g" + hashlib.sha256("\n".join(tokens).encode()).hexdigest()[:12]


def _assign(groups: Mapping[str, list[Candidate]], settings: ProblemsConfig) -> dict[str, str]:
    """A split for every group: each stratum, in the order of a salted hash, is cut in proportion to the weights."""
    strata: dict[str, list[str]] = defaultdict(list)
    for group, inside in groups.items():
        strata[min(candidate.stratum for candidate in inside)].append(group)
    home = {}
    for stratum, names in strata.items():
        total = sum(len(groups[name]) for name in names)
        # Where the cuts begin is drawn per stratum: else many strata of one or two problems would all fall into one split.
        place = total * _uniform(settings.seed, "stratum", stratum)
        for name in sorted(names, key=lambda name: _digest(settings.seed, "split", name)):
            size = len(groups[name])
            home[name] = _split_at((place + size / 2) / total % 1, settings.splits)
            place += size
    return home


def _split_at(position: float, splits: Mapping[str, float]) -> str:
    """The split to which a position in [0, 1) belongs."""
    weights = [(split, splits.get(split, 0.0)) for split in SPLIT_ORDER]
    left = position * sum(weight for _, weight in weights)
    for split, weight in weights:
        if left < weight:
            return split
        left -= weight
    return max(weights, key=lambda entry: entry[1])[0]  # rounding at the very end


def _ranked(split: str, inside: list[tuple[str, Candidate]], settings: ProblemsConfig) -> list[Problem]:
    inside = sorted(inside, key=lambda entry: _digest(settings.seed, "rank", entry[1].question))
    weights = _weights(split, [candidate.stratum for _, candidate in inside], settings.mixture)
    return [
        Problem(problem=problem_id(c.question), split=split, rank=rank, weight=weights[c.stratum], group=group, **c._asdict())
        for rank, (group, c) in enumerate(inside)
    ]


def _weights(split: str, strata: Sequence[str], mixture: Mapping[str, float]) -> dict[str, float]:
    """Weight of one problem of each stratum: drawn by weight, the strata have the shares of the mixture; the mean is 1."""
    counts = Counter(strata)
    shares = {stratum: mixture.get(stratum, 0.0) for stratum in counts}
    absent = [stratum for stratum, share in mixture.items() if share and not counts[stratum]]
    if split in FOR_POLICIES and absent:
        raise ConfigError(
            f"Every stratum of problems.mixture must have problems in the split {split}; {', '.join(map(repr, absent))} has none. "
            f"Raise problems.size or problems.splits.{split}, or take the stratum out of the mixture."
        )
    total = sum(shares.values())
    if not total:
        return dict.fromkeys(counts, 1.0)
    return {stratum: share / total * len(strata) / counts[stratum] for stratum, share in shares.items()}


def _check_mixture(mixture: Mapping[str, float], strata: set[str]) -> None:
    if unknown := sorted(set(mixture) - strata):
        guess = nearest(unknown[0], sorted(strata))
        raise ConfigError(
            f"problems.mixture may name only strata of the problems: {', '.join(map(repr, sorted(strata)))}; "
            f"got {', '.join(map(repr, unknown))}. "
            + (f"Did you mean {guess!r}?" if guess else "Rename it or set problems.stratum.")
        )
    if mixture and not sum(mixture.values()):
        raise ConfigError("problems.mixture must give a stratum a share above 0; got only zeros. Raise one, or set it to {}.")


def _check_sizes(members: Mapping[str, Sequence[object]], settings: ProblemsConfig) -> None:
    if small := {split: len(inside) for split, inside in members.items() if len(inside) < FEWEST}:
        found = ", ".join(f"{split} {count}" for split, count in small.items())
        total = sum(map(len, members.values()))
        raise ConfigError(
            f"Every split with a weight above 0 must get {FEWEST} problems or more; got {found}, from {total} distinct problems "
            f"with the weights {dict(settings.splits)}. Raise problems.size or the weight, or set the weight to 0."
        )


def _digest(seed: int, use: str, text: str) -> bytes:
    return hashlib.sha256(f"{seed}/{use}/{text}".encode()).digest()


def _uniform(seed: int, use: str, text: str) -> float:
    return int.from_bytes(_digest(seed, use, text)[:6]) / 2**48


def near_duplicates(problems: Iterable[Problem]) -> dict[str, int]:
    """How many groups have several problems, and how many problems those are."""
    sizes = [size for size in Counter(problem.group for problem in problems).values() if size > 1]
    return {"groups": len(sizes), "problems": sum(sizes)}
