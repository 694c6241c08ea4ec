"""Texts of contexts and steps as the token ids a step-level SAE reads, cut to what it was trained to read."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from workflow.step_encoding import StepIds
from workflow.step_tokens import StepTokenizer


class TokenisedSteps(NamedTuple):
    """Steps of texts."""

    steps: StepIds
    """Ready to be encoded; its `contexts` are what `decode_steps` writes behind."""
    cut_contexts: int
    """Contexts that lost tokens."""
    cut_steps: int
    """Steps that lost tokens."""


def tokenised_steps(
    *,
    contexts: Sequence[str],
    steps: Sequence[str],
    tokenizer: StepTokenizer,
    max_context_tokens: int = 256,
    keep_context: Literal["first", "last"] = "first",
    max_step_tokens: int = 256,
) -> TokenisedSteps:
    """Each step with its context, in their order; the limits are those of `ssae.data`, as of the published GSM8K SSAEs.

    Args:
        contexts: question, a blank, earlier steps, joined as in the data the SSAE was trained on.
        steps: one for each context.
        tokenizer: the SSAE's.
        max_context_tokens: tokens of a context at most, a BOS included.
        keep_context: which end of a longer context is kept; a BOS stays.
        max_step_tokens: tokens of a step at most, its first ones.

    Raises:
        ValueError: not as many contexts as steps, or a step without tokens.
    """
    room = max_context_tokens - len(tokenizer.prefix)
    before, told = tokenizer.encode(contexts), tokenizer.encode(steps)
    kept = [ids[:room] if keep_context == "first" else ids[max(len(ids) - room, 0) :] for ids in before]
    return TokenisedSteps(
        StepIds(
            [[*tokenizer.prefix, *ids.tolist()] for ids in kept],
            [ids[:max_step_tokens].tolist() for ids in told],
            separator=tokenizer.separator,
            end=tokenizer.end,
        ),
        sum(len(ids) > room for ids in before),
        sum(len(ids) > max_step_tokens for ids in told),
    )
