"""Rule make_report: the page over the tables, curves and provenance of all phases."""

from typing import TYPE_CHECKING

from workflow.report.study_page import write_report
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

ONE = ("problems", "quality", "transfer", "decomposition", "claims", "latents", "dictionary", "lineage")
MANY = ("policies", "curves", "greedy", "greedy_traces", "traces", "shards", "saes", "histories", "provenances")
PERHAPS = ("warmup_curve", "representation", "crosscoder", "agreement")
"""Lists of one file or none."""
PATTERNS = ("n2g", "n2g_scores", "n2g_transfer", "n2g_paths", "n2g_steps")
MADE = ("splice", "outputs", "solving", "causal")
VOTES = ("voting", "voting_curves", "voting_tests")
STEPS = {"histories": "ssae_histories"} | {name: f"ssae_{name}" for name in ("transfer", "decomposition", "latents")}
"""Inputs about step-level SAEs, by what the page calls them."""
PROBES = ("probes", "probe_contrasts", "probe_transfer", "probe_controls")

with job(snakemake) as this:
    given = snakemake.input
    facts = write_report(
        inputs={
            **{name: str(given[name]) for name in ONE},
            **{name: [str(path) for path in given[name]] for name in MANY},
            "interventions": {name: str(given[name]) for name in MADE if given.get(name)},
            "probes": {name: str(given[name]) for name in PROBES if given.get(name)},
            "voting": {name: str(given[name]) for name in VOTES if given.get(name)},
            "ssae": {name: given[key] for name, key in STEPS.items() if given.get(key)},
            "n2g": {name: str(given[name]) for name in PATTERNS if given.get(name)},
            "graphs": [str(path) for path in given.get("n2g_graphs", [])],
            **{name: next((str(path) for path in given.get(name, [])), None) for name in PERHAPS},
        },
        report=snakemake.output.report,
        figures=snakemake.output.figures,
        summary_json=snakemake.output.summary,
        title=this.cfg["report"]["title"],
        study=this.cfg["study"],
        drift=this.cfg["drift"],
        key=this.key,
    )
    this.note(**facts)
