"""Neuron2Graph for one SAE: latents chosen, mined, scored and written."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workflow.config.n2g import N2gConfig
from workflow.devices import choose_device, choose_dtype, dtype_name
from workflow.formats.activations import RowFilter, damage_set_aside
from workflow.formats.files import publish, remove_scratch, scratch_folder, write_text
from workflow.formats.manifest import read_manifest
from workflow.formats.n2g import TRAINED, write_graphs
from workflow.formats.n2g_columns import N2gLatent, N2gScore
from workflow.formats.shards import DTYPES
from workflow.formats.table_files import arrow_table, write_parquet
from workflow.language_model import load_model, load_tokenizer, model_facts
from workflow.n2g.graphs import dot, graph_of, telling
from workflow.n2g.inputs import open_held_out, open_rows, open_sae
from workflow.n2g.judging import Bootstrap, HeldOut, Judge
from workflow.n2g.layers import layered
from workflow.n2g.mining import Mine
from workflow.n2g.patterns import shown
from workflow.n2g.units import Mining, Once, mine_units, units_of
from workflow.n2g.vocabulary import vocabulary
from workflow.residuals import check_layers


class Cell(NamedTuple):
    """Of which SAE: the key columns of the tables."""

    run: str
    text: str
    kind: str
    seed: int
    layer: int
    stage: str


class Machine(NamedTuple):
    """How the policy runs."""

    device: str
    """`auto`, `cpu` or `cuda`."""
    dtype: str
    """`auto`, `float32` or `bfloat16`."""
    batch_tokens: int
    """Tokens of one pass, padding included."""


def explain_latents(
    *, policy: Path | str, model: Path | str, mined: Sequence[Path | str], held_out: Sequence[Path | str], sae: Path | str,
    changes: Path | str | None, folder: Path | str, cell: Cell, last_stage: str, keep: RowFilter, settings: N2gConfig,
    bootstrap: Mapping[str, Any], machine: Machine, key: str, note: Callable[..., None] = lambda **facts: None,
) -> None:  # fmt: skip
    """Write graphs.json, latents.parquet, scores.parquet, the folder graphs/ and the manifest of one SAE.

    Args:
        policy: manifest of the policy.
        model: its transformers folder.
        mined: manifests of the shards of a hop, where patterns are found.
        held_out: manifests of the held-out shards, where they are scored.
        sae: manifest of the SAE.
        changes: latents.parquet of the cell, of the phase drift; None where latents are listed.
        folder: where everything goes.
        cell: which SAE it is.
        last_stage: by whose change latents are chosen.
        keep: the row filter.
        settings: of the section.
        bootstrap: `replicates`, `confidence` and `seed`.
        machine: how the policy runs.
        key: digest of everything that the result depends on.
        note: told of device and number format, and of what was read.

    Raises:
        ConfigError: files do not belong together, or there is nothing to choose from.
    """
    folder, facts = Path(folder), model_facts(model)
    check_layers([cell.layer], facts.layers, str(model))
    device = choose_device(machine.device)
    dtype = choose_dtype(machine.dtype, device)
    with damage_set_aside():
        rows = open_rows(mined, keep)
        tested, prompt, problems = open_held_out(held_out, keep)
        stored = open_sae(sae, rows.store)
        words = vocabulary(load_tokenizer(model), facts.vocab)
        sampled = rows.sampled(settings.sample_rows)
        units = units_of(stored.model, rows, sampled, changes, last_stage, device, settings)
        mining = Mining(
            Mine(rows.text, sampled, words, keep.skip_positions), DTYPES[rows.store.manifests[0]["dtype"]],
            Once(lambda: load_model(model, device, dtype)), cell.layer, machine.batch_tokens, settings,
        )  # fmt: skip
        scratch = scratch_folder(folder / "mined", key)
        told, read = mine_units(units, mining, scratch)
        boot = Bootstrap(len(problems), **bootstrap)
        place = HeldOut(tested, prompt, len(problems))
        table, means = [], []
        for unit in units:
            judge = Judge(sae=unit.sae, held_out=place, mined=rows, sampled=sampled, members=words.members, method=settings.method,
                          settings=settings, bootstrap=boot)  # fmt: skip
            scored = judge.rows(told[unit.name], unit.firings)
            table += [_row(cell, unit.name, one, score) for one, score in zip(told[unit.name], scored, strict=True)]
            means += [N2gScore(**cell._asdict(), sae=unit.name, **row) for row in judge.means()]
    write_parquet(folder / "latents.parquet", arrow_table(table, N2gLatent))
    write_parquet(folder / "scores.parquet", arrow_table(means, N2gScore))
    draw(folder / "graphs", told[TRAINED], cell, settings.drawn, key)
    every = [{"sae": name, **one} for name, part in told.items() for one in part]
    write_graphs(
        folder, {"method": settings.method, "latents": every}, **cell._asdict(), sae=stored.facts["digest"],
        model=read_manifest(policy, "policy")["digest"], skip_positions=keep.skip_positions,
        parts=sorted({facts["part"] for facts in rows.store.manifests}),
    )  # fmt: skip
    remove_scratch(scratch)
    note(device=str(device), dtype=dtype_name(dtype), **read)


def _row(cell: Cell, sae: str, told: Mapping[str, Any], scored: Mapping[str, Any]) -> N2gLatent:
    patterns = telling(told["patterns"])
    best = max(patterns, key=lambda one: one.get("gain", one["activation"]), default=None)
    row: dict[str, Any] = dict.fromkeys(N2gLatent._fields) | cell._asdict() | {"sae": sae, "prompts": 0, "base_rate": 0.0}
    row |= {name: told[name] for name in ("latent", "group", "state", "category", "context_tokens", "kept", "spread")}
    row |= {
        "pattern": shown(best["elements"]) if best else None, "patterns": len(patterns), "contexts": told["taken_apart"],
        "firings": told["firings"], "rate": told["firings"] / max(told["rows"], 1),
    }  # fmt: skip
    return N2gLatent(**(row | dict(scored)))


def draw(folder: Path, told: Sequence[Mapping[str, Any]], cell: Cell, most: int, key: str) -> None:
    """The graph of every latent as DOT, of the first `most` that have one as SVG, in one folder that appears at once."""
    scratch, drawn = scratch_folder(folder, key), 0
    for one in told:
        if not (patterns := telling(one["patterns"])):
            continue
        nodes, name = graph_of(patterns, one["largest"]), f"latent_{one['latent']}"
        title = f"Patterns of latent {one['latent']} at {cell.stage}, layer {cell.layer}"
        write_text(scratch / f"{name}.dot", dot(nodes, title))
        if drawn < most:
            write_text(scratch / f"{name}.svg", layered(nodes, title))
            drawn += 1
    publish(scratch, folder)
