"""What mining and scoring read, checked before the language model is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter, Store
from workflow.formats.masks import SPLIT
from workflow.formats.saes import StoredSae, read_sae
from workflow.n2g.encoding import Text, text_of


class Rows(NamedTuple):
    """A store with its tokens, all rows of it."""

    store: Store
    text: Text

    def sampled(self, most: int) -> int:
        """How many of its first rows are at most so many and end with a text."""
        if len(self.text.pos) <= most:
            return len(self.text.pos)
        begins = np.flatnonzero(self.text.pos[: most + 1] == 0)
        return int(begins[-1]) or len(self.text.pos)


def open_rows(shards: Sequence[Path | str], keep: RowFilter, splits: Sequence[str] | None = None) -> Rows:
    """All rows of some shards, sinks included; the row filter's verdict stands in `text.kept`.

    Raises:
        ConfigError: the shards do not belong together, or a text lacks rows.
    """
    store = Store(shards, keep=None, splits=splits)
    text = text_of(store, keep)
    if (np.diff(text.pos) > 1).any() or text.pos[0] != 0:
        raise ConfigError(f"Texts of a store must have a row for each token; {shards[0]} does not. Extract it again.")
    return Rows(store, text)


def open_held_out(shards: Sequence[Path | str], keep: RowFilter) -> tuple[Rows, np.ndarray, list[str]]:
    """Rows of the split `test`, the index of each row's problem, and the problems, sorted.

    Raises:
        ConfigError: as `open_rows`, or fewer than two problems.
    """
    rows = open_rows(shards, keep, [SPLIT])
    named = rows.store.rows["problem"].cat
    problems = sorted(named.categories)
    if len(problems) < 2:
        raise ConfigError(
            f"Patterns must be scored on at least 2 problems, their spread is the uncertainty; {shards[0]} has {len(problems)} of "
            f"the split {SPLIT}. Raise problems.size or problems.splits.test."
        )
    index = {problem: place for place, problem in enumerate(problems)}
    place = np.array([index[problem] for problem in named.categories])
    return rows, place[named.codes.to_numpy()], problems


def open_sae(manifest: Path | str, store: Store) -> StoredSae:
    """The SAE of a manifest.

    Raises:
        ConfigError: it is one of other rows.
    """
    found = read_sae(manifest)
    for field, wanted in (("d_model", store.d_model), ("hook_point", store.hook_point)):
        if found.facts[field] != wanted:
            raise ConfigError(
                f"An SAE must have {field} = {wanted} to be explained on these rows; {manifest} has {found.facts[field]}. "
                "Train it on rows of this layer."
            )
    return found
