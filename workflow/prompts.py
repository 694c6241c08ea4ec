"""How a problem is put to a policy as tokens, and how a response falls into reasoning steps."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError

from workflow.config.prompts import PromptsConfig
from workflow.config.section import ConfigError
from workflow.templates import fill

log = logging.getLogger(__name__)
STAND_IN = "saedrift stands in for the text"
"""Rendered in the place of a turn to learn what a chat template puts around it."""
SPECIAL = "\0"
"""What a special token counts as when steps are looked for: a character that no separator holds."""


class Prompt(NamedTuple):
    """A problem as the policy reads it."""

    token_ids: list[int]
    """Chat template included, up to where the policy goes on."""
    question_start: int
    """First token of the user's text…"""
    question_end: int
    """…and the one behind its last; a token that also holds a character of the template counts as the user's."""


def prompt_format(tokenizer: Any) -> str:
    """`chat` where the tokenizer has a chat template, else `plain`: system text, blank line, user text, newline."""
    return "chat" if tokenizer.chat_template else "plain"


def render(tokenizer: Any, problem: Mapping[str, str], prompts: PromptsConfig) -> Prompt:
    """The prompt of one problem.

    Raises:
        ConfigError: the user template names an unknown field, the chat template takes no system turn or changes the user's
            text, or the tokenizer cannot tell where its tokens come from.
    """
    user = fill(prompts.user, problem, "prompts.user")
    if prompt_format(tokenizer) == "chat":
        text, begins, ends = _locate(tokenizer, prompts.system, user)
        prefix: list[int] = []
    else:
        before = f"{prompts.system}\n\n" if prompts.system else ""
        text, begins, ends = f"{before}{user}\n", len(before), len(before) + len(user)
        prefix = [tokenizer.bos_token_id] if tokenizer("").input_ids[:1] == [tokenizer.bos_token_id] else []
    if not tokenizer.is_fast:
        raise ConfigError(
            "The policy's tokenizer must tell the place of each token in the text (a tokenizer.json, called fast); "
            f"got {type(tokenizer).__name__}. Save the model with a fast tokenizer."
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    inside = [i for i, (start, end) in enumerate(encoded.offset_mapping) if start < ends and end > begins]
    if not inside:
        raise ConfigError(
            f"prompts.user must give a text with at least one token; got {user!r}. Change prompts.user or the problem's question."
        )
    return Prompt([*prefix, *encoded.input_ids], len(prefix) + inside[0], len(prefix) + inside[-1] + 1)


def response_tokens(tokenizer: Any, solution: str) -> list[int]:
    """A reference solution as a policy would emit it behind its prompt: tokenised by itself, then the end of its turn."""
    return [*tokenizer(solution, add_special_tokens=False).input_ids, end_of_turn(tokenizer)]


def end_of_turn(tokenizer: Any) -> int:
    """The special token that the chat template puts directly behind an assistant's turn, else the end-of-sequence token.

    Raises:
        ConfigError: the tokenizer has neither.
    """
    if prompt_format(tokenizer) == "chat":
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": STAND_IN}]
        behind = _render_turns(tokenizer, turns, False).rpartition(STAND_IN)[2]
        first = tokenizer(behind.lstrip(), add_special_tokens=False).input_ids[:1]
        if first and first[0] in _special_ids(tokenizer):
            return first[0]
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "The policy's tokenizer must have a token that ends a response; got no eos token. "
            "Set eos_token in its tokenizer_config.json."
        )
    return tokenizer.eos_token_id


def step_ends(tokenizer: Any, token_ids: Sequence[int], prompt_tokens: int, separator: str) -> list[int]:
    """Token index behind the last token of each reasoning step of the response, rising; the last is len(token_ids).

    A separator belongs to the step that it ends, and so does the token that holds its last character. Steps without
    content join the step before them, at the beginning the one behind. An empty separator makes the response one step.
    """
    pieces = list(_pieces(tokenizer, token_ids[prompt_tokens:]))
    ends, step = [], ""
    for index, piece in enumerate(pieces, start=prompt_tokens + 1):
        step += piece
        done = step[: step.rfind(separator) + len(separator)] if separator and separator in step else ""
        # Looking into `step` as a whole finds separators that lie across tokens; it restarts at every step, so stays short.
        if done and _has_content(done, separator):
            ends.append(index)
            step = ""
        elif done and ends:
            ends[-1], step = index, ""
    if pieces and (_has_content(step, separator) or not ends):
        ends.append(len(token_ids))
    elif ends:
        ends[-1] = len(token_ids)
    return ends


def _has_content(text: str, separator: str) -> bool:
    return bool((text.replace(separator, "") if separator else text).replace(SPECIAL, "").strip())


def _pieces(tokenizer: Any, token_ids: Sequence[int]) -> Iterator[str]:
    """The text that each token adds; a character of several tokens comes with its last one.

    Decoding token by token would lose blanks and characters that span tokens, so each is decoded behind the one before.
    """
    special = _special_ids(tokenizer)
    context: list[int] = []
    pending: list[int] = []
    for token in token_ids:
        if token in special:
            context, pending = [], []
            yield SPECIAL
            continue
        pending.append(token)
        before = tokenizer.decode(context, clean_up_tokenization_spaces=False)
        text = tokenizer.decode([*context, *pending], clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd"):
            yield ""
            continue
        yield text[len(before) :]
        context, pending = pending, []


def _special_ids(tokenizer: Any) -> set[int]:
    added = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    return added | set(tokenizer.all_special_ids)


def _locate(tokenizer: Any, system: str | None, user: str) -> tuple[str, int, int]:
    """The rendered chat and the span of the user's text in it, found by what stands around a stand-in."""
    before = [{"role": "system", "content": system}] if system is not None else []
    text, model = (_render_turns(tokenizer, [*before, {"role": "user", "content": turn}], True) for turn in (user, STAND_IN))
    prefix, found, suffix = model.rpartition(STAND_IN)
    if (
        not found
        or not text.startswith(prefix)
        or not text.endswith(suffix)
        or text[len(prefix) : len(text) - len(suffix)].strip() != user.strip()
    ):
        raise ConfigError(
            "The chat template of the policy must show the user's text unchanged; "
            f"got {text!r} for {user!r}. Use another chat template or remove it for plain prompts."
        )
    return text, len(prefix), len(text) - len(suffix)


def _render_turns(tokenizer: Any, turns: list[dict[str, str]], open_turn: bool) -> str:
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_turn)
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise ConfigError(
            f"The policy's chat template must accept the turns {roles}; got its refusal: {error}. "
            "Set prompts.system: null and put its text into prompts.user."
        ) from None
