"""What single latents cause: silenced, driven, and given in base the directions that they have at a later stage."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from workflow.formats.activations import RowFilter, Store, damage_set_aside
from workflow.formats.drift import BASE, NULL, REAL
from workflow.formats.interventions import (
    ALL,
    ALL_NULL,
    CAUSAL,
    DRIFTED,
    MEAN,
    NOTHING,
    RANDOM,
    STEER,
    TRANSPLANT,
    ZERO,
    write_sums,
)
from workflow.formats.interventions import NULL as NULL_GROUP
from workflow.formats.saes import StoredSae
from workflow.interventions.acting import Encoder, drive_latent, set_latent, transplant
from workflow.interventions.inputs import Reading, check_layer, check_traces, load_policy, open_rows, open_saes, place_of
from workflow.interventions.latents import Chosen, Firing, choose_latents, firing_of, strong_activations, turns
from workflow.interventions.measuring import Predictions, Replace, intervene
from workflow.interventions.texts import Texts, read_texts
from workflow.progress import Progress
from workflow.tail import Tail


class Act(NamedTuple):
    """One intervention: the key columns of `formats.interventions.CAUSAL`."""

    action: str
    group: str
    member: int = 0
    strength: float = 0.0


class Plan(NamedTuple):
    """Settings of a causal check."""

    stage: str
    """The later stage t."""
    latents: int
    """Drifted latents."""
    draws: int
    """Random latents for each."""
    strengths: Sequence[float]
    """In units of a latent's 95th percentile."""
    seed: int
    """Of the draws."""
    min_firings: int
    min_prompts: int
    """When a latent is alive."""


class Latents(NamedTuple):
    """The chosen latents with what interventions need of them."""

    chosen: list[Chosen]
    strong: np.ndarray
    """95th percentile of each where it is active, in units of its SAE."""
    mean: np.ndarray
    """Mean of each over all kept rows."""


def check_causes(
    *, traces: Path | str, traces_manifest: Path | str, model: Path | str, base: Path | str, shards: Sequence[Path | str],
    saes: Mapping[str, Path | str], sums: Path | str, manifest: Path | str, cell: Mapping[str, Any], keep: RowFilter, plan: Plan,
    reading: Reading, paired: Sequence[Path | str] = (), note: Callable[..., None] = lambda **facts: None,
) -> None:  # fmt: skip
    """Write the sums of one causal check and their manifest; `formats/interventions.py` says what they hold.

    Args:
        traces: traces.parquet of the text set as the policy of the stage reads it.
        traces_manifest: its manifest.
        model: transformers folder of the policy of the stage.
        base: that of base.
        shards: manifests of the held-out shards of the stage on this text and layer.
        saes: manifests of S_t (`real`), U_t (`null`) and S_0 (`base`).
        sums: sums.parquet.
        manifest: manifest.json.
        cell: run, text, kind, seed and layer.
        keep: the row filter; rows that it drops are never changed.
        plan: which latents, how often and how strongly.
        reading: how texts are read.
        paired: manifests of the held-out shards of every stage, base first, where all stages read the same tokens; else none.
        note: told of device and number format.

    Raises:
        ConfigError: files do not belong together, no latent is alive, or fewer than two problems.
    """
    check_traces(traces, traces_manifest)
    layer = cell["layer"]
    facts, place = check_layer(model, layer), place_of(reading)
    note(**place.facts())
    with damage_set_aside():
        store = open_rows(shards, keep, layer, facts.d_model, paired)
        stored = open_saes(saes, store, {"kind": cell["kind"], "seed": cell["seed"], "layer": layer})
        for sae in stored.values():
            sae.model.to(place.device)
        found = find_latents(store, stored, plan)
    texts = read_texts(traces, reading.problems, reading.max_tokens, store)
    now, before = (Tail(load_policy(folder, place, texts.traces, reading.max_tokens), layer) for folder in (model, base))
    with torch.inference_mode():
        records = _measure(now, before, texts, stored, found, plan, reading.batch_tokens, facts.vocab)
    write_sums(
        sums, manifest, "causal", _records(records, texts.problems), CAUSAL, **cell, stage=plan.stage, problems=texts.problems,
        latents=[one._asdict() | {"strong": float(strong)} for one, strong in zip(found.chosen, found.strong, strict=True)],
    )  # fmt: skip


