"""Steps of a store that are read together, their codes, and the steps on which a latent is strongest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_array, vstack

from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE
from workflow.formats.steps import StepStore
from workflow.n2g.windows import Window
from workflow.progress import Progress
from workflow.step_encoding import EncodingSettings, encoded_blocks

BATCH_TOKENS = 4096
"""Tokens of one pass, padding included."""


@dataclass(frozen=True)
class Part:
    """Some steps of a store."""

    store: StepStore
    steps: np.ndarray
    """Their numbers, rising."""

    def __len__(self) -> int:
        return len(self.steps)

    def lengths(self) -> np.ndarray:
        """Tokens of every sequence."""
        return self.store.lengths()[self.steps]

    def batch(self, picked: Sequence[int], /) -> StepBatch:
        """Some of the sequences, by their place here."""
        return self.store.batch(self.steps[np.asarray(picked)])

    def sequence(self, step: int) -> Window:
        """Ids of one, by its place here."""
        found = self.batch([step])
        return tuple(found.ids[0, : int(found.length[0])].tolist())

    def starts(self) -> np.ndarray:
        """Place of the first token of each step in its sequence."""
        return len(self.store.prefix) + self.store.context_length[self.steps] + 1

    def problems(self) -> np.ndarray:
        """Problem of each."""
        return self.store.of_step("problem")[self.steps]


def codes_of(model: StepSAE, part: Part) -> csc_array:
    """Codes of steps, [step, d_code]."""
    with Progress(len(part), "n2g", "steps") as progress:
        blocks = encoded_blocks(model=model, steps=part, settings=EncodingSettings(BATCH_TOKENS), progress=progress.advance)
        return csc_array(vstack(list(blocks), format="csc"))


def ranked(codes: np.ndarray, above: float) -> list[tuple[int, float]]:
    """(step, activation) of one latent, the largest first, those above a threshold."""
    order = np.argsort(-codes, kind="stable")
    return [(int(step), float(codes[step])) for step in order[codes[order] > above]]
