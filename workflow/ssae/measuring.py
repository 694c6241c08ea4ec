"""How well a step-level SAE rebuilds held-out steps of every stage: `measure_step_sae(…)` leaves sums by problem."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sae_core.metrics.step_reconstruction import step_sums
from sae_core.models.step_sae import StepSAE
from workflow.batching import batches
from workflow.config.section import ConfigError
from workflow.formats.manifest import read_manifest
from workflow.formats.step_sums import write_step_sums
from workflow.formats.steps import ARTEFACT, FILE, StepStore
from workflow.progress import Progress

BATCH_TOKENS = 4096
"""Tokens of one forward pass, padding included."""


class Steps(NamedTuple):
    """Steps to be measured."""

    run: str
    """Run of the policy that wrote them; `shared` for base and for a text that all stages share."""
    text: str
    """Text set."""
    stage: str
    """Stage whose policy wrote them; `base` for a text that all stages share."""
    folder: Path
    """Of steps.h5 and its manifest."""


def measure_step_sae(
    *, model: StepSAE, every: Sequence[Steps], sums: Path | str, manifest: Path | str, facts: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the sums of every store of steps.

    Args:
        model: in eval mode, on its device.
        every: what is read.
        facts: of the manifest, see `formats/step_sums.py`.

    Raises:
        ConfigError: a store without held-out steps.
    """
    records, named = [], []
    for steps in sorted(every):
        place = {"run": steps.run, "text": steps.text, "stage": steps.stage}
        with StepStore(steps.folder / FILE) as store:
            samples = held_out_steps(store)
            if not len(samples):
                raise ConfigError(f"{steps.folder / FILE} must hold steps of the split test; it holds none. Sample traces of it.")
            records += [place | row for row in _by_problem(model, store, samples)]
        named.append(place | {"digest": read_manifest(steps.folder / "manifest.json", ARTEFACT)["digest"]})
    write_step_sums(sums, manifest, records, **facts, steps=named, d_code=model.d_code)


def held_out_steps(store: StepStore) -> np.ndarray:
    """Samples of the problems of the split `test`, on which no SSAE is trained or selected, rising."""
    return np.flatnonzero(store.of_sample("split") == b"test")


def _by_problem(model: StepSAE, store: StepStore, samples: np.ndarray) -> Iterator[dict[str, Any]]:
    """One record per problem, in the order of their names."""
    values = np.zeros((len(samples), 4))
    place = model.autoencoder.latent_bias.device
    lengths = store.lengths()[samples].tolist()
    with Progress(len(samples), "measure", "steps") as progress:
        for picked in batches(range(len(samples)), lengths, BATCH_TOKENS):
            found, _ = step_sums(model, store.batch(samples[picked]).to(place))
            values[picked] = torch.stack([column.double().cpu() for column in found], dim=1).numpy()
            progress.advance(len(picked))
    names, which = np.unique(store.of_sample("problem")[samples], return_inverse=True)
    nll, tokens, l1, active = (np.bincount(which, weights=column, minlength=len(names)) for column in values.T)
    for at, name in enumerate(names.tolist()):
        yield {
            "problem": name.decode(), "steps": int((which == at).sum()), "tokens": int(tokens[at]), "nll": float(nll[at]),
            "l1": float(l1[at]), "active": float(active[at]),
        }  # fmt: skip
