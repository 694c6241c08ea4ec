"""What is known of tokens without running the policy: their texts, the classes they belong to, and which ones are alike."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

NUMBER, OPERATOR, ANY = "NUM", "OP", "ANY"
CLASSES = {NUMBER: re.compile(r"\s*[.,]?\d[\d.,]*\s*"), OPERATOR: re.compile(r"\s*(?:[-+*/=<>%^−×÷·]|\*\*|<=|>=|==)\s*")}
"""Token classes by name: digits and numbers; operators and relations."""
SIMILAR_ROWS = 4096
"""Rows of the embedding that are compared at a time."""


class Vocabulary:
    """Texts and classes of all tokens of a policy."""

    def __init__(self, texts: Sequence[str]) -> None:
        """`texts`: of every token id."""
        self.texts = list(texts)
        self.members = {name: np.array([bool(form.fullmatch(text)) for text in texts]) for name, form in CLASSES.items()}
        """Bool [token] by class."""
        self.members[ANY] = np.ones(len(self.texts), dtype=bool)

    def class_of(self, token: int) -> str | None:
        """The class that a token belongs to; None of most."""
        return next((name for name in CLASSES if self.members[name][token]), None)


def vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """The vocabulary of a policy whose embedding has `size` rows; rows that no token has are empty texts."""
    backend: Any = tokenizer
    texts = [backend.decode([token], clean_up_tokenization_spaces=False) for token in range(min(size, len(backend)))]
    return Vocabulary([*texts, *[""] * (size - len(texts))])


@torch.inference_mode()
def nearest(model: PreTrainedModel, tokens: np.ndarray, among: np.ndarray, count: int) -> dict[int, list[int]]:
    """For each token its `count` nearest ones by the cosine of input embeddings.

    Args:
        model: the policy.
        tokens: whose neighbours, each once.
        among: tokens that may be neighbours, such as those that occur in the text.
        count: at most.
    """
    module: Any = model.get_input_embeddings()
    directions: Tensor = torch.nn.functional.normalize(module.weight.detach().float(), dim=1).cpu()
    pool, found = torch.from_numpy(np.asarray(among)), {}
    for part in torch.from_numpy(np.asarray(tokens)).split(SIMILAR_ROWS):
        cosines = directions[part] @ directions[pool].T
        cosines[part[:, None] == pool[None]] = -2.0
        for token, order in zip(part.tolist(), cosines.sort(dim=1, descending=True, stable=True).indices, strict=True):
            best = pool[order[: min(count, len(pool) - 1)]]
            found[token] = best.tolist()
    return found
