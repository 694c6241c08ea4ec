"""Neuron2Graph for one step-level SAE: one pass over its steps, then patterns by either method, with their scores."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csc_array, vstack

from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE
from workflow.config.n2g import StepN2gConfig
from workflow.config.section import ConfigError
from workflow.formats.files import write_text
from workflow.formats.manifest import write_manifest
from workflow.formats.n2g import MINED, SILENT, UNEXPLAINED
from workflow.formats.n2g_columns import N2gSteps
from workflow.formats.steps import StepStore
from workflow.formats.table_files import arrow_table, write_parquet
from workflow.n2g.categories import category
from workflow.n2g.judging import Bootstrap
from workflow.n2g.patterns import as_json, shown
from workflow.n2g.published_steps import WILDCARD, Found, Limits, lines, matched_ids, occurs, patterns_of, ratios
from workflow.n2g.scoring import scores
from workflow.n2g.step_patterns import StepChooser, candidates, flattened, taken_apart
from workflow.n2g.step_windows import StepReader
from workflow.n2g.vocabulary import Vocabulary
from workflow.n2g.windows import Window
from workflow.progress import Progress
from workflow.step_encoding import EncodingSettings, encoded_blocks
from workflow.step_tokens import StepTokenizer

BATCH_TOKENS = 4096
"""Tokens of one pass, padding included."""
TOKENS_TRIED = 200
"""Most frequent tokens among which the baseline chooses."""


@dataclass(frozen=True)
class Part:
    """Some steps of a store."""

    store: StepStore
    steps: np.ndarray
    """Their numbers, rising."""

    def __len__(self) -> int:
        return len(self.steps)

    def lengths(self) -> np.ndarray:
        """Tokens of every sequence."""
        return self.store.lengths()[self.steps]

    def batch(self, picked: Sequence[int], /) -> StepBatch:
        """Some of the sequences, by their place here."""
        return self.store.batch(self.steps[np.asarray(picked)])

    def sequence(self, step: int) -> Window:
        """Ids of one, by its place here."""
        found = self.batch([step])
        return tuple(found.ids[0, : int(found.length[0])].tolist())

    def starts(self) -> np.ndarray:
        """Place of the first token of each step in its sequence."""
        return len(self.store.prefix) + self.store.context_length[self.steps] + 1

    def problems(self) -> np.ndarray:
        """Problem of each."""
        return self.store.of_step("problem")[self.steps]


class Latent(NamedTuple):
    """What was found of one latent."""

    latent: int
    patterns: list[dict[str, Any]]
    said: np.ndarray
    """Whether the patterns match each held-out step, bool."""
    by_tokens: np.ndarray | None
    """The same of the best single tokens."""


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
    found, tested = _codes(model, mined), _codes(model, held_out)
    order = np.argsort(-np.asarray(found.sum(axis=0)).ravel(), kind="stable")[: settings.latents]
    codes, truth = found[:, order].toarray(), tested[:, order].toarray() > settings.active_above
    reader = StepReader(model, order.tolist(), BATCH_TOKENS)
    mine = _published if settings.method == "published" else _fair
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


def _codes(model: StepSAE, part: Part) -> csc_array:
    with Progress(len(part), "n2g", "steps") as progress:
        blocks = encoded_blocks(model=model, steps=part, settings=EncodingSettings(BATCH_TOKENS), progress=progress.advance)
        return csc_array(vstack(list(blocks), format="csc"))


Result = tuple[list[Latent], list[dict[str, Any]]]


def _ranked(codes: np.ndarray, above: float) -> list[tuple[int, float]]:
    order = np.argsort(-codes, kind="stable")
    return [(int(step), float(codes[step])) for step in order[codes[order] > above]]


def _published(
    reader: StepReader, order: np.ndarray, codes: np.ndarray, truth: np.ndarray, mined: Part, held_out: Part,
    tokenizer: StepTokenizer, vocabulary: Vocabulary, settings: StepN2gConfig, seed: int,
) -> Result:  # fmt: skip
    backend = tokenizer.tokenizer
    pad = backend.pad_token_id if backend.pad_token_id is not None else backend.eos_token_id
    limits = Limits(settings.keep, settings.patterns, settings.active_above)
    text: Callable[[Any], str] = backend.decode
    encode: Callable[[str], Sequence[int]] = lambda part: backend(part, add_special_tokens=False).input_ids  # noqa: E731  # a name for it says what it does
    sequences = [held_out.sequence(step) for step in range(len(held_out))]
    patterns: dict[int, list[Found]] = {}
    results, every = {}, []
    for at, latent in enumerate(order.tolist()):
        found = patterns_of(
            reader, mined.sequence, _ranked(codes[:, at], settings.active_above), at, pad, lambda one: text([one]), limits
        )
        ids = [matched_ids(one.pattern, encode) for one in found]
        said = np.array([any(occurs(pattern, sequence) for pattern in ids) for sequence in sequences], dtype=bool)
        active = truth[:, at]
        results[latent] = ratios(int((said & active).sum()), int((said & ~active).sum()), int((~said & active).sum()))
        patterns[latent] = found
        told = [{"elements": [_published_element(word) for word in one.pattern], "activation": one.activation} for one in found]
        every.append(Latent(latent, told, said, None))
        reader.forget()
    return every, list(lines(patterns, results, lambda ids: text(list(ids))))


def _published_element(word: str) -> dict[str, Any]:
    return {"gap": [1, 1]} if word == WILDCARD else {"ids": [], "texts": [word]}


def _fair(
    reader: StepReader, order: np.ndarray, codes: np.ndarray, truth: np.ndarray, mined: Part, held_out: Part,
    tokenizer: StepTokenizer, vocabulary: Vocabulary, settings: StepN2gConfig, seed: int,
) -> Result:  # fmt: skip
    flat, tested = (flattened([part.sequence(step) for step in range(len(part))], part.starts()) for part in (mined, held_out))
    chooser, pool = StepChooser(flat, vocabulary), flat.text.tokens[flat.text.kept]
    single, every, told = chooser.single_tokens(TOKENS_TRIED), [], []
    for at, latent in enumerate(order.tolist()):
        active, ranked = codes[:, at] > settings.active_above, _ranked(codes[:, at], settings.active_above)
        draw = np.random.default_rng([seed, latent])
        others = draw.permutation(len(ranked))[: settings.examples - settings.examples // 2].tolist()
        chosen = dict.fromkeys([*range(min(settings.examples // 2, len(ranked))), *sorted(others)])
        original = dict(ranked[place] for place in chosen)
        contexts = taken_apart(
            reader, {step: mined.sequence(step) for step in original}, at, original, keep=settings.keep, pool=pool, seed=seed
        )
        patterns = chooser.choose(candidates(contexts, vocabulary), active, settings.patterns)
        by_tokens = chooser.choose(single, active, settings.patterns)
        elements = [{"elements": as_json(pattern, vocabulary), "matched": len(chooser.matched(pattern))} for pattern in patterns]
        every.append(Latent(latent, elements, chooser.said(patterns, tested), chooser.said(by_tokens, tested)))
        said, true = every[-1].said, truth[:, at]
        result = ratios(int((said & true).sum()), int((said & ~true).sum()), int((~said & true).sum()))
        told.append({"latent_idx": latent, "pattern": elements, **result, "num_latents": len(order)})
        reader.forget()
    return every, told


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
            if one.by_tokens is not None:
                tokens = self._f1(one.by_tokens, active)[2]
                row["f1_tokens"], other = float(tokens[0]), np.maximum(other, tokens)
            every = {"precision": precision, "recall": recall, "f1": f1, "gain": f1 - other}
            row |= {name: self._bootstrap.estimate(vector) for name, vector in every.items()}
        return N2gSteps(**row)
