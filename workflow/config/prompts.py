"""Section `prompts`: how a problem is put to a policy and how its answer is judged."""

from typing import Literal

from workflow.config.section import Section

AnswerRule = Literal["strict", "flexible", "verl_strict", "verl_flexible"]


class PromptsConfig(Section):
    system: str | None = None
    """System turn; null leaves it out where the chat template allows that."""

    user: str = "{question}"
    """Template of the user turn over the fields of a problem."""

    version: str = "1"
    """Name of this wording; it travels with every trace."""

    step_separator: str = "\n"
    """Reasoning steps of a solution are what stands between occurrences of this text."""
