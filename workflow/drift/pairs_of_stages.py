"""Two stages read side by side: sums of their paired rows, one group of prompts after the other."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_core.metrics.change import ChangeSums, change_sums
from sae_core.metrics.representation import CrossMoments, Moments, cross_moments, moments
from workflow.drift.streaming import CENTRE_ROWS
from workflow.formats.activations import Store
from workflow.formats.masks import StageRows
from workflow.jackknife import Groups


def centre_of(store: Store, rows: StageRows) -> Tensor:
    """The mean of the first kept rows of a store, float64 [d_model]."""
    for batch, where in store.sequential(CENTRE_ROWS):
        if (keep := rows.keep[where]).any():
            return batch[torch.from_numpy(keep)].double().mean(0)
    raise AssertionError("rows were checked to leave some")


class PairSums(NamedTuple):
    """Sums over paired rows of two stages; `a + b` merges, `a - b` takes a part out again."""

    before: Moments
    after: Moments
    cross: CrossMoments

    def __add__(self, other: "PairSums") -> "PairSums":  # type: ignore[override]  # sums add up
        """Sums of both."""
        return PairSums(self.before + other.before, self.after + other.after, self.cross + other.cross)

    def __sub__(self, other: "PairSums") -> "PairSums":
        """Sums without those of a part."""
        return PairSums(self.before - other.before, self.after - other.after, self.cross - other.cross)


class TwoStages:
    """Paired rows of two stages; the memory it takes depends on width, prompts and `batch_rows`, not on the rows."""

    def __init__(self, before: Store, after: Store, rows: StageRows, centre: Tensor, batch_rows: int, device: torch.device) -> None:
        """Read nothing yet.

        Args:
            rows: prompt and mask, the same for both.
            centre: c of all sums, near the mean of the rows of both.
        """
        self._before, self._after, self._rows = before, after, rows
        self._centre, self._batch_rows, self._device = centre.to(device), batch_rows, device

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        """Rows that count, of both stages, and their prompts."""
        sides = (store.sequential(self._batch_rows) for store in (self._before, self._after))
        for (x, where), (y, _) in zip(*sides, strict=True):
            keep = self._rows.keep[where]
            if keep.any():
                chosen = torch.from_numpy(keep)
                yield x[chosen].to(self._device), y[chosen].to(self._device), self._rows.prompt[where][keep]

    def by_group(self, groups: Groups) -> Iterator[PairSums]:
        """The sums of each group of prompts, in order."""
        current, held = 0, None
        for x, y, prompt in self._batches():
            group = groups.of_prompt[prompt]
            for number in np.unique(group):
                chosen = torch.from_numpy(group == number)
                a, b = x[chosen], y[chosen]
                sums = PairSums(moments(a, self._centre), moments(b, self._centre), cross_moments(a, b, self._centre, self._centre))
                if held is not None and number == current:
                    held += sums
                    continue
                if held is not None:
                    yield held
                current, held = int(number), sums
        assert held is not None, "rows were checked to leave some"
        yield held

    def change(self, n_prompts: int, spans: Sequence[Tensor]) -> ChangeSums:
        """Sums of the change of every prompt."""
        found = ChangeSums.zeros(n_prompts, len(self._centre), len(spans), self._device)
        for x, y, prompt in self._batches():
            found = found + change_sums(x, y, torch.from_numpy(prompt).to(self._device), n_prompts, spans)
        return found
