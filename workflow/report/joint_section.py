"""The section on what is measured over stages that read the same rows; what was not measured is left out."""

from workflow.report.evidence import Evidence
from workflow.report.joint_figures import representation_figure
from workflow.report.markup import Column, Html, folded, joined, number, plain
from workflow.report.sections import Gallery, long_table

EMPTY = "the table has no such rows."


def joint_section(evidence: Evidence, gallery: Gallery) -> Html:
    """Rows before any SAE; empty where no paired text was measured."""
    parts = []
    if len(evidence.representation.columns):
        needed = ["run", "text", "layer", "stage", "update", "against", "measure", "value", "low", "high"]
        what = "Rows before any SAE"
        parts.append(gallery.show(lambda: representation_figure(evidence), evidence.representation, needed, what, EMPTY))
        every = long_table(evidence.representation, REPRESENTATION, "Every measure of every pair of stages", "representation_all")
        parts.append(folded("Rows before any SAE, all numbers", every))
    return joined(parts)


REPRESENTATION = [
    Column("run", "run"), Column("text", "text"), Column("layer", "layer", plain), Column("stage", "stage"),
    Column("against", "against"), Column("measure", "measure"), Column("at", "at", number), Column("kind", "kind"),
    Column("seed", "seed", plain), Column("value", "value", number), Column("low", "low", number), Column("high", "high", number),
    Column("rows", "rows", plain), Column("prompts", "problems", plain),
]  # fmt: skip
