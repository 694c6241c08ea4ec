"""How probable and how open the policy found the tokens of a step."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from workflow.probes.pooling import Tokens
from workflow.tail import Tail

PREDICTED_NUMBERS = 1 << 24
"""Log-probabilities held at a time."""


class Logprobs(NamedTuple):
    """The columns of the feature set `logprob`, in nats; all over the tokens of the step, each given what stands before it."""

    mean: float
    """Of the log-probabilities of its tokens."""
    last: float
    """That of its last token."""
    least: float
    mean_entropy: float
    """Of the distributions that its tokens were drawn from."""
    last_entropy: float
    largest_entropy: float


def logprobs(tail: Tail, states: Tensor, ids: Tensor, vocab: int) -> np.ndarray:
    """Log-probability and entropy, [token, 2] float64, of tokens.

    Args:
        tail: of the policy.
        states: [token, d_model], last hidden states in front of each.
        ids: [token].
        vocab: rows of the embedding.
    """
    size = max(1, PREDICTED_NUMBERS // vocab)
    found = []
    for first in range(0, len(ids), size):
        log_p = tail.logprobs(states[first : first + size])
        own = log_p.gather(1, ids[first : first + size, None])[:, 0]
        entropy = torch.special.entr(log_p.exp()).sum(1)
        found.append(torch.stack([own, entropy], 1).double().cpu())
    return torch.cat(found).numpy() if found else np.empty((0, 2))


def of_steps(values: np.ndarray, tokens: Tokens) -> np.ndarray:
    """The columns of Logprobs for every step that has tokens, [step, column] float32.

    Args:
        values: of `logprobs`, in the order of `tokens`.
        tokens: which step each is of, steps rising.
    """
    first = np.flatnonzero(np.diff(tokens.steps, prepend=-1))
    counts = np.diff(first, append=len(values))
    own, entropy = values.T
    columns = {
        "mean": np.add.reduceat(own, first) / counts,
        "last": own[tokens.last],
        "least": np.minimum.reduceat(own, first),
        "mean_entropy": np.add.reduceat(entropy, first) / counts,
        "last_entropy": entropy[tokens.last],
        "largest_entropy": np.maximum.reduceat(entropy, first),
    }
    return np.stack([columns[name] for name in Logprobs._fields], 1).astype(np.float32)
