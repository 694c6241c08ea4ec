"""Step-level SAEs on the page: their training, and what they rebuild of the steps of every stage. Left out where there is none."""

from matplotlib.axes import Axes

from workflow.frames import Table
from workflow.report.drawing import GREY, Figure, Panel, colour, drawing
from workflow.report.evidence import Evidence
from workflow.report.markup import Column, Html, element, joined, number, percent, plain
from workflow.report.sections import Gallery, long_table

MEASURES = {"nll": "nats per token", "l1": "L1 norm of codes", "active_share": "share of active latents"}
ONE = ["run", "chain", "seed", "stage"]
TRANSFER = ("nll", "code_gain", "l1", "l0", "excess")
TERMS = ("delta", "shift", "refit", "null_refit", "adaptation")


def ssae_section(evidence: Evidence, gallery: Gallery) -> Html:
    """Training curves and the tables; empty without a step-level SAE."""
    made = evidence.ssae
    if not made:
        return joined([])
    lead = (
        "A step-level SAE has one sparse code for a whole reasoning step: an encoder language model reads question, earlier steps "
        "and the step, a decoder language model writes the step again from its code and what came before. Codes have the Euclidean "
        "length 1, so their L1 norm says how many latents share it."
    )
    histories = made["histories"]
    needed = [*ONE, "update", "train_nll", *MEASURES]
    nothing = "it was not trained here."
    parts = [
        element("p", lead),
        gallery.show(lambda: training_figure(histories), histories, needed, "Training of step-level SAEs", nothing),
    ]
    if "transfer" in made:
        parts.append(
            long_table(made["transfer"], _columns(TRANSFER, KEYS), "Step-level SAEs on the steps of every stage", "ssae_all")
        )
        parts.append(element("p", code_sentence(made["transfer"])))
    if len(made.get("decomposition", ())):
        caption = "Loss of step-level SAEs from base to each stage, nats per token"
        parts.append(long_table(made["decomposition"], _columns(TERMS, STAGE_KEYS), caption, "ssae_decomposition_all"))
    if len(made.get("latents", ())):
        caption = "Latents of step-level SAEs that never read a stage's steps, on steps of base and of the stage"
        counted = latent_counts(made["latents"], float(evidence.study.get("drift", {}).get("fdr", 0.05)))
        parts += [long_table(counted, COUNTED, caption, "ssae_latents_counted"), element("p", COUNTS, class_="small")]
    return joined(parts)


def code_sentence(transfer: Table) -> str:
    """What the codes of each SSAE tell of the steps of its own stage, and a warning where that is nothing."""
    own = transfer[(transfer["stage"] == transfer["ssae_stage"]) & (transfer["chain"] == "real")]
    mute = (own if len(own) else transfer).query("code_gain_low <= 0")
    lead = (
        "The code gain is the loss with one mean code for all steps less that with each step's own code: what codes tell of their "
        "steps beyond the context, in nats per token."
    )
    if not len(mute):
        return lead
    named = ", ".join(sorted({f"{row.ssae_stage} (run {row.run}, text {row.text}, seed {row.seed})" for row in mute.itertuples()}))
    return (
        f"{lead} It cannot be told from 0 for the SSAE of {named}: its decoder writes steps without their codes, and "
        "latents of such an SSAE mean nothing. Train it longer or at a lower learning rate."
    )


KEYS = ("run", "text", "seed", "chain", "ssae_stage", "stage", "steps", "tokens")
STAGE_KEYS = ("run", "text", "seed", "stage", "update")


COUNTS = (
    "Counts of latents, tested in pairs by problem. Changed: listed at the false discovery rate of the study; confirmed: by sign "
    "flips, too; stable: their rate demonstrably stayed. Appeared and vanished compare the SSAE of the chain on the steps that it "
    "was trained on with that of base on steps of base; those of the chain null are what as much training on base makes. Single "
    "latents stand in the table ssae_latents."
)


def latent_counts(latents: Table, fdr: float) -> Table:
    """How many latents were tested, changed, stayed, appeared and vanished; a row per run, text, seed, stage and chain."""
    marks = latents[[*STAGE_KEYS, "chain"]].assign(
        latents=True,
        tested=latents["rate_tested"],
        changed=latents["rate_q"] <= fdr,
        confirmed=latents["rate_confirmed"].fillna(False).astype(bool),
        stable=latents["stable_q"] <= fdr,
        appeared=latents["appeared"].astype("float"),
        vanished=latents["vanished"].astype("float"),
    )
    return marks.groupby([*STAGE_KEYS, "chain"], sort=False).sum(min_count=1).reset_index()


COUNTED = [
    *(Column(name, name, plain if name in ("seed", "update") else None) for name in (*STAGE_KEYS, "chain")),
    *(Column(name, name, plain) for name in ("latents", "tested", "changed", "confirmed", "stable", "appeared", "vanished")),
]


def _columns(estimates: tuple[str, ...], keys: tuple[str, ...]) -> list[Column]:
    numbers = ("seed", "steps", "tokens", "update")
    shown = [Column(f"{name}_shown", name.replace("_", " ")) for name in estimates]
    return [*(Column(name, name.replace("_", " "), plain if name in numbers else None) for name in keys), *shown]


def training_figure(histories: Table) -> Figure:
    """Held-out loss, L1 norm beside its target, and share of active latents over updates; a line per SSAE."""
    panels = [_panel(histories, measure, label) for measure, label in MEASURES.items()]
    caption = (
        "Training of step-level SAEs, measured on held-out problems without hidden tokens and noise. Left: loss of the decoder per "
        "token of a step, dashed: on training steps with noise. Middle: L1 norm of the codes; the dotted line is the target that "
        "the weight of the penalty is steered towards. Right: latents above 0, as a share of all."
    )
    return Figure("ssae_training", "Training of step-level SAEs", caption, [("", panels)], histories)


def _panel(histories: Table, measure: str, label: str) -> Panel:
    said = []
    with drawing() as drawn:
        axes = drawn.axes()
        for place, (key, rows) in enumerate(histories.groupby(ONE, sort=False)):
            run, chain, seed, stage = key if isinstance(key, tuple) else (key,) * 4
            name = f"{stage}, {chain}, seed {seed}" if run == "shared" else f"{run} {stage}, {chain}, seed {seed}"
            _line(axes, rows, measure, place, name)
            show = percent if measure == "active_share" else number
            said.append(f"{name} {show(rows[measure].iloc[-1])}")
        axes.set_title(label)
        axes.set_xlabel("update")
        drawn.legend(axes)
    return Panel(measure, f"{label} at the end of training: {'; '.join(said)}.", drawn.svg)


def _line(axes: Axes, rows: Table, measure: str, place: int, name: str) -> None:
    axes.plot(rows["update"], rows[measure], color=colour(place), linewidth=1.6, marker="o", markersize=2.5, label=name)
    if measure == "nll":
        axes.plot(rows["update"], rows["train_nll"], color=colour(place), linewidth=1.0, linestyle="--")
    if measure == "l1" and "target_l1" in rows and place == 0:
        axes.axhline(float(rows["target_l1"].iloc[0]), color=GREY, linewidth=1.0, linestyle=(0, (1, 2)))