def find_latents(store: Store, saes: Mapping[str, StoredSae], plan: Plan) -> Latents:
    """Choose latents by direction and firing rate, from rows of the stage alone."""
    firing: dict[str, Firing] = {
        chain: firing_of(store, saes[chain].model, plan.min_firings, plan.min_prompts) for chain in (REAL, NULL)
    }
    turn, null_turn = (turns(saes[chain], saes[BASE]) for chain in (REAL, NULL))
    chosen = choose_latents(
        real=firing[REAL], null=firing[NULL], turn=turn, null_turn=null_turn, latents=plan.latents, draws=plan.draws,
        density=saes[BASE].extras["firing_rate"].double().numpy(), seed=plan.seed,
    )  # fmt: skip
    strong, mean = np.zeros(len(chosen)), np.zeros(len(chosen))
    for chain in (REAL, NULL):
        mine = [place for place, one in enumerate(chosen) if _chain(one.group) == chain]
        index = [chosen[place].latent for place in mine]
        strong[mine], mean[mine] = strong_activations(store, saes[chain].model, index), firing[chain].mean[index]
    return Latents(chosen, strong, mean)


def _chain(group: str) -> str:
    return NULL if group == NULL_GROUP else REAL


def _measure(
    now: Tail, before: Tail, texts: Texts, saes: Mapping[str, StoredSae], found: Latents, plan: Plan, batch_tokens: int, vocab: int
) -> dict[Act, Predictions]:
    on_policy, on_base = latent_actions(saes, found, plan.strengths), transplants(saes, found.chosen)
    with Progress(2 * len(texts.tokens), "causal", "texts") as progress:
        sums = intervene(
            tail=now, texts=texts, interventions=on_policy, batch_tokens=batch_tokens, vocab=vocab,
            unchanged=Act(NOTHING, "policy"), advance=progress.advance,
        )  # fmt: skip
        moved = intervene(
            tail=before, texts=texts, interventions=on_base, batch_tokens=batch_tokens, vocab=vocab, reference=now,
            unchanged=Act(NOTHING, "base"), advance=progress.advance,
        )  # fmt: skip
    return dict(sums) | dict(moved)


def latent_actions(saes: Mapping[str, StoredSae], found: Latents, strengths: Sequence[float]) -> dict[Act, Replace]:
    """Each latent silenced, held at its mean, and driven at each strength."""
    encoders = {chain: Encoder(saes[chain].model) for chain in (REAL, NULL)}
    actions: dict[Act, Replace] = {}
    for one, strong, mean in zip(found.chosen, found.strong, found.mean, strict=True):
        encoder = encoders[_chain(one.group)]
        actions[Act(ZERO, one.group, one.member)] = set_latent(encoder, one.latent, 0.0)
        actions[Act(MEAN, one.group, one.member)] = set_latent(encoder, one.latent, float(mean))
        for strength in strengths:
            amount = strength * float(strong)
            actions[Act(STEER, one.group, one.member, strength)] = drive_latent(encoder, one.latent, amount)
    return actions


def transplants(saes: Mapping[str, StoredSae], chosen: Sequence[Chosen]) -> dict[Act, Replace]:
    """Directions of a later stage put into base: of each group, of each draw of random ones, and of all latents of a chain."""
    encoder = Encoder(saes[BASE].model)
    groups: dict[tuple[str, int], list[int]] = {}
    for one in chosen:
        groups.setdefault((one.group, one.draw), []).append(one.latent)
    for group, chain in ((ALL, REAL), (ALL_NULL, NULL)):
        kept = ~saes[chain].extras["reinitialised"].bool()
        groups[group, 0] = torch.nonzero(kept)[:, 0].tolist()
    assert {DRIFTED, NULL_GROUP} <= {group for group, _ in groups} <= {DRIFTED, RANDOM, NULL_GROUP, ALL, ALL_NULL}
    return {
        Act(TRANSPLANT, group, draw): transplant(encoder, saes[NULL if group in (NULL_GROUP, ALL_NULL) else REAL].model, latents)
        for (group, draw), latents in groups.items()
    }


def _records(sums: Mapping[Act, Predictions], problems: Sequence[str]) -> Iterator[dict[str, Any]]:
    for act, found in sums.items():
        for problem, tokens, ce, kl in zip(problems, *(column.tolist() for column in found), strict=True):
            yield {**act._asdict(), "problem": problem, "tokens": int(tokens), "ce": ce, "kl": kl}
