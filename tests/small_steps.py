"""Tokenizers with and without a BOS, and small files of solutions, for tests of step data."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tiny_models import tiny_tokenizer
from tokenizers.processors import TemplateProcessing

BOS = "<|im_start|>"

IRREGULAR = {
    "gsm8k_aug": [
        {"question": "What is 1 + 2?", "answer": "1 + 2 = 3\n#### 3"},
        {"question": "Sum of 4, 5 and 6?", "answer": "4 + 5 = 9\n\n9 + 6 = 15\n#### 15"},
        {"question": " Blank  lines? ", "answer": "one\n\n\n  \ntwo\nthree\n"},
        {"question": "One line?", "answer": "First 1. Then 2. So 3."},
        {"question": "Nothing?", "answer": "yes"},
        {"question": "Long " + "12 + 34 = 46, " * 60, "answer": "a" * 5 + "\n" + "9 8 7 " * 120 + "\n#### 1\n#### 2"},
        {"question": "Ünïcode ∑?", "answer": "α + β\nγ 😀\n#### δ"},
    ],
    "opencodeinstruct": [
        {"input": "Add two numbers.", "output": "def add(a, b):\n\n    return a + b\n"},
        {"input": "Tabs", "output": "\tx = 1\r\n\r\n  y = 2"},
        {"input": "One line", "output": "print(1)"},
        {"input": "Long " + "1 2 3 " * 100, "output": "\n".join(f"x{n} = {n} + {n}" for n in range(40)) + "\n" + "y = 1 + " * 90},
    ],
}
"""Solutions with everything that a splitter stumbles over, in the fields of their formats; each has a step."""


def save_tokenizer(folder: Path, *, bos: bool = False, **changes: Any) -> Path:
    """The tiny tokenizer in a folder; with `bos` it begins every text with one, as Llama's does."""
    tokenizer = tiny_tokenizer()
    if bos:
        template = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.convert_tokens_to_ids(BOS))])
        tokenizer.backend_tokenizer.post_processor = template
        tokenizer.bos_token = BOS
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)
    return folder


def write_lines(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    """JSON Lines of these rows; a text is a line as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
