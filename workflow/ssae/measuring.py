"""What a step-level SAE makes of held-out steps of every stage: `measure_step_sae(…)` leaves sums by problem."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its customary name

from sae_core.kernels.codes import Codes
from sae_core.metrics.firing import FiringCounter, FiringSums
from sae_core.metrics.step_reconstruction import step_nll, step_sums
from sae_core.models.step_sae import NORM_EPS, StepSAE
from workflow.batching import batches
from workflow.config.section import ConfigError
from workflow.formats.manifest import read_manifest
from workflow.formats.step_sums import Written, write_step_sums
from workflow.formats.steps import ARTEFACT, FILE, StepStore
from workflow.progress import Progress

BATCH_TOKENS = 4096
"""Tokens of one forward pass, padding included."""
SUMMED = ("nll", "tokens", "l1", "active", "nll_mean_code")
"""What is known of each step: the fields of `StepSums`, and the loss with the mean code."""


class Measured(NamedTuple):
    """One SSAE on the held-out steps of one store, by problem."""

    records: list[dict[str, Any]]
    """One per problem with steps, in the order of their names."""
    firings: FiringSums
    """Of its latents, rows being steps."""


def measure_step_sae(
    *, model: StepSAE, every: Mapping[Written, Path], sums: Path | str, firings: Path | str, manifest: Path | str,
    facts: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the sums of every store of steps.

    Args:
        model: in eval mode, on its device.
        every: what is read, and its folder of steps.h5 and manifest.
        sums: sums.parquet.
        firings: firings.safetensors.
        manifest: the manifest beside them.
        facts: of the manifest, see `formats/step_sums.py`.

    Raises:
        ConfigError: a store without held-out steps.
    """
    problems = np.unique(np.concatenate([_held_out_problems(folder / FILE) for folder in every.values()]))
    records, found, named = [], {}, []
    for written in sorted(every):
        place = written._asdict()
        with StepStore(every[written] / FILE) as store:
            measured = _measured(model, store, problems)
        records += [place | row for row in measured.records]
        found[written] = measured.firings
        named.append(place | {"digest": read_manifest(every[written] / "manifest.json", ARTEFACT)["digest"]})
    names = [name.decode() for name in problems.tolist()]
    write_step_sums(sums, firings, manifest, records, found, **facts, steps=named, problems=names, d_code=model.d_code)


def held_out_steps(store: StepStore) -> np.ndarray:
    """Those of the problems of the split `test`, on which no SSAE is trained or selected, as rising indices."""
    return np.flatnonzero(store.of_step("split") == b"test")


def _held_out_problems(path: Path) -> np.ndarray:
    with StepStore(path) as store:
        picked = held_out_steps(store)
        if not len(picked):
            raise ConfigError(f"{path} must hold steps of the split test; it holds none. Sample traces of it.")
        return np.unique(store.of_step("problem")[picked])


def _measured(model: StepSAE, store: StepStore, problems: np.ndarray) -> Measured:
    """Sums over the steps of each problem; `problems` are all that count anywhere, rising."""
    held_out = held_out_steps(store)
    which = np.searchsorted(problems, store.of_step("problem")[held_out])
    values, counter = np.zeros((len(held_out), len(SUMMED))), FiringCounter(len(problems), model.d_code)
    place = model.autoencoder.latent_bias.device
    parts = [np.asarray(part) for part in batches(range(len(held_out)), store.lengths()[held_out].tolist(), BATCH_TOKENS)]
    total = torch.zeros(model.d_code, dtype=torch.float64, device=place)
    with Progress(2 * len(held_out), "measure", "steps") as progress:
        for part in parts:
            found, code = step_sums(model, store.batch(held_out[part]).to(place))
            values[part, :-1] = torch.stack([column.double().cpu() for column in found], dim=1).numpy()
            counter.add(_sparse(code.cpu()), torch.from_numpy(which[part]))
            total += code.double().sum(0)
            progress.advance(len(part))
        mean = F.normalize(total, dim=0, eps=NORM_EPS).to(model.autoencoder.latent_bias.dtype)
        for part in parts:
            batch = store.batch(held_out[part]).to(place)
            values[part, -1] = step_nll(model, batch, mean.expand(len(part), -1)).cpu().numpy()
            progress.advance(len(part))
    return Measured(_by_problem(values, which, problems), counter.sums())


def _by_problem(values: np.ndarray, which: np.ndarray, problems: np.ndarray) -> list[dict[str, Any]]:
    """Sums of the columns SUMMED over the steps of each problem that has some."""
    steps = np.bincount(which, minlength=len(problems))
    sums = {
        name: np.bincount(which, weights=column, minlength=len(problems)) for name, column in zip(SUMMED, values.T, strict=True)
    }
    return [
        {
            "problem": problems[at].decode(),
            "steps": int(steps[at]),
            **{name: float(column[at]) for name, column in sums.items()},
            "tokens": int(sums["tokens"][at]),
        }
        for at in np.flatnonzero(steps)
    ]


def _sparse(code: Tensor) -> Codes:
    """The latents above 0 of dense codes [step, d_code]."""
    active = code > 0
    offsets = torch.zeros(len(code) + 1, dtype=torch.int64)
    torch.cumsum(active.sum(1), 0, out=offsets[1:])
    return Codes(offsets, active.nonzero()[:, 1], code[active])
