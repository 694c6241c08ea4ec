"""The report of a study: one page, its figures as files, its main numbers."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workflow.formats.files import publish, scratch_folder, write_json, write_text
from workflow.frames import Table
from workflow.report.accuracy import accuracy_table
from workflow.report.claims import Claim, claims
from workflow.report.claims_section import claims_section
from workflow.report.drawing import Figure
from workflow.report.drift_figures import main_text
from workflow.report.evidence import ONE_SAE, Evidence, read_evidence
from workflow.report.frames import csv_text
from workflow.report.intervention_section import interventions_section
from workflow.report.joint_section import joint_section
from workflow.report.kinds_section import kinds_section
from workflow.report.latent_figures import latents_section
from workflow.report.making import making_section
from workflow.report.markup import Html, element, joined, note, slug, table
from workflow.report.matrix_figures import cosine_quantiles
from workflow.report.n2g_section import n2g_section
from workflow.report.overview import LAST_STAGE, POLICIES, last_stage_table, opening, policies_table
from workflow.report.probes_section import probes_section
from workflow.report.sections import CELL, Gallery, drift_section, policies_section, saes_section, texts
from workflow.report.ssae_section import ssae_section
from workflow.report.summary import log_summary, summary
from workflow.report.template import page
from workflow.report.voting_section import voting_section

log = logging.getLogger(__name__)


def write_report(
    *, inputs: Mapping[str, Any], report: Path | str, figures: Path | str, summary_json: Path | str, title: str,
    study: dict[str, Any], drift: Mapping[str, Any], key: str,
) -> dict[str, Any]:  # fmt: skip
    """Write the page, the folder of figures and the summary; facts for provenance.

    The bytes of all three depend on the inputs alone.

    Args:
        inputs: paths by name, as the arguments of `read_evidence`.
        report: the HTML file.
        figures: folder for every panel as SVG and every figure's data as CSV.
        summary_json: the main numbers.
        title: heading of the page.
        study: the resolved configuration without `compute`.
        drift: `replicates`, `confidence` and `seed` of the bootstrap over problems.
        key: names the scratch folder.
    """
    evidence = read_evidence(study=study, **inputs)
    accuracy = accuracy_table(evidence, dict(drift))
    found = claims(evidence)
    html, drawn = compose(evidence, accuracy, found, title, drift)
    save_figures(drawn, Path(figures), key)
    numbers = summary(evidence, accuracy, found)
    write_json(summary_json, numbers)
    write_text(report, html)
    log_summary(numbers)
    return {
        "figures": len(drawn),
        "panels": sum(len(panels) for figure in drawn for _, panels in figure.groups),
        "characters": len(html),
    }


def compose(
    evidence: Evidence, accuracy: Table, found: list[Claim], title: str, drift: Mapping[str, Any]
) -> tuple[str, list[Figure]]:
    """The page and the figures on it."""
    gallery = Gallery()
    quantiles = {text: _quantiles(evidence, text) for text in texts(evidence)}
    lead = joined([
        element("p", opening(evidence), class_="lead"),
        element("p", f"Intervals: {100 * drift['confidence']:g} % bootstrap over problems, {drift['replicates']} replicates."),
    ])  # fmt: skip
    done = [("interventions", "Interventions", interventions_section(evidence, gallery))] if evidence.interventions else []
    sections = [
        ("numbers", "Main numbers", _main_numbers(evidence, accuracy, found, quantiles)),
        ("claims", "What may be said", claims_section(evidence, found)),
        ("policies", "Policies", policies_section(evidence, gallery, accuracy)),
        ("saes", "Sparse autoencoders", saes_section(evidence, gallery)),
        ("drift", "Drift", drift_section(evidence, gallery, quantiles)),
        ("kinds", "Kinds of SAEs side by side", kinds_section(evidence, found, gallery)),
        ("latents", "Single latents", latents_section(evidence, gallery)),
        ("joint", "Stages side by side", joint_section(evidence, gallery)),
        *done,
        ("ssae", "Step-level SAEs", ssae_section(evidence, gallery)),
        ("probes", "Probes of reasoning steps", probes_section(evidence, gallery)),
        ("voting", "Votes", voting_section(evidence, gallery)),
        ("n2g", "Patterns of latents", n2g_section(evidence, gallery)),
        ("making", "How it was made", making_section(evidence)),
    ]
    return page(title, lead, [section for section in sections if section[-1]]), gallery.figures


def _quantiles(evidence: Evidence, text: str) -> Table:
    if {*ONE_SAE, "decoder_cosine"} <= set(evidence.latents.columns):
        return cosine_quantiles(evidence, text)
    return pd.DataFrame(columns=[*CELL, "chain", "stage", "latents", "quantile", "decoder_cosine"])


def _main_numbers(evidence: Evidence, accuracy: Table, found: list[Claim], quantiles: dict[str, Table]) -> Html:
    text = main_text(evidence)
    parts = [table(policies_table(evidence, accuracy), POLICIES, "Policies: held-out accuracy by stage")]
    lacking = [name for name in (*CELL, "stage", "shift") if name not in evidence.decomposition]
    if lacking or evidence.decomposition.empty or text not in quantiles:
        return joined(
            [*parts, note(f"Drift at the last stage: left out; columns missing: {', '.join(lacking) or 'none, but no rows'}.")]
        )
    last = last_stage_table(evidence, found, quantiles[text], text)
    return joined([*parts, table(last, LAST_STAGE, f"Drift from base to the last stage, text {text}, sinks dropped")])


def save_figures(drawn: Sequence[Figure], folder: Path, key: str) -> None:
    """Every panel as SVG, every figure's data as CSV, in one folder that appears at once."""
    scratch = scratch_folder(folder, key)
    for figure in drawn:
        write_text(scratch / f"{slug(figure.name)}.csv", csv_text(figure.data))
        for panel in (panel for _, panels in figure.groups for panel in panels):
            write_text(scratch / f"{slug(figure.name)}.{slug(panel.name)}.svg", panel.svg)
    publish(scratch, folder)
