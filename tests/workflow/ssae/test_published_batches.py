"""Strings and batches equal to those the published SSAEs were trained on, made here anew from their description."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_steps import BOS, IRREGULAR, save_tokenizer, write_lines
from torch.nn.utils.rnn import pad_sequence

from workflow.formats.steps import StepStore
from workflow.ssae.feeding import batches
from workflow.ssae.forms import StepRules
from workflow.ssae.step_cache import step_cache
from workflow.step_tokens import step_tokenizer


def strings(form: str, row: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Context and step of every sample of a line."""
    if form == "opencodeinstruct":
        steps = [line for line in row["output"].split("\n") if line.strip()]
        yield from ((f"{row['input']} {chr(10).join(steps[:i])}", step) for i, step in enumerate(steps))
        return
    answer = row["answer"].replace("\n\n", "\n")
    steps = answer.split("\n")
    steps = answer.split(". ") if len(steps) < 2 else [*steps[:-2], steps[-2] + "\n" + steps[-1]]
    yield from ((row["question"] + " " + "".join(steps[:i]), step) for i, step in enumerate(steps) if step.strip())


def published(tokenizer: Any, texts: list[tuple[str, str]], form: str) -> dict[str, torch.Tensor]:
    """The tensors of one batch under their published names."""
    end, separator = tokenizer.eos_token_id, tokenizer.sep_token_id
    pairs = []
    for context, step in texts:
        ids = tokenizer(context).input_ids
        pairs.append((ids[:256] if form == "gsm8k_aug" else ids[-256:], tokenizer(step).input_ids[:256]))
    rows = [torch.tensor([*context, separator, *step, end]) for context, step in pairs]
    starts = [len(context) + 1 for context, _ in pairs]
    scored = [torch.tensor([0] * start + [1] * (len(row) - start)) for row, start in zip(rows, starts, strict=True)]
    heads = [row[:start] for row, start in zip(rows, starts, strict=True)]

    def padded(sequences: list[torch.Tensor], value: int) -> torch.Tensor:
        return pad_sequence(sequences, batch_first=True, padding_value=value)

    return {
        "input_ids": padded(rows, end), "attention_mask": padded([torch.ones_like(row) for row in rows], 0),
        "loss_mask": padded(scored, 0), "hints_sep_ids": padded(heads, end),
        "hints_sep_attention_masks": padded([torch.ones_like(head) for head in heads], 0),
        "sep_pos": torch.tensor(starts), "val_len": torch.tensor([len(row) for row in rows]),
    }  # fmt: skip


def ours(store: StepStore, steps: range) -> dict[str, torch.Tensor]:
    batch = store.batch(steps)
    context = batch.context()
    return {
        "input_ids": batch.ids, "attention_mask": batch.real.long(), "loss_mask": batch.predicted.long(),
        "hints_sep_ids": torch.where(context.real, context.ids, store.end), "hints_sep_attention_masks": context.real.long(),
        "sep_pos": batch.start, "val_len": batch.length,
    }  # fmt: skip


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("form", list(IRREGULAR))
def test_batches_of_irregular_solutions_are_the_published_ones(tmp_path: Path, form: str, bos: bool) -> None:
    folder = save_tokenizer(tmp_path / "model", bos=bos)
    source = write_lines(tmp_path / "train.json", IRREGULAR[form])
    rules = StepRules(format=form, double_bos=bos)
    facts = step_cache(source=source, tokenizer=folder, rules=rules, folder=tmp_path / "cache")
    tokenizer = step_tokenizer(folder).tokenizer
    expected = [sample for row in IRREGULAR[form] for sample in strings(form, row)]
    assert facts["steps"] == len(expected)
    assert facts["cut_contexts"] > 0 < facts["cut_steps"]
    with StepStore(tmp_path / "cache/steps.h5") as store:
        for fed in batches(store, torch.arange(len(expected)).numpy(), batch_size=4, seed=0, epoch=0, shuffle=False):
            begin = 4 * fed.number
            right = published(tokenizer, expected[begin : begin + 4], form)
            found = ours(store, range(begin, min(begin + 4, len(expected))))
            assert {name: tensor.tolist() for name, tensor in found.items()} == {name: t.tolist() for name, t in right.items()}
            assert torch.equal(fed.batch.ids, right["input_ids"])


@pytest.mark.parametrize("form", list(IRREGULAR))
def test_one_bos_is_the_published_sequence_without_the_one_before_the_step(tmp_path: Path, form: str) -> None:
    folder = save_tokenizer(tmp_path / "model", bos=True)
    source = write_lines(tmp_path / "train.json", IRREGULAR[form])
    step_cache(source=source, tokenizer=folder, rules=StepRules(format=form), folder=tmp_path / "cache")
    tokenizer = step_tokenizer(folder).tokenizer
    bos = tokenizer.convert_tokens_to_ids(BOS)
    expected = [sample for row in IRREGULAR[form] for sample in strings(form, row)]
    with StepStore(tmp_path / "cache/steps.h5") as store:
        batch = store.batch(range(len(store)))
        assert (batch.ids[:, 0] == bos).all()
        for row, (context, step) in enumerate(expected):
            ids = batch.ids[row, : batch.length[row]].tolist()
            assert ids.count(bos) == 1
            assert len(ids[: batch.start[row]]) <= 257
            plain = tokenizer(step, add_special_tokens=False).input_ids
            assert ids[batch.start[row] :] == [*plain[:256], tokenizer.eos_token_id]
            whole = tokenizer(context, add_special_tokens=False).input_ids
            assert ids[1 : batch.start[row] - 1] == (whole[:255] if form == "gsm8k_aug" else whole[-255:])


def test_left_out_blanks_and_published_spaces_of_numina(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "model")
    rows = [{"question": "Q?", "answer": ["We have 1. Then 2.\nSo x = 5. It\nis", "Next: $$y$$"]}]
    source = write_lines(tmp_path / "train.json", rows)
    tokenizer = step_tokenizer(folder).tokenizer
    texts = {
        False: ["We have 1. Then 2.", "So x = 5. It is", "Next: $$y$$"],
        True: ["We have 1.Then 2.", "So x = 5.Itis", "Next: $$y$$"],
    }
    for glued, steps in texts.items():
        cache = tmp_path / f"cache_{glued}"
        step_cache(source=source, tokenizer=folder, rules=StepRules(format="numina", numina_join=glued), folder=cache)
        with StepStore(cache / "steps.h5") as store:
            assert [tokenizer.decode(store.step_ids(sample)) for sample in range(len(store))] == steps
            assert tokenizer.decode(store.context_ids(2)) == f"Q? {steps[0]} {steps[1]} "
            assert json.loads((cache / "manifest.json").read_text())["rules"]["numina_join"] is glued
