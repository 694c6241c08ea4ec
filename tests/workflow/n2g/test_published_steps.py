"""The published procedure for step-level SAEs in fewer passes finds what it finds step by step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_steps import save_tokenizer, write_lines
from steps_in_use import small_step_sae

from workflow.config.n2g import StepN2gConfig
from workflow.formats.drift_columns import schema
from workflow.formats.n2g_columns import N2gSteps
from workflow.formats.steps import FILE, StepStore
from workflow.n2g.published_steps import WILDCARD, Limits, counted, matched_ids, occurs, patterns_of
from workflow.n2g.step_mining import explain_step_latents
from workflow.n2g.step_parts import Part
from workflow.n2g.step_windows import StepReader
from workflow.n2g.vocabulary import vocabulary
from workflow.ssae.forms import StepRules
from workflow.ssae.step_cache import step_cache
from workflow.step_tokens import step_tokenizer

LINES = [{"question": f"{a} + {b}?", "answer": f"{a} + {b} =\n{a + b}\n#### {a + b}"} for a in range(6) for b in range(5)]


@pytest.fixture(scope="module")
def steps(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    tokenizer = save_tokenizer(folder / "tokenizer")
    step_cache(
        source=write_lines(folder / "steps.jsonl", LINES), tokenizer=tokenizer, rules=StepRules(format="gsm8k_aug"), folder=folder
    )
    return folder


@torch.no_grad()
def activation(model: Any, ids: tuple[int, ...], latent: int) -> float:
    """Of one sequence, by itself."""
    hidden = model.encoder(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)
    ).last_hidden_state
    return float(model.code(hidden[:, -1])[0, latent])


def step_by_step(model: Any, sequences: list[tuple[int, ...]], ranked: list[tuple[int, float]], latent: int, pad: int,
                 text: Callable[[int], str], most: int) -> tuple[list[list[str]], int]:  # fmt: skip
    """The procedure as the reference tells it, one forward pass at a time; patterns and forwarded tokens."""
    found, tokens = list[list[str]](), 0
    for step, original in ranked:
        ids = sequences[step]
        for length in range(1, len(ids) + 1):
            tokens += length
            if np.float16(activation(model, ids[-length:], latent)) >= np.float16(0.5) * np.float16(original):
                break
        short, pattern = ids[-length:], []
        for at in range(length):
            tokens += length
            value = activation(model, (*short[:at], pad, *short[at + 1 :]), latent)
            pattern.append(WILDCARD if np.float16(value) >= np.float16(0.5) * np.float16(original) else text(short[at]))
        if pattern not in found:
            found.append(pattern)
        if len(found) == most:
            break
    return found, tokens


@pytest.mark.parametrize("most", [3, 20])
def test_patterns_are_those_of_the_published_procedure(tiny_qwen2: Path, steps: Path, most: int) -> None:
    model, tokenizer = small_step_sae(tiny_qwen2), step_tokenizer(steps / "tokenizer")
    with StepStore(steps / FILE) as store:
        part = Part(store, np.arange(len(store)))
        sequences = [part.sequence(step) for step in range(len(part))]
    codes = np.array([[activation(model, ids, latent) for latent in range(3)] for ids in sequences])
    text: Callable[[int], str] = lambda token: tokenizer.tokenizer.decode([token])  # noqa: E731  # a name for it says what it does
    pad, read = tokenizer.tokenizer.pad_token_id, 0
    for latent in range(3):
        ranked = [(int(step), float(codes[step, latent])) for step in np.argsort(-codes[:, latent], kind="stable")[:12]]
        ranked = [one for one in ranked if one[1] > 0]
        reader = StepReader(model, [0, 1, 2], 512)
        limits = Limits(patterns=most)
        found = patterns_of(reader, lambda step: sequences[step], ranked, latent, pad, text, limits)
        wanted, tokens = step_by_step(model, sequences, ranked, latent, pad, text, most)
        assert [list(one.pattern) for one in found] == wanted
        assert all(one.original == sequences[step] for one, (step, _) in zip(found[:1], ranked, strict=False))
        read += tokens
    assert read


def test_wildcards_alone_match_every_step_that_is_long_enough() -> None:
    assert occurs([None], [5])
    assert occurs([None, 7], [1, 2, 7, 3])
    assert not occurs([None, 7], [7])
    assert not occurs([7, None], [1, 7])
    found = counted([[None]], [[1], [2, 3], [4]], [True, False, False])
    assert (found["tp"], found["fp"], found["fn"]) == (1, 2, 0)
    assert found["precision"] == pytest.approx(1 / 3)
    assert found["recall"] == pytest.approx(1.0, abs=1e-6)


def test_texts_are_encoded_anew_and_their_first_id_is_kept() -> None:
    encode = {"ab": [4, 5], "": [], " ": [9]}.__getitem__
    assert matched_ids(["ab", WILDCARD, "", " "], encode) == [4, None, 9]


@pytest.mark.parametrize("method", ["patterns", "published"])
def test_every_latent_has_a_row_and_a_line(tiny_qwen2: Path, steps: Path, tmp_path: Path, method: str) -> None:
    tokenizer, told = step_tokenizer(steps / "tokenizer"), {}
    with StepStore(steps / FILE) as store:
        every = np.arange(len(store))
        explain_step_latents(
            model=small_step_sae(tiny_qwen2), tokenizer=tokenizer, mined=Part(store, every[::2]), held_out=Part(store, every[1::2]),
            vocabulary=vocabulary(tokenizer.tokenizer, tokenizer.vocab), folder=tmp_path, facts={"ssae": "d" * 64}, seed=0,
            place={"run": "shared", "chain": "real", "seed": 0, "stage": "base"}, note=lambda **facts: told.update(facts),
            settings=StepN2gConfig(latents=4, method=method), bootstrap={"replicates": 50, "confidence": 0.95, "seed": 0},
        )  # fmt: skip
    table = pd.read_parquet(tmp_path / "latents.parquet")
    assert list(table.columns) == schema(N2gSteps).names
    assert len(table) == 4
    assert (table["f1"].dropna() <= 1).all()
    lines = pd.read_json(tmp_path / "n2g.jsonl", lines=True)
    assert set(lines["latent_idx"].astype(str)) >= set(table["latent"].astype(str))
    assert told["window_tokens"] > 0
    if method == "published":
        names = ["latent_idx", "pattern", "pattern_info", "precision", "recall", "f1", "tp", "fp", "fn", "num_latents"]
        assert list(lines.columns) == names
        assert lines["latent_idx"].iloc[-1] == "average"
        assert lines["tp"].iloc[-1] == lines["tp"].iloc[:-1].sum()
        assert set(lines["pattern_info"].iloc[0][0]) == {"pattern", "act", "original_text", "short_text"}


def test_published_settings_are_those_of_the_paper_whatever_is_set() -> None:
    settings = StepN2gConfig(latents=50, method="published", patterns=3, keep=0.9, evaluated_steps=7)
    assert (settings.patterns, settings.keep, settings.active_above, settings.evaluated_steps) == (20, 0.5, 0.0, 500)
