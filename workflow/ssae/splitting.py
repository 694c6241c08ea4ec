"""Solutions cut into reasoning steps: by lines (`line_steps`), by lines of code (`code_steps`), by sentences (`sentence_steps`).

What the rules give is part of what a published step-level SAE was trained on, so they cut exactly as its data did; a step may
come out blank, and then it is left out while it stays in the context of those behind it.
Source: the step data of Miaow-Lab/SSAE (arXiv 2603.03031) for GSM8K-Aug, OpenCodeInstruct and NuminaMath-CoT.
"""

import re
from collections.abc import Iterator

CONNECTORS = ("therefore", "thus", "also", "moreover", "since", "hence", "then", "so", "consequently")
"""Words that begin a sentence when they begin a line, and are no step by themselves."""

_DISPLAYED = re.compile(r"(\$\$.*?\$\$|\\\[.*?\\\])", re.DOTALL)
_OPENING = re.compile(rf"\d+\.\s+\*\*|[-*]\s+|(?:{'|'.join(CONNECTORS)})\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?P<mark>[.?!])(?P<blank>\s+)(?=[A-Z])")
_BARE_NUMBER = re.compile(r"(?:^|\s)\d+$")


def line_steps(answer: str) -> list[str]:
    """A step per line, the last two lines together: the last one holds the final answer alone.

    A blank line between two others disappears. An answer of one line is cut at ". " instead, which is not kept.
    """
    lines = answer.replace("\n\n", "\n").split("\n")
    return lines[0].split(". ") if len(lines) == 1 else [*lines[:-2], "\n".join(lines[-2:])]


def code_steps(code: str) -> list[str]:
    """A step per line that is not blank, its indentation kept."""
    return [line for line in code.split("\n") if line.strip()]


def sentence_steps(text: str, *, glued: bool = False) -> list[str]:
    """A step per sentence; displayed formulas (`$$…$$`, `\\[…\\]`), headings, bullets and leading connectors begin one.

    A sentence ends at . ? or ! before white space and a capital, unless a bare number stands before the mark ("2. Let"). What
    follows a colon or a connector that stands alone joins it. White space inside a step becomes one blank.

    Args:
        glued: lines of a sentence, and sentences that are not cut behind a number, meet without a blank, as in the published data.
    """
    steps: list[str] = []
    for passage in _passages(text, "" if glued else " "):
        for sentence in _sentences(passage, glued):
            if steps and _is_open(steps[-1]):
                steps[-1] += f" {sentence}"
            else:
                steps.append(sentence)
    return [" ".join(step.split()) for step in steps]


def _passages(text: str, joint: str) -> Iterator[str]:
    """Displayed formulas, and between them runs of lines up to one that opens a sentence."""
    for index, part in enumerate(_DISPLAYED.split(text)):
        if index % 2:
            yield part
            continue
        held = ""
        for line in filter(None, map(str.strip, part.split("\n"))):
            if held.endswith(":"):
                held += f" {line}"
            elif held and _OPENING.match(line):
                yield held
                held = line
            else:
                held += (joint if held else "") + line
        if held:
            yield held


def _sentences(passage: str, glued: bool) -> Iterator[str]:
    held, begin = "", 0
    for end in _SENTENCE_END.finditer(passage):
        held += passage[begin : end.start()]
        begin = end.end()
        if _BARE_NUMBER.search(held.strip()):
            held += end["mark"] if glued else end.group()
        else:
            yield held + end["mark"]
            held = ""
    yield held + passage[begin:]


def _is_open(step: str) -> bool:
    step = step.strip()
    return step.endswith(":") or step.rstrip(".,").lower() in CONNECTORS
