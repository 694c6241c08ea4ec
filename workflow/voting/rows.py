"""The rows of the tables of one pool."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from workflow.formats.voting_columns import Answered, Curve, Tested, Tuned, Voted
from workflow.voting.comparing import Groups, benjamini_hochberg, flip_p, holm, mcnemar
from workflow.voting.pool import Pool
from workflow.voting.probes_read import Probe
from workflow.voting.schemes import MAJORITY, ORACLE, PUBLISHED, Scheme


def headlines(schemes: Sequence[Scheme]) -> list[bool]:
    """Which schemes are told of first: those without a probe, and of every family the best probe on development problems."""
    best: dict[tuple[str, str], tuple[float, int]] = {}
    for place, scheme in enumerate(schemes):
        if scheme.probe and scheme.tuning and scheme.tuning.tried:
            key, accuracy = (scheme.scheme, scheme.probe.family), scheme.tuning.chosen.accuracy or 0.0
            if key not in best or accuracy > best[key][0]:
                best[key] = (accuracy, place)
    chosen = {place for _, place in best.values()}
    return [scheme.probe is None or place in chosen for place, scheme in enumerate(schemes)]


def answer_rows(where: Mapping[str, Any], pools: Mapping[str, Pool]) -> Iterator[Answered]:
    """One row per trace, development first."""
    names = [name for name in Answered._fields if name not in ("run", "stage")]
    place = {name: where[name] for name in ("run", "stage")}
    for pool in pools.values():
        for row in pool.traces[names].to_dict("records"):
            known: dict[str, Any] = {name: None if value != value else value for name, value in row.items()}
            yield Answered(**place, **known)


def voted_rows(
    where: Mapping[str, Any], pool: Pool, schemes: Sequence[Scheme], told: Sequence[bool], groups: Groups
) -> Iterator[Voted]:
    """One row per scheme."""
    compared = {scheme.scheme: scheme for scheme in schemes if scheme.probe is None}
    one, probes = float(pool.right_traces.mean()), len({scheme.probe for scheme in schemes if scheme.probe})
    for scheme, headline in zip(schemes, told, strict=True):
        found = scheme.by_k[scheme.k]
        yield Voted(
            **where, **_named(scheme), tuned=bool(scheme.tuning and scheme.tuning.tried), headline=headline, k=scheme.k,
            pool=pool.samples, how=found.how, subsets=found.subsets, problems=len(pool.problems), groups=groups.count,
            accuracy=groups.estimate(found.values),
            over_majority=groups.estimate(found.values - compared[scheme.against].by_k[scheme.k].values), probes=probes, one=one,
            unparsed=int((pool.ballots < 0).sum()), unscored=scheme.unscored, partly_scored=scheme.partly_scored,
        )  # fmt: skip


def curve_rows(where: Mapping[str, Any], schemes: Sequence[Scheme], told: Sequence[bool], groups: Groups) -> Iterator[Curve]:
    """One row per scheme and number of traces; none of those counted as published, which are of one number."""
    majority = next(scheme for scheme in schemes if scheme.scheme == MAJORITY)
    for scheme, headline in zip(schemes, told, strict=True):
        for k, found in scheme.by_k.items() if scheme.against == MAJORITY else ():
            yield Curve(
                **where, **_named(scheme), headline=headline, k=k, how=found.how, subsets=found.subsets,
                accuracy=groups.estimate(found.values), over_majority=groups.estimate(found.values - majority.by_k[k].values),
            )  # fmt: skip


def tested_rows(
    where: Mapping[str, Any], schemes: Sequence[Scheme], told: Sequence[bool], groups: Groups, *, flips: int, seed: int
) -> Iterator[Tested]:
    """One row per scheme but for majority, which it is tested against, and oracle, which is none."""
    compared = {scheme.scheme: scheme for scheme in schemes if scheme.probe is None}
    tested = [(s, headline) for s, headline in zip(schemes, told, strict=True) if s.scheme not in (MAJORITY, ORACLE, PUBLISHED)]
    differences = [s.by_k[s.k].values - compared[s.against].by_k[s.k].values for s, _ in tested]
    p = flip_p(groups, differences, flips=flips, seed=seed)
    main = np.array([headline for _, headline in tested], dtype=bool)
    stepped = np.full(len(p), np.nan)
    stepped[main] = holm(p[main])
    for (scheme, headline), difference, own, q, adjusted in zip(
        tested, differences, p, benjamini_hochberg(p), stepped, strict=True
    ):
        yield Tested(
            **where, **_named(scheme), headline=headline, k=scheme.k, difference=groups.estimate(difference), p=float(own),
            flips=flips, q=float(q), tests=len(tested), holm=float(adjusted) if headline else None,
            headline_tests=int(main.sum()), **mcnemar(compared[scheme.against].once, scheme.once)._asdict(),
        )  # fmt: skip


def tuned_rows(where: Mapping[str, Any], development: Pool | None, schemes: Sequence[Scheme], k: int) -> Iterator[Tuned]:
    """One row per choice that was tried; none without development problems."""
    place = {name: where[name] for name in ("run", "stage")}
    for scheme in schemes:
        if development is None or scheme.tuning is None:
            continue
        for tried in scheme.tuning.tried:
            yield Tuned(
                **place, **(_named(scheme) | {"aggregation": tried.aggregation, "tau": tried.tau}), k=min(k, development.samples),
                problems=len(development.problems), accuracy=tried.accuracy or 0.0, chosen=tried == scheme.tuning.chosen,
            )  # fmt: skip


def _named(scheme: Scheme) -> dict[str, Any]:
    """The columns that name a scheme."""
    probe = scheme.probe
    named: dict[str, Any] = dict.fromkeys((*Probe._fields, "family"))
    if probe is not None:
        named = probe._asdict() | {"family": probe.family}
    return {"scheme": scheme.scheme, **named, "aggregation": scheme.aggregation, "tau": scheme.tau}
