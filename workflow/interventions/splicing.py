"""A policy with SAEs in the place of its rows: what it loses, beside what it loses without the rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sae_core.models.sae import SAE
from workflow.formats.activations import RowFilter, damage_set_aside
from workflow.formats.interventions import NOTHING, SPLICE, write_sums
from workflow.interventions.inputs import Reading, check_layer, check_traces, load_policy, open_rows, open_saes, place_of
from workflow.interventions.measuring import Sums, intervene
from workflow.interventions.replacing import ablations, reconstruction, reconstruction_with_error
from workflow.interventions.texts import read_texts
from workflow.progress import Progress
from workflow.tail import Tail


class SpliceCell(NamedTuple):
    """What one splice is about: the wildcards of its rule."""

    run: str
    text: str
    kind: str
    seed: int
    stage: str
    layer: int


def splice(
    *,
    traces: Path | str,
    traces_manifest: Path | str,
    model: Path | str,
    shards: Sequence[Path | str],
    paired: Sequence[Path | str] = (),
    saes: Mapping[str, Path | str],
    sums: Path | str,
    manifest: Path | str,
    cell: SpliceCell,
    keep: RowFilter,
    ablated: Sequence[str],
    reading: Reading,
    note: Callable[..., None] = lambda **facts: None,
) -> None:
    """Write the sums of one splice and their manifest; `formats/interventions.py` says what they hold.

    Args:
        traces: traces.parquet of the text set as this policy reads it.
        traces_manifest: its manifest.
        model: transformers folder of the policy.
        shards: manifests of the policy's held-out shards on this text and layer.
        paired: those of every stage of the run, base first, where all stages read the same tokens; else none.
        saes: manifests of SAEs by what they are here, `real`, `frozen` or `null`.
        sums: sums.parquet.
        manifest: manifest.json.
        cell: what is measured.
        keep: the row filter; rows that it drops are never replaced.
        ablated: `mean`, `zero`.
        reading: how texts are read.
        note: told of device and number format.

    Raises:
        ConfigError: SAEs, rows, texts and policy do not belong together, fewer than two problems, or putting reconstruction and
            error together changes the predictions.
    """
    check_traces(traces, traces_manifest)
    facts, place = check_layer(model, cell.layer), place_of(reading)
    note(**place.facts())
    with damage_set_aside():
        store = open_rows(shards, keep, cell.layer, facts.d_model, paired)
        stored = open_saes(saes, store, {"kind": cell.kind, "seed": cell.seed, "layer": cell.layer})
        replacements = dict(ablations(list(ablated), store, place.device))
    models: dict[str, SAE] = {name: sae.model.to(place.device) for name, sae in stored.items()}
    texts = read_texts(traces, reading.problems, reading.max_tokens, store)
    tail = Tail(load_policy(model, place, texts.traces, reading.max_tokens), cell.layer)
    with Progress(len(texts.tokens), "splice", "texts") as progress:
        found = intervene(
            tail=tail, texts=texts, interventions={name: reconstruction(sae) for name, sae in models.items()} | replacements,
            identity=reconstruction_with_error(next(iter(models.values()))), batch_tokens=reading.batch_tokens, vocab=facts.vocab,
            unchanged=NOTHING, advance=progress.advance,
        )  # fmt: skip
    digests = {name: sae.facts["digest"] for name, sae in stored.items()}
    about = cell._asdict() | {"problems": texts.problems, "saes": digests}
    write_sums(sums, manifest, "splice", _records(found, texts.problems), SPLICE, **about)


def _records(sums: Sums[str], problems: Sequence[str]) -> Iterator[dict[str, Any]]:
    for put, found in sums.items():
        for problem, tokens, ce, kl in zip(problems, *(column.tolist() for column in found), strict=True):
            yield {"put": put, "problem": problem, "tokens": int(tokens), "ce": ce, "kl": kl}
