"""What a source of steps looks like by its name in `ssae.data.format`, and how its texts become steps with contexts."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from workflow.config.section import ConfigError, nearest
from workflow.config.ssae_data import LENGTHS, SsaeData
from workflow.config.ssae_training import SsaeLegacy
from workflow.ssae.splitting import code_steps, line_steps, sentence_steps

TRACES = "traces"
"""The format of this pipeline's traces.parquet, whose ids are taken as they stand; all others are JSON Lines of texts."""
Keep = Literal["first", "last"]


class Limits(NamedTuple):
    """How much of a long context and step is kept."""

    context: int
    """Tokens before the separator, the one that begins a sequence included."""
    keep: Keep
    """Which end of a longer context stays."""
    step: int
    """Tokens of the step, from its first; the end token comes on top."""

    @property
    def total(self) -> int:
        """Tokens of the longest sequence: context, separator, step, end."""
        return self.context + 1 + self.step + 1


class TextForm(NamedTuple):
    """JSON Lines of one solution or several per line."""

    question: str
    """Field with the question."""
    answer: str
    """Field with the solution."""
    several: bool
    """The solution is a list of texts, each of which follows the ones before it."""
    joint: str
    """What stands between earlier steps in a context; one blank stands between question and steps."""


TEXT_FORMS = {
    "gsm8k": TextForm("question", "answer", False, ""),
    "gsm8k_aug": TextForm("question", "answer", False, ""),
    "numina": TextForm("question", "answer", True, " "),
    "opencodeinstruct": TextForm("input", "output", False, "\n"),
}
"""GSM8K itself keeps its calculator annotations and its last line `#### n`, as the phase `problems` keeps them."""


@dataclass(frozen=True, kw_only=True)
class StepRules:
    """How a source becomes steps with contexts; the settings of `ssae.data` and of `ssae.legacy` that concern it."""

    format: str
    max_context_tokens: int | None = None
    """None: that of the format, and so for the next two."""
    keep_context: Keep | None = None
    max_step_tokens: int | None = None
    on_bad_line: Literal["error", "skip"] = "error"
    numina_join: bool = False
    """Sentences glued as in the published NuminaMath steps."""
    double_bos: bool = False
    """Context and step begin with a token of their own where the tokenizer adds one, and a cut at the left loses it."""

    @classmethod
    def of(cls, data: SsaeData, legacy: SsaeLegacy) -> "StepRules":
        """The rules that the configuration asks for."""
        return cls(
            format=data.format,
            max_context_tokens=data.max_context_tokens,
            keep_context=data.keep_context,
            max_step_tokens=data.max_step_tokens,
            on_bad_line=data.on_bad_line,
            numina_join=legacy.numina_join,
            double_bos=legacy.double_bos,
        )

    def __post_init__(self) -> None:
        if self.format not in LENGTHS:
            guess = nearest(self.format, list(LENGTHS))
            hint = f"Did you mean {guess}?" if guess else "Choose one of them."
            raise ConfigError(f"ssae.data.format must be one of {', '.join(LENGTHS)}; got {self.format!r}. {hint}")
        if self.format == TRACES and self.double_bos:
            raise ConfigError(
                "ssae.legacy.double_bos repeats a token that texts begin with, so ssae.data.format must be one of texts; got "
                "traces, whose ids stand as they are. Set ssae.legacy.double_bos: false."
            )
        if self.limits.context < 2 or self.limits.step < 1:
            raise ConfigError(
                "ssae.data.max_context_tokens must be 2 or more and max_step_tokens 1 or more; "
                f"got {self.limits.context} and {self.limits.step}. Raise them, or set null for those of the format."
            )

    @property
    def limits(self) -> Limits:
        """Own limits where they are set, else those of the format."""
        usual = Limits(*LENGTHS[self.format])
        context = usual.context if self.max_context_tokens is None else self.max_context_tokens
        step = usual.step if self.max_step_tokens is None else self.max_step_tokens
        return Limits(context, self.keep_context or usual.keep, step)

    def meaning(self) -> dict[str, Any]:
        """What a manifest says of the rules, with the limits that are in force."""
        limits = self.limits
        in_force = {"max_context_tokens": limits.context, "keep_context": limits.keep, "max_step_tokens": limits.step}
        return asdict(self) | in_force

    def cut(self) -> Callable[[str], list[str]]:
        """The rule that cuts one text into steps."""
        match self.format:
            case "numina":
                return lambda text: sentence_steps(text, glued=self.numina_join)
            case "opencodeinstruct":
                return code_steps
        return line_steps
