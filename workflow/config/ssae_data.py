"""Where step-level SAEs (SSAEs) come from: the steps they are trained on, and SSAEs that exist already."""

from typing import Any, Literal, NamedTuple

from pydantic import Field, PositiveInt, model_validator

from workflow.config.filled import Filled
from workflow.config.traces import Text

Format = Literal["traces", "gsm8k", "gsm8k_aug", "numina", "opencodeinstruct"]


class Lengths(NamedTuple):
    """How much of a context and of a step is read."""

    max_context_tokens: int
    keep_context: Literal["first", "last"]
    max_step_tokens: int


LENGTHS: dict[str, Lengths] = {
    "traces": Lengths(256, "last", 256),
    "gsm8k": Lengths(256, "first", 256),
    "gsm8k_aug": Lengths(256, "first", 256),
    "numina": Lengths(256, "last", 128),
    "opencodeinstruct": Lengths(256, "last", 256),
}
"""By format. Of a trace the end of the context is kept, the steps right before say more of a step than the question's beginning."""


class SsaeData(Filled):
    """The reasoning steps an SSAE is trained and validated on."""

    format: Format = "traces"
    """`traces`: those of this study; `gsm8k`: GSM8K's own files; `gsm8k_aug` (question, answer), `numina`
    (question, list of answers), `opencodeinstruct` (input, output): JSON Lines as the SSAE paper has them. null: the preset's,
    else traces."""

    text: Text = "fixed"
    """traces: the text set."""

    train: str | None = None
    """File of training solutions, for every format but traces."""

    valid: str | None = None
    """File of validation solutions; null sets `valid_share` of the training file's problems apart. traces: the split val."""

    valid_share: float = Field(default=0.02, gt=0, lt=1)
    """Share of the problems set apart for validation where there is no file of them; whole problems, never steps of one."""

    on_bad_line: Literal["error", "skip"] = "error"
    """What a line does that is no JSON, lacks a field or holds no step; skipped ones are counted by reason."""

    max_context_tokens: int = Field(ge=2, default=LENGTHS["traces"].max_context_tokens)
    """Tokens of the context (question and steps before) at most; null: 256."""

    keep_context: Literal["first", "last"] = LENGTHS["traces"].keep_context
    """Which end of a longer context is kept; null: first for gsm8k and gsm8k_aug, else last."""

    max_step_tokens: PositiveInt = LENGTHS["traces"].max_step_tokens
    """Tokens of the step at most; null: 128 for numina, else 256."""

    @classmethod
    def defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        return LENGTHS.get(str(given.get("format")), LENGTHS["traces"])._asdict()

    @model_validator(mode="after")
    def _traces_are_no_files(self) -> "SsaeData":
        if self.format == "traces" and (self.train or self.valid):
            raise ValueError(
                f"ssae.data.train and ssae.data.valid must be null for the format traces, which this study makes itself; got "
                f"{self.train} and {self.valid}. Name the files' format in ssae.data.format, or remove them."
            )
        return self


class GivenSsae(Filled):
    """An existing SSAE, in the file layout of the published ones or this study's own."""

    model: str | None = None
    """File, folder or hub id; null: the preset's, else none."""

    file: str | None = None
    """Which file of the folder or hub repository; null: the preset's, else the only one."""

    revision: str | None = None
    """Revision of a hub id; null is the newest."""

    resume: bool = False
    """source continued: also from the moments of AdamW that the file holds; epochs count anew."""
