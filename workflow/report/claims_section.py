"""The section of the page that says what may be said: sentences, and the claim gate behind them."""

from workflow.report.claims import SAID, Claim, exploratory, gate_table
from workflow.report.drift_figures import main_text
from workflow.report.evidence import Evidence
from workflow.report.markup import Column, Html, csv_link, element, folded, joined, note, plain, table


def claims_section(evidence: Evidence, found: list[Claim]) -> Html:
    """One sentence per run, layer and stage; the last stage open, the others folded."""
    intro = (
        f"{len(found)} statements, each from intervals that are not adjusted for their number. A stage is said to differ from base "
        "beyond refit only if all conditions of the claim gate hold: in every SAE seed the intervals of shift and of adaptation "
        "exclude 0, both exceed what one hop more on the same rows changes between stages, at least 3 SAE and 2 RL seeds agree, "
        "also under the variance of base, sinks do not turn it round, and replayed text agrees in sign. What was not measured "
        "makes a statement exploratory; what fails takes it back."
    )
    if not found:
        return note("No statement: the table of the decomposition lacks its terms or rows.")
    parts = [element("p", intro)]
    for run in dict.fromkeys(claim.run for claim in found):
        reasons = exploratory(evidence, run)
        label = (
            note(f"Exploratory: not measured are {', '.join(reasons)}. Read every statement below as a hint, not as a finding.")
            if reasons
            else ""
        )
        parts += [element("h3", f"Run {run}", id=f"run-{run}"), label, *_run_claims(evidence, [c for c in found if c.run == run])]
    return joined([*parts, folded("The claim gate, condition by condition", _gate(evidence))])


def _gate(evidence: Evidence) -> Html:
    shown = table(gate_table(evidence), GATE, "Conditions of the claim gate")
    return joined([shown, element("p", csv_link(evidence.claims, "claims"), class_="small")])


def _run_claims(evidence: Evidence, found: list[Claim]) -> list[Html]:
    last = evidence.ordered(found[0].run, [claim.stage for claim in found])[-1]
    first_line = [claim for claim in found if claim.text == main_text(evidence) and claim.stage == last]
    rest = [claim for claim in found if claim.text == main_text(evidence) and claim.stage != last]
    parts = [_claim_list(first_line)]
    if rest:
        parts.append(folded("Earlier stages", _claim_list(rest)))
    for text in dict.fromkeys(claim.text for claim in found if claim.text != main_text(evidence)):
        heading = f"Text set {text}: supporting only, never alone for a claim about representations"
        parts.append(folded(heading, _claim_list([claim for claim in found if claim.text == text])))
    return parts


def _claim_list(found: list[Claim]) -> Html:
    several = len({claim.kind for claim in found}) > 1
    return element("ul", *(element("li", f"{claim.kind}: " if several else "", claim.sentence) for claim in found), class_="claims")


GATE = [
    *(Column(name, name) for name in ("run", "text", "kind")), Column("layer", "layer", plain), Column("stage", "stage"),
    Column("sae_seeds", "SAE seeds", plain), Column("rl_seeds", "RL seeds", plain),
    *(Column(name, said) for name, said in SAID.items()), Column("verdict", "verdict"),
    Column("reward_verdict", "as an effect of the reward"), Column("latents_verdict", "in single latents"),
]  # fmt: skip
