"""Rows of the tables of probes, as a page may find them."""

from collections.abc import Callable
from typing import Any

PROBE = ("run", "stage", "layer", "task", "features", "model", "validation", "steps", "prompts")
SETS = {"sae.topk.max": "sae", "dense.last": "dense", "words": "surface"}
Rows = list[dict[str, Any]]


def made_up_probes(run: str, last: str, layers: list[int], estimate: Callable[..., dict[str, float]]) -> dict[str, Rows]:
    """The four tables: base and the last stage of a run, two tasks, two models; SAE codes win once per stage."""
    at = [("shared", "base"), (run, last)]
    probes = [row for place in at for task in ("correct", "final_strict") for row in _probes(place, task, layers, estimate)]
    contrasts = [
        {**{name: row[name] for name in PROBE}, "against": "baseline", "against_layer": row["layer"], "against_model": "l2",
         "against_features": "dense.last", "against_validation": 0.8, "measure": "auroc", **estimate("delta", 0.01, 0.02)}
        for row in probes if row["family"] == "sae" and row["model"] == "l2"
    ]  # fmt: skip
    transfer = [
        {"run": run, "layer": layer, "task": "correct", "view": view, "features": name, "fit_stage": one, "stage": other,
         "steps": 150, "prompts": 40, **estimate("auroc", 0.75 - 0.05 * (one != other)),
         **estimate("excess", -0.05 * (one != other))}
        for layer in layers for view, name in (("dense", "dense.last"), ("own", "sae.topk.max"))
        for one in ("base", last) for other in ("base", last)
    ]  # fmt: skip
    controls = [
        {"run": place[0], "stage": place[1], "layer": layers[0], "task": "correct", "features": "dense.last", "model": "l2",
         "control": control, "repeat": repeat, "steps": 150, **estimate("auroc", 0.7 if place == at[1] and repeat else 0.5, 0.05)}
        for place in at for control, repeat in (("permuted", 0), ("permuted", 1), ("same_length", 0))
    ]  # fmt: skip
    return {"probes": probes, "probe_contrasts": contrasts, "probe_transfer": transfer, "probe_controls": controls}


def _probes(place: tuple[str, str], task: str, layers: list[int], estimate: Callable[..., dict[str, float]]) -> Rows:
    same = {
        "run": place[0], "stage": place[1], "task": task, "kind": "binary", "same_step": False, "train_steps": 300, "steps": 150,
        "prompts": 40, "missing": 3, "without_features": 0, "prevalence": 0.6, "c": 0.1, "nonzero": 20,
        "unconverged": 0,
    }  # fmt: skip
    sets = [(layer, name) for layer in layers for name in list(SETS)[:2]] + [(None, "words")]
    return [
        {**same, "layer": layer, "features": name, "family": SETS[name], "model": model,
         "validation": 0.8 - 0.1 * (name == "words") - 0.05 * (model == "l1"),
         "used": model == "l2" and task == "correct" and layer == layers[0] if SETS[name] == "sae" else None,
         **estimate("auroc", 0.75, 0.05), **estimate("average_precision", 0.8), **estimate("brier", 0.2), **estimate("ece", 0.05),
         **estimate("accuracy", 0.7)}
        for layer, name in sets for model in ("l2", "l1")
    ]  # fmt: skip
