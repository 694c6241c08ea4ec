"""Contexts and steps as token ids: the tokenizer of a base model with `<sep>` between them, and one BOS by rule.

A sequence is `context, <sep>, step, end`. Where the tokenizer begins every text with a BOS, the context begins with one and the
step with none; with `double_bos` both are tokenised as texts of their own, as the published step-level SAEs read them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from workflow.config.section import ConfigError
from workflow.prompts import end_of_turn

SEPARATOR = "<sep>"
"""Between context and step; the only token added to the base model's vocabulary, behind its last."""


class StepTokenizer:
    """Texts → ids, without truncation and padding."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, double_bos: bool = False) -> None:
        """See `step_tokenizer`."""
        self.tokenizer: Any = tokenizer
        self.separator: int = self.tokenizer.sep_token_id
        self.end: int = self.tokenizer.eos_token_id
        """Ends every sequence; it also pads, since lengths and never ids say what is padding."""
        self.vocab = len(tokenizer)
        """Rows of the embeddings of an SSAE around this tokenizer."""
        self.specials = double_bos
        """Whether every text gets the special tokens that the tokenizer adds to texts."""
        self.ends = tuple(sorted({self.end, end_of_turn(tokenizer)}))
        """What a policy may end its response with."""
        begins = self.tokenizer("a").input_ids[:1]
        has_bos = self.tokenizer.bos_token_id is not None and begins == [self.tokenizer.bos_token_id]
        self.prefix: tuple[int, ...] = tuple(begins) if has_bos and not double_bos else ()
        """What every sequence begins with, whatever of its context is kept."""
        self._backend = self.tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()

    def __len__(self) -> int:
        return self.vocab

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text; without special tokens, but those of `double_bos`."""
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=self.specials)
        return [np.array(one.ids, dtype=np.int32) for one in encoded]


def step_tokenizer(folder: Path | str, *, double_bos: bool = False) -> StepTokenizer:
    """The tokenizer in a model's folder with `<sep>` as its separator. Padding and end may be one token.

    Raises:
        ConfigError: it has no end token, does not come as tokenizer.json, or knows `<sep>` as something else.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"The tokenizer in {folder} must have an end token; it has none. Set eos_token in its tokenizer_config.json."
        )
    if not tokenizer.is_fast:
        raise ConfigError(
            f"The tokenizer in {folder} must be one that tokenizer.json describes (called fast); got {type(tokenizer).__name__}. "
            "Save the model with a fast tokenizer."
        )
    if SEPARATOR in tokenizer.get_vocab() and tokenizer.sep_token != SEPARATOR:
        raise ConfigError(
            f"{SEPARATOR} must be new to the tokenizer in {folder}, or its separator; there it is token "
            f"{tokenizer.convert_tokens_to_ids(SEPARATOR)} and the separator {tokenizer.sep_token!r}. Choose another base "
            f"model, or set sep_token to {SEPARATOR} in its tokenizer_config.json if it stands between context and step."
        )
    tokenizer.add_special_tokens({"sep_token": SEPARATOR})
    if tokenizer.sep_token_id != len(tokenizer) - 1:
        raise ConfigError(
            f"{SEPARATOR} must be the last token of the vocabulary; in {folder} it is {tokenizer.sep_token_id} of "
            f"{len(tokenizer)}. The vocabulary has holes, or tokens were added behind it: take the base model's own tokenizer."
        )
    return StepTokenizer(tokenizer, double_bos=double_bos)


def check_rows(tokenizer: StepTokenizer, rows: int, where: str, *, exactly: bool = False) -> None:
    """Refuse embeddings that do not fit the tokenizer.

    Args:
        rows: of the embedding; a base model may have more than its tokenizer needs, an SSAE may not.
        where: whose they are, for the error.
        exactly: they belong to an SSAE, `<sep>` included.

    Raises:
        ConfigError: there are too few, or with `exactly` not as many as entries.
    """
    if exactly and rows != tokenizer.vocab:
        raise ConfigError(
            f"The SSAE {where} must have an embedding row for each of the {tokenizer.vocab} tokens, {SEPARATOR} included; it has "
            f"{rows}. Give the base model that it was trained around."
        )
    if rows < tokenizer.vocab - 1:
        raise ConfigError(
            f"The base model {where} must have an embedding row for each of its tokenizer's {tokenizer.vocab - 1} tokens; it has "
            f"{rows}. Model and tokenizer do not belong together: download both again."
        )
