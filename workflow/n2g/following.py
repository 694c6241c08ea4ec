"""Graphs from stage to stage: those of one stage on the rows of another, and which of their paths stay."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workflow.config.n2g import N2gConfig
from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter, damage_set_aside
from workflow.formats.files import publish, scratch_folder, write_text
from workflow.formats.manifest import write_manifest
from workflow.formats.n2g import SILENT, TRAINED, read_graphs
from workflow.formats.n2g_columns import N2gPaths, N2gTransfer
from workflow.formats.table_files import arrow_table, write_parquet
from workflow.n2g.encoding import Text
from workflow.n2g.graphs import KEPT, LOST, NEW, compared, graph_of, path_of, telling
from workflow.n2g.inputs import open_held_out, open_sae
from workflow.n2g.judging import Bootstrap, explanation_of
from workflow.n2g.layers import layered
from workflow.n2g.predicting import Explanation, Prediction
from workflow.n2g.scoring import Asked, Scores, measure, scores

BASE, OWN, FROZEN = "base", "own", "frozen"
Told = dict[int, Mapping[str, Any]]
Scored = dict[tuple[int, str], Scores]
"""By latent and the stage that its graph was mined at."""


class Files(NamedTuple):
    """What was made at one stage."""

    graphs: Path
    """Manifest of the graphs."""
    sae: Path
    """Manifest of the SAE of the chain `real`."""
    held_out: Sequence[Path]
    """Manifests of the held-out shards."""


def follow_latents(
    *, stages: Mapping[str, Files], base_sae: Path | str, members: Mapping[str, np.ndarray], folder: Path | str,
    cell: Mapping[str, Any], keep: RowFilter, settings: N2gConfig, bootstrap: Mapping[str, Any], key: str,
) -> None:  # fmt: skip
    """Write transfer.parquet, paths.parquet, the folder changes/ and followed.json of one (run, text, kind, seed, layer).

    Args:
        stages: mined stages in their order.
        base_sae: manifest of S_0.
        members: bool [token] by class.
        folder: where everything goes.
        cell: run, text, kind, seed and layer.
        keep: the row filter.
        settings: of the section.
        bootstrap: `replicates`, `confidence` and `seed`.
        key: names scratch folders.

    Raises:
        ConfigError: the stages do not have the same latents or held-out problems.
    """
    folder = Path(folder)
    told = {stage: _trained(files.graphs) for stage, files in stages.items()}
    _check_alike(told)
    transfer: list[N2gTransfer] = []
    for stage, files in stages.items():
        with damage_set_aside():
            for name, manifest in {OWN: files.sae, **({FROZEN: Path(base_sae)} if stage != BASE else {})}.items():
                scored, boot = _scored(told, manifest, files.held_out, members, keep, settings, bootstrap)
                homes = list(told) if name == OWN else [home for home in told if home == BASE]
                transfer += [_row(cell, home, stage, name, scored, boot) for home in homes if any(at == home for _, at in scored)]
    paths = [
        row for before, now in combinations(told, 2) for row in _paths(cell, before, now, told[before], told[now])
    ]  # fmt: skip
    write_parquet(folder / "transfer.parquet", arrow_table(transfer, N2gTransfer))
    write_parquet(folder / "paths.parquet", arrow_table(paths, N2gPaths))
    _draw(folder / "changes", told, settings.drawn, key)
    graphs = {stage: read_graphs(files.graphs)[1]["digest"] for stage, files in stages.items()}
    write_manifest(folder / "followed.json", "n2g_followed", **cell, stages=list(stages), graphs=graphs)


def _trained(manifest: Path) -> Told:
    return {one["latent"]: one for one in read_graphs(manifest)[0]["latents"] if one["sae"] == TRAINED}


def _check_alike(told: Mapping[str, Told]) -> None:
    first, *others = told
    for stage in others:
        if list(told[stage]) != list(told[first]):
            raise ConfigError(
                f"All stages must have graphs of the same latents; {stage} and {first} differ. Delete the folder of the older ones "
                "under results/n2g and run again."
            )


def _scored(
    told: Mapping[str, Told], sae: Path, held_out: Sequence[Path], members: Mapping[str, np.ndarray], keep: RowFilter,
    settings: N2gConfig, bootstrap: Mapping[str, Any],
) -> tuple[Scored, Bootstrap]:  # fmt: skip
    """The graphs of all stages on the activations that one SAE has on the rows of one stage."""
    rows, prompt, problems = open_held_out(held_out, keep)
    boot, model = Bootstrap(len(problems), **bootstrap), open_sae(sae, rows.store).model
    latents = [latent for latent in next(iter(told.values())) if any(part[latent]["state"] != SILENT for part in told.values())]
    found: Scored = {}
    for start in range(0, len(latents), settings.together):
        asked = [_asked(latent, told, members, settings) for latent in latents[start : start + settings.together]]
        measured = measure(rows.store, rows.text, prompt, len(problems), model, asked, strong=settings.strong)
        for one, result in zip(asked, measured, strict=True):
            if result.active.any():
                found |= {
                    (one.latent, stage): scores(counts.hits, counts.levels, boot.weights)
                    for stage, counts in result.by_explanation.items()
                }
    return found, boot


def _asked(latent: int, told: Mapping[str, Told], members: Mapping[str, np.ndarray], settings: N2gConfig) -> Asked:
    graphs: dict[str, Explanation] = {
        stage: explanation_of(part[latent], settings.method, members, settings.strong)
        for stage, part in told.items()
        if part[latent]["state"] != SILENT
    }

    def predict(text: Text) -> dict[str, Prediction]:
        return {stage: graph.predict(text.tokens, text.pos) for stage, graph in graphs.items()}

    largest = max(part[latent]["largest"] for part in told.values())
    return Asked(latent, largest, predict, max(graph.reach for graph in graphs.values()))


def _row(cell: Mapping[str, Any], home: str, stage: str, sae: str, scored: Scored, boot: Bootstrap) -> N2gTransfer:
    mine = [latent for latent, at in scored if at == home]
    means: dict[str, Any] = {
        name: boot.estimate(np.mean([getattr(scored[latent, home], name) for latent in mine], axis=0)) for name in Scores._fields
    }
    both = [latent for latent in mine if (latent, stage) in scored]
    differences = [scored[latent, stage].f1 - scored[latent, home].f1 for latent in both]
    loss = boot.estimate(np.mean(differences, axis=0)) if both and sae == OWN else None
    return N2gTransfer(**cell, graph_stage=home, stage=stage, sae=sae, latents=len(mine), **means, loss=loss)


def _paths(cell: Mapping[str, Any], before: str, now: str, old: Told, new: Told) -> list[N2gPaths]:
    found = []
    for latent, one in new.items():
        states = list(compared(telling(old[latent]["patterns"]), telling(one["patterns"])).values())
        counts: dict[str, Any] = {state: states.count(state) for state in (KEPT, NEW, LOST)}
        overlap = counts[KEPT] / len(states) if states else None
        facts = {"latent": latent, "group": one["group"], "from_stage": before, "stage": now, "overlap": overlap}
        found.append(N2gPaths(**cell, **facts, **counts, overlap_halves=old[latent]["overlap_halves"]))
    return found


def _draw(folder: Path, told: Mapping[str, Told], most: int, key: str) -> None:
    """What became of the graphs between the first and the last stage, of the first latents that have one at either."""
    scratch, drawn = scratch_folder(folder, key), 0
    first, last = next(iter(told)), list(told)[-1]
    for latent in told[first] if len(told) > 1 else ():
        old, new = told[first][latent], told[last][latent]
        before, now = telling(old["patterns"]), telling(new["patterns"])
        states = compared(before, now)
        patterns = [*now, *(one for one in before if states[path_of(one)] == LOST)]
        if patterns and drawn < most:
            nodes = graph_of(patterns, max(old["largest"], new["largest"]), states)
            counts = ", ".join(f"{list(states.values()).count(state)} {state}" for state in (KEPT, NEW, LOST))
            title = f"Patterns of latent {latent} from {first} to {last}: {counts}"
            write_text(scratch / f"latent_{latent}.svg", layered(nodes, title))
            drawn += 1
    publish(scratch, folder)
