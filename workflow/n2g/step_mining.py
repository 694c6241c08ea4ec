"""Neuron2Graph for one step-level SAE: one pass over its steps, then patterns by either method, with their scores."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sae_core.models.step_sae import StepSAE
from workflow.config.n2g import StepN2gConfig
from workflow.config.section import ConfigError
from workflow.formats.files import write_text
from workflow.formats.manifest import write_manifest
from workflow.formats.n2g import MINED, SILENT, UNEXPLAINED
from workflow.formats.n2g_columns import N2gSteps
from workflow.formats.table_files import arrow_table, write_parquet
from workflow.n2g.categories import category
from workflow.n2g.judging import Bootstrap
from workflow.n2g.patterns import shown
from workflow.n2g.scoring import scores
from workflow.n2g.step_methods import Latent, mine_patterns, mine_published
from workflow.n2g.step_parts import BATCH_TOKENS, Part, codes_of
from workflow.n2g.step_windows import StepReader
from workflow.n2g.vocabulary import Vocabulary
from workflow.step_tokens import StepTokenizer


def explain_step_latents(
    *, model: StepSAE, tokenizer: StepTokenizer, mined: Part, held_out: Part, vocabulary: Vocabulary, folder: Path | str,
    place: Mapping[str, Any], facts: Mapping[str, Any], settings: StepN2gConfig, bootstrap: Mapping[str, Any], seed: int,
    note: Callable[..., None] = lambda **facts: None,
) -> None:  # fmt: skip
    """Write latents.parquet, n2g.jsonl (in the form of the published code) and the manifest of one SSAE.

    Args:
        model: in eval mode, on its device.
        tokenizer: its own.
        mined: steps in which patterns are found.
        held_out: steps on which they are scored.
        vocabulary: of the tokenizer.
        folder: where everything goes.
        place: run, chain, seed and stage.
        facts: of the manifest.
        settings: of the section.
        bootstrap: `replicates`, `confidence` and `seed`.
        seed: of draws.
        note: told how much was read.

    Raises:
        ConfigError: fewer than two held-out problems, or no step to mine.
    """
    if not len(mined):
        raise ConfigError(
            "Patterns of step-level SAEs are mined in steps of the split train; there are none. Use ssae.data.text=fixed."
        )
    if settings.method == "published":
        held_out = replace(held_out, steps=held_out.steps[: settings.evaluated_steps])
    found, tested = codes_of(model, mined), codes_of(model, held_out)
    order = np.argsort(-np.asarray(found.sum(axis=0)).ravel(), kind="stable")[: settings.latents]
    codes, truth = found[:, order].toarray(), tested[:, order].toarray() > settings.active_above
    reader = StepReader(model, order.tolist(), BATCH_TOKENS)
    mine = mine_published if settings.method == "published" else mine_patterns
    every, jsonl = mine(reader, order, codes, truth, mined, held_out, tokenizer, vocabulary, settings, seed)
    names, problem = np.unique(held_out.problems(), return_inverse=True)
    judge = _Judge(Bootstrap(len(names), **bootstrap), problem, len(names))
    rows = [
        judge.row(place, settings.method, one, codes[:, at] > settings.active_above, truth[:, at]) for at, one in enumerate(every)
    ]
    folder = Path(folder)
    write_parquet(folder / "latents.parquet", arrow_table(rows, N2gSteps))
    write_text(folder / "n2g.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in jsonl))
    write_manifest(folder / "manifest.json", "n2g_steps", **place, **facts, method=settings.method, steps=len(mined))
    note(encoded_tokens=int(mined.lengths().sum() + held_out.lengths().sum()), window_tokens=reader.tokens, windows=reader.windows)


class _Judge:
    """Scores by problem."""

    def __init__(self, bootstrap: Bootstrap, problem: np.ndarray, problems: int) -> None:
        self._bootstrap, self._problem, self._problems = bootstrap, problem, problems

    def _f1(self, said: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        kinds = (said & active, said & ~active, ~said & active)
        hits = np.stack([np.bincount(self._problem[kind], minlength=self._problems) for kind in kinds], axis=1).astype(np.float32)
        levels = np.zeros((self._problems, 1, 2), dtype=np.float32)
        return scores(hits, levels, self._bootstrap.weights)[:3]

    def row(self, place: Mapping[str, Any], method: str, one: Latent, mined: np.ndarray, active: np.ndarray) -> N2gSteps:
        state = SILENT if not mined.any() else MINED if one.patterns else UNEXPLAINED
        row: dict[str, Any] = dict.fromkeys(N2gSteps._fields) | dict(place)
        row |= {
            "method": method, "latent": one.latent, "state": state, "category": category(one.patterns),
            "pattern": shown(one.patterns[0]["elements"]) if one.patterns else None, "patterns": len(one.patterns),
            "steps": len(mined), "rate": float(mined.mean()), "held_out_steps": len(active), "base_rate": float(active.mean()),
        }  # fmt: skip
        if active.any() and state != SILENT:
            precision, recall, f1 = self._f1(one.said, active)
            other = self._f1(np.ones_like(active), active)[2]
            row["f1_always"] = float(other[0])
            for name, told in (("f1_tokens", one.by_tokens), ("f1_ngrams", one.by_ngrams)):
                if told is not None:
                    found = self._f1(told, active)[2]
                    row[name], other = float(found[0]), np.maximum(other, found)
            every = {"precision": precision, "recall": recall, "f1": f1, "gain": f1 - other}
            row |= {name: self._bootstrap.estimate(vector) for name, vector in every.items()}
        return N2gSteps(**row)
