"""SAEs whose latents are mined, and the mining itself, group by group: a killed job goes on after the last finished group."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from sae_core.models.build import initial
from sae_core.models.sae import SAE
from workflow.config.n2g import N2gConfig
from workflow.formats.files import write_json
from workflow.formats.n2g import TRAINED, UNTRAINED
from workflow.n2g import latents as choice
from workflow.n2g.encoding import ROWS, Firings, firings_of
from workflow.n2g.inputs import Rows
from workflow.n2g.latents import Chosen
from workflow.n2g.mining import CANDIDATES, Mine, mine_latents
from workflow.n2g.suggesting import Likeliest, Neighbours, Suggest
from workflow.n2g.windows import WindowReader, mean_embedding
from workflow.progress import Progress


class Unit(NamedTuple):
    """An SAE whose latents are mined."""

    name: str
    """`trained` or `untrained`."""
    sae: SAE
    latents: list[Chosen]
    firings: list[Firings]


def units_of(
    sae: SAE, rows: Rows, sampled: int, changes: Path | str | None, stage: str, device: torch.device, settings: N2gConfig
) -> list[Unit]:
    """The trained SAE with its latents, and one of random weights with some that fire."""
    d_sae = sae.config.d_sae
    most: dict[str, int] = {"sample_rows": sampled, "candidates": CANDIDATES * settings.top}
    chosen = choice.choose_latents(changes or "", settings.latents, stage=stage, d_sae=d_sae, seed=settings.seed)
    sae.to(device)
    units = [Unit(TRAINED, sae, chosen, firings_of(rows.store, rows.text, sae, [one.latent for one in chosen], **most))]
    if settings.untrained:
        first = next(rows.store.sequential(ROWS))[0]
        fresh = initial(sae.config, first[torch.from_numpy(rows.text.kept[: len(first)])], settings.seed).to(device)
        every = range(min(d_sae, 16 * settings.untrained))
        found = firings_of(rows.store, rows.text, fresh, every, **most)
        picked = _as_often(dict(zip(every, found, strict=True)), [one.count for one in units[0].firings], settings.untrained)
        units.append(Unit(UNTRAINED, fresh, [Chosen(at, choice.UNTRAINED) for at, _ in picked], [one for _, one in picked]))
    return units


def _as_often(every: Mapping[int, Firings], models: Sequence[int], most: int) -> list[tuple[int, Firings]]:
    """Latents that fire about as often as others do: nearest to quantiles of their counts, none twice."""
    free = {latent: one for latent, one in every.items() if one.count}
    wanted = np.quantile(np.maximum(models, 1), (np.arange(most) + 0.5) / most) if most else []
    found = []
    for count in wanted[: len(free)]:
        latent = min(free, key=lambda one: (abs(math.log(free[one].count / count)), one))
        found.append((latent, free.pop(latent)))
    return found


class Once:
    """The policy, loaded when it is first needed: a job whose groups are all done needs none."""

    def __init__(self, load: Callable[[], PreTrainedModel]) -> None:
        self._load, self._model = load, list[PreTrainedModel]()

    def __call__(self) -> PreTrainedModel:
        if not self._model:
            self._model.append(self._load())
        return self._model[0]


class Mining(NamedTuple):
    """What all groups have in common."""

    mine: Mine
    """The store of the hop."""
    stored: torch.dtype
    """Number format of its rows."""
    policy: Callable[[], PreTrainedModel]
    """Loads it where it is needed."""
    layer: int
    batch_tokens: int
    """Tokens of one pass, padding included."""
    settings: N2gConfig


def mine_units(units: Sequence[Unit], mining: Mining, scratch: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int]]:
    """What graphs.json says of the latents of every SAE, in their order; and what was read for it.

    Finished groups are kept in `scratch`, and taken from there.
    """
    found: dict[str, list[dict[str, Any]]] = {unit.name: [] for unit in units}
    read, together = {"windows": 0, "window_tokens": 0}, mining.settings.together
    with Progress(sum(len(unit.latents) for unit in units), "n2g", "latents") as progress:
        for unit in units:
            for start in range(0, len(unit.latents), together):
                piece = scratch / f"{unit.name}_{start}.json"
                if not piece.is_file():
                    write_json(piece, _mine_group(unit, slice(start, start + together), mining))
                done = json.loads(piece.read_text(encoding="utf-8"))
                found[unit.name] += done["latents"]
                read = {name: count + done["read"][name] for name, count in read.items()}
                progress.advance(len(done["latents"]))
    return found, read


def _mine_group(unit: Unit, group: slice, mining: Mining) -> dict[str, Any]:
    chosen, firings, settings = unit.latents[group], unit.firings[group], mining.settings
    policy, text = mining.policy(), mining.mine.text
    names, kept = [one.latent for one in chosen], text.tokens[text.kept]
    by_embedding = settings.substitutes_from == "embedding"
    suggest: Suggest = Neighbours(policy, kept) if by_embedding else Likeliest(policy, mining.batch_tokens)
    with WindowReader(
        model=policy, layer=mining.layer, sae=unit.sae, latents=names, stored=mining.stored, batch_tokens=mining.batch_tokens,
        mean=mean_embedding(policy, kept) if settings.mean_embedding else None,
    ) as reader:  # fmt: skip
        told = mine_latents(reader, mining.mine, names, firings, settings, suggest)
        read = {"windows": reader.windows, "window_tokens": reader.tokens}
    return {"latents": [{"group": one.group, **each} for one, each in zip(chosen, told, strict=True)], "read": read}
