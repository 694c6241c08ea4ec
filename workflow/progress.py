"""Progress of long work: a bar for people at a terminal, a line every 30 s in the log."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)
Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Counts finished units; also usable as the callback that `sae_core` takes."""

    def __init__(self, total: int, what: str, unit: str, done: int = 0) -> None:
        """`done` units were finished before, for example by a job that was killed."""
        self._bar = tqdm(total=total, initial=done, desc=what, unit=f" {unit}", disable=None, dynamic_ncols=True)
        self._what, self._unit, self._total = what, unit, total
        self._done, self._first = done, done
        self._started = self._said = time.monotonic()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count units; `note` is shown behind them."""
        self._done += units
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(units)
        now = time.monotonic()
        if now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            self._say(now, note)

    def _say(self, now: float, note: str) -> None:
        rate = (self._done - self._first) / max(now - self._started, 1e-9)
        left = (self._total - self._done) / rate if rate else float("inf")
        log.info(
            "%s: %d of %d %s, %.3g per s, %.0f s left%s", self._what, self._done, self._total, self._unit, rate, left,
            f", {note}" if note else "",
        )  # fmt: skip

    def close(self) -> None:
        """End the bar and log the total."""
        self._bar.close()
        seconds = time.monotonic() - self._started
        log.info("%s: %d %s in %.1f s", self._what, self._done, self._unit, seconds)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tracked(items: Iterable[Item], total: int, what: str, unit: str, size: Callable[[Item], int] = lambda _: 1) -> Iterator[Item]:
    """The items, counted after each is used."""
    with Progress(total, what, unit) as progress:
        for item in items:
            yield item
            progress.advance(size(item))
