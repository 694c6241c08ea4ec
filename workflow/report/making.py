"""How the results were made: seconds, devices, versions, hardware, configuration and digests, from the provenance of all jobs."""

import json
from collections import Counter
from typing import Any

import pandas as pd
import yaml

from workflow.frames import Table
from workflow.report.evidence import Evidence
from workflow.report.markup import Column, Html, element, folded, joined, plain, table, tenths

MOST_VALUES = 4
HARDWARE = ("cpu", "cores", "gpu", "memory_gib", "python")


def making_section(evidence: Evidence) -> Html:
    """The section on provenance."""
    jobs = once_per_job(evidence.provenances)
    commits = Counter(str(job.get("commit") or "unknown") for job in jobs)
    seconds = seconds_table(jobs)
    started = sorted(str(job["started"]) for job in jobs if job.get("started"))
    span = f" The first began at {started[0]}, the last at {started[-1]}." if started else ""
    total = seconds["total"].sum() if len(seconds) else 0.0
    spent = f"{len(jobs)} jobs, {tenths(total)} seconds of work in all.{span} Code: " + ", ".join(
        f"commit {commit} ({count} job{'s' * (count != 1)})" for commit, count in sorted(commits.items())
    )
    return joined([
        element("p", f"{spent}. A plus sign behind a commit: its tree had changes."),
        table(seconds, SECONDS, "Seconds and peak memory by rule"),
        table(notes_table(jobs), NOTES, "What was chosen automatically or fell back"),
        table(_hardware(jobs), HARDWARE_COLUMNS, "Hardware"),
        table(_versions(jobs), [Column("package", "package"), Column("version", "version")], "Versions"),
        folded("Configuration", element("pre", yaml.safe_dump(evidence.study, sort_keys=False, allow_unicode=True, width=110))),
        folded("Digests of the artefacts", table(digests(evidence), DIGESTS, "Digests (sha256) as the manifests state them")),
    ])  # fmt: skip


SECONDS = [
    Column("rule", "rule"), Column("jobs", "jobs", plain), Column("total", "seconds, sum", tenths),
    Column("longest", "seconds, longest job", tenths),    Column("memory", "peak memory, GiB", tenths),
]  # fmt: skip
NOTES = [Column("rule", "rule"), Column("notes", "device, number format, engine, fallbacks")]
HARDWARE_COLUMNS = [
    Column("cpu", "processor"), Column("cores", "cores", plain), Column("gpu", "GPU"), Column("memory_gib", "memory, GiB", tenths),
    Column("python", "Python"), Column("jobs", "jobs", plain),
]  # fmt: skip
DIGESTS = [Column("artefact", "artefact"), Column("name", "field"), Column("digest", "digest")]


def once_per_job(provenances: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The provenances without repeats: a job that made several artefacts left the same beside each."""
    told = {json.dumps({name: value for name, value in one.items() if name != "path"}, sort_keys=True): one for one in provenances}
    return list(told.values())


def seconds_table(jobs: list[dict[str, Any]]) -> Table:
    """Per rule: jobs, sum and maximum of seconds, largest peak memory."""
    rows = [{"rule": job["rule"], "seconds": job.get("seconds"), "memory": job.get("peak_memory_gib")} for job in jobs]
    frame = pd.DataFrame(rows, columns=["rule", "seconds", "memory"]).astype({"seconds": float, "memory": float})
    return frame.groupby("rule", sort=False).agg(
        jobs=("seconds", "size"), total=("seconds", "sum"), longest=("seconds", "max"), memory=("memory", "max")
    ).reset_index()  # fmt: skip


def notes_table(jobs: list[dict[str, Any]]) -> Table:
    """Per rule the facts its jobs noted; a fact with many values is counted instead of listed."""
    facts: dict[str, dict[str, Counter[str]]] = {}
    for job in jobs:
        for name, value in (job.get("notes") or {}).items():
            shown = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
            facts.setdefault(job["rule"], {}).setdefault(name, Counter())[shown] += 1
    rows = [(rule, "; ".join(_fact(name, values) for name, values in sorted(named.items()))) for rule, named in facts.items()]
    return pd.DataFrame(rows, columns=["rule", "notes"])


def _fact(name: str, values: Counter[str]) -> str:
    if len(values) > MOST_VALUES or any(len(value) > 120 for value in values):
        return f"{name}: {len(values)} different value{'s' * (len(values) != 1)}"
    return f"{name} = " + " or ".join(
        f"{value} ({count}×)" if len(values) > 1 else value for value, count in sorted(values.items())
    )


def _hardware(jobs: list[dict[str, Any]]) -> Table:
    counts = Counter(tuple((job.get("machine") or {}).get(name) for name in HARDWARE) for job in jobs)
    rows = [(*machine, count) for machine, count in sorted(counts.items(), key=lambda one: (-one[1], repr(one[0])))]
    return pd.DataFrame(rows, columns=[*HARDWARE, "jobs"])


def _versions(jobs: list[dict[str, Any]]) -> Table:
    found: dict[str, set[str]] = {}
    for job in jobs:
        for package, version in (job.get("versions") or {}).items():
            found.setdefault(package, set()).add(str(version))
    return pd.DataFrame([(name, ", ".join(sorted(found[name]))) for name in sorted(found)], columns=["package", "version"])


def digests(evidence: Evidence) -> Table:
    """Every field of every manifest whose name ends in `digest`, by the manifest's path."""
    policies, saes = evidence.policies.to_dict("records"), evidence.saes.to_dict("records")
    rows = []
    for manifest in [evidence.problems, *policies, *evidence.traces, *evidence.shards, *saes]:
        for name in sorted(manifest):
            if name.endswith("digest") and isinstance(manifest[name], str):
                rows.append((manifest["path"], name, manifest[name]))
    return pd.DataFrame(rows, columns=["artefact", "name", "digest"])
