"""Section `probes.fits`: which probes are fitted to the features of reasoning steps, and how they are measured."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from workflow.config.section import Section

Model = Literal["l2", "l1", "k_sparse", "pca", "mlp"]


class MlpSettings(Section):
    preset: Literal["published"] | None = None
    """`published`: the settings of the SSAE paper's code in the place of all below: hidden 1024, 1000 epochs, lr 1e-6 to 1e-7, and
    batches of 512, there gathered from four."""

    hidden: PositiveInt = Field(default=256, multiple_of=2)
    """Width of the first hidden layer; the second has half of it."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of hidden units left out in training."""

    epochs: PositiveInt = 40
    """Passes over the training steps; the number that is used is chosen among them on held-out groups."""

    batch: PositiveInt = 128
    """Steps per update."""

    lr: PositiveFloat = 1e-3
    """Peak learning rate of AdamW."""

    min_lr: PositiveFloat = 1e-5
    """Learning rate at the end of its cosine."""

    warmup_epochs: NonNegativeInt = 2
    """Epochs over which the learning rate rises."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Of AdamW."""

    grad_clip: float = Field(default=1.0, ge=0)
    """Global gradient norm at most; 0 switches it off."""

    @property
    def chosen(self) -> "MlpSettings":
        """These settings, or those of the preset."""
        return MlpSettings(hidden=1024, epochs=1000, batch=512, lr=1e-6, min_lr=1e-7) if self.preset else self


class ProbeFitsConfig(Section):
    tasks: list[str] = ["correct", "final_strict", "length", "next_first_token"]
    """Label columns that probes are fitted to: yes/no labels, numbers (`length`, `value`), tokens and texts as classes; a column of
    probes.labels is one, too. `length` and `first_token` are those of the step that the features have seen."""

    thresholds: dict[str, float] = {}
    """Labels that are numbers and shall be a yes/no task: true from this value on, such as {value: 0.5}."""

    sets: list[str] | None = None
    """Feature sets by name; null: all of the step features, codes of step-level SAEs, `words` (TF-IDF of words and pairs),
    `characters` (of 2 to 4) and `surface+words`; sets joined by + are one with the columns of all."""

    models: list[Model] = ["l2", "l1", "k_sparse"]
    """`l2`, `l1`: logistic regression (numbers and classes: l2 alone); `k_sparse`: on few latents, of sparse sets; `pca`: on
    principal components, of dense sets; `mlp`: the perceptron of the SSAE paper."""

    k: list[PositiveInt] = [16]
    """k_sparse: how many latents, a probe for each."""

    components: list[PositiveInt] = [32]
    """pca: how many components, a probe for each."""

    c_grid: list[PositiveFloat] = [0.001, 0.01, 0.1, 1.0]
    """Inverse strengths of the penalty; chosen by the folds, the strongest penalty of equal ones."""

    folds: int = Field(default=3, ge=2)
    """Folds of the training problems, near-duplicates together, in which C is chosen and probes are validated."""

    min_problems: int = Field(default=5, ge=2)
    """A class must be seen in so many problems of a split, else the cell says why it is not fitted."""

    most_words: PositiveInt = 5000
    """Columns of `words` and of `characters` at most, the most frequent ones."""

    bins: PositiveInt = 10
    """Bins of equal width for the calibration error."""

    permutations: NonNegativeInt = 2
    """Fits to labels dealt out anew among problems, of the best SAE probe and the best other of each task: AUROC must be ½."""

    transfer: bool = True
    """Whether probes of every stage are tested on the steps of every other."""

    mlp: MlpSettings = MlpSettings()
    """The three-layer perceptron of the SSAE paper, there called a linear probe."""

    @model_validator(mode="after")
    def _c_rises(self) -> "ProbeFitsConfig":
        if sorted(set(self.c_grid)) != self.c_grid or not self.c_grid:
            raise ValueError(f"probes.fits.c_grid must rise and hold a value; got {self.c_grid}. Sort it, each value once.")
        return self
