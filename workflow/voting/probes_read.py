"""Probes whose scores weigh votes, one after the other."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from workflow.config.section import ConfigError
from workflow.formats.probe_scores import PROBE, family, probe_tables
from workflow.frames import Table

NOTHING = "none"
"""Features of the probe that knows only how many labels are true: its votes are majority's."""


class Probe(NamedTuple):
    """What names a probe."""

    task: str
    layer: int | None
    features: str
    model: str

    @property
    def family(self) -> str:
        """What its features are; SAEs by where they stand: `sae`, `base_sae`, `ssae`."""
        found = family(self.features)
        return self.features.partition(".")[0] if found == "sae" else found

    def said(self) -> str:
        """For messages."""
        return f"the probe of {self.task} on {self.features}, layer {self.layer}, model {self.model}"


def probes(scores: Path | str, tasks: Sequence[str], features: Sequence[str] | None) -> Iterator[tuple[Probe, Table]]:
    """The probes of these tasks and feature sets (None: all there are) with their rows, in the order of the file.

    Raises:
        ConfigError: the rows of a probe do not stand together.
    """
    seen: set[Probe] = set()
    current, held = None, []
    for probe, rows in _pieces(scores, tasks, features):
        if probe != current:
            if current is not None:
                yield current, pd.concat(held, ignore_index=True)
            if probe in seen:
                raise ConfigError(
                    f"The rows of a probe must stand together in {scores}; {probe.said()} comes twice. Sort the rows by probe."
                )
            current, held = probe, []
            seen.add(probe)
        held.append(rows)
    if current is not None:
        yield current, pd.concat(held, ignore_index=True)


def _pieces(scores: Path | str, tasks: Sequence[str], features: Sequence[str] | None) -> Iterator[tuple[Probe, Table]]:
    for table in probe_tables(scores):
        frame: Any = table.to_pandas()
        for key, rows in frame.groupby(list(PROBE), sort=False, dropna=False):
            task, layer, name, model = key
            if task in tasks and name != NOTHING and (features is None or name in features):
                yield Probe(task, None if pd.isna(layer) else int(layer), name, model), rows
