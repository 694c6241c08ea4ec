"""The tables of probes: one class per table, one field per column, its formula in the string under it.

All numbers are of steps of the split `test`, of probes fitted on steps of `train`; see `drift_columns` for `Estimate` and types.
What is measured is told in `workflow/probes/measures.py` and in docs/probes.md. `validation` is the measure that a task is judged
by, larger is better: AUROC of a binary task, R² of a number, −nats of classes; pooled over the folds of the training problems,
each measured where it was not fitted, at the C that makes it largest.
"""

from typing import NamedTuple

from workflow.formats.drift_columns import Estimate


class Probe(NamedTuple):
    """One probe, or the reason why there is none."""

    run: str
    """RL run; `shared` for base."""
    stage: str
    """Stage whose policy wrote the steps, and whose rows the features are."""
    layer: int | None
    """Layer of the features; null where they are of none."""
    task: str
    """Label column."""
    kind: str
    """binary, number or classes."""
    same_step: bool
    """The features have seen the answer: length and first token of the very step they are of."""
    features: str
    """Feature set; `none` for the baseline that knows the training labels alone."""
    family: str
    """sae, dense, part, random or surface, see `workflow/formats/probe_scores.py`."""
    model: str
    """l2, l1, k_sparse_<k>, pca_<components>, mlp, or prevalence."""
    not_fitted: str | None
    """Why there is no probe, or no number of it; null where there is."""
    train_steps: int
    """Steps it was fitted on."""
    steps: int
    """Steps it is measured on."""
    prompts: int
    """Their problems; near-duplicates are drawn and counted as one where there must be enough."""
    missing: int
    """Steps of train and test without this label, left out."""
    without_features: int
    """Steps of train and test with the label, but without these features, left out."""
    prevalence: float | None
    """Share of true labels among the measured steps; of classes that of the most frequent one."""
    c: float | None
    """Inverse strength of the penalty that the folds chose."""
    epochs: int | None
    """Passes over the training steps that they chose, of mlp."""
    validation: float | None
    """See above."""
    used: bool | None
    """SAE codes: whether `validation` is above that of the best probe without them, of any layer and family; null for others."""
    nonzero: int | None
    """Columns with a weight other than 0, of any class."""
    unconverged: int | None
    """Linear models: fits behind it, every C on every fold and the last one, whose solver stopped at its limit of iterations."""
    auroc: Estimate | None
    """P(log odds of a true step > that of a false one), ties half."""
    average_precision: Estimate | None
    """Σ (recall_n − recall_{n−1}) precision_n."""
    brier: Estimate | None
    """Σ (p − y)² / n."""
    ece: Estimate | None
    """Σ_b |Σ_{i in b} (p_i − y_i)| / n over probes.fits.bins bins of equal width on [0, 1]."""
    accuracy: Estimate | None
    """Share of steps where (p ≥ ½) = y."""
    r2: Estimate | None
    """1 − Σ (ŷ − y)² / Σ (y − mean of the measured steps)²."""
    mae: Estimate | None
    """Σ |ŷ − y| / n, in units of the label."""
    mse: Estimate | None
    """Σ (ŷ − y)² / n."""
    train_mse: float | None
    """The same over the training steps: what the SSAE paper tells as a result."""
    nats: Estimate | None
    """Σ −log p(right class) / n; e to it is the perplexity."""
    top_1: Estimate | None
    """Share of steps whose right class is the likeliest."""
    classes: int | None
    """Classes, rare ones together as one."""


class ProbeContrast(NamedTuple):
    """A feature set, by the model of it that validates best, beside the best of other sets by validation, on the same steps."""

    run: str
    """RL run; `shared` for base."""
    stage: str
    """Stage."""
    layer: int | None
    """Layer of the features."""
    task: str
    """Label column."""
    features: str
    """Feature set."""
    model: str
    """Its model."""
    against: str
    """Among which sets the other was looked for: `baseline` (all without SAE codes, of any layer), or a family of them; of layered
    families those of the same layer where the features have one."""
    against_layer: int | None
    """Layer of the other."""
    against_features: str
    """The other."""
    against_model: str
    """Its model."""
    steps: int
    """Steps that both are measured on."""
    prompts: int
    """Their problems."""
    measure: str
    """auroc, r2 or nats."""
    delta: Estimate
    """Measure of the first − that of the other, paired by group of problems; of nats the other − the first: larger is better."""
    validation: float
    """Of the first."""
    against_validation: float
    """Of the other."""


class ProbeTransfer(NamedTuple):
    """A probe (L2) of one stage on the steps of another."""

    run: str
    """RL run."""
    layer: int
    """Layer."""
    task: str
    """Label column."""
    view: str
    """`dense`, `own` (codes of each stage's own SAE) or `frozen` (codes of the SAE of base at every stage)."""
    features: str
    """Feature set at the stage of the steps."""
    fit_stage: str
    """i, where it was fitted."""
    stage: str
    """j, whose steps it is tested on."""
    steps: int
    """Steps."""
    prompts: int
    """Their problems."""
    auroc: Estimate
    """A(i, j)."""
    excess: Estimate | None
    """A(i, j) − A(j, j), paired by group of problems; null where stage j has no probe of its own."""


class ProbeControl(NamedTuple):
    """One probe under a control."""

    run: str
    """RL run; `shared` for base."""
    stage: str
    """Stage."""
    layer: int | None
    """Layer of the features."""
    task: str
    """Label column."""
    features: str
    """Feature set."""
    model: str
    """Its model."""
    control: str
    """`permuted`: labels dealt out anew among groups of prompts before everything, must be ½; `same_length`: pairs of steps of one
    quartile of length; `same_step`: pairs with one place in their traces; `before_error`: steps without an incorrect one before."""
    repeat: int
    """Number of the permutation; 0."""
    steps: int
    """Steps."""
    auroc: Estimate | None
    """AUROC under the control; null where a class is missing there."""


PROBE_TABLES: dict[str, type] = {
    "probes": Probe, "probe_contrasts": ProbeContrast, "probe_transfer": ProbeTransfer, "probe_controls": ProbeControl,
}  # fmt: skip
