"""What is put in the place of rows of the residual stream."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sae_core.models.sae import SAE
from workflow.formats.activations import Store
from workflow.interventions.measuring import Replace

ROWS = 4096
"""Rows that are encoded or summed together."""


def reconstruction(sae: SAE) -> Replace:
    """S(x)."""
    return lambda rows: torch.cat([sae(part) for part in rows.split(ROWS)])


def reconstruction_with_error(sae: SAE) -> Replace:
    """S(x) + (x − S(x)): nothing but rounding may come of it."""

    def same(rows: Tensor) -> Tensor:
        found = reconstruction(sae)(rows)
        return found + (rows - found)

    return same


def constant(row: Tensor) -> Replace:
    """One row in the place of every row."""
    return lambda rows: row.to(rows).expand_as(rows)


def mean_row(store: Store) -> Tensor:
    """The mean of a store's rows, float64 [d_model]."""
    total = torch.zeros(store.d_model, dtype=torch.float64)
    for batch, _ in store.sequential(ROWS):
        total += batch.double().sum(0)
    return total / len(store)


def ablations(names: list[str], store: Store, device: torch.device) -> Mapping[str, Replace]:
    """Replacements that leave nothing of a row: the mean of all kept rows, or zero."""
    mean = mean_row(store) if "mean" in names else torch.zeros(store.d_model)
    rows = {"mean": mean, "zero": torch.zeros(store.d_model)}
    return {name: constant(rows[name].float().to(device)) for name in names}
