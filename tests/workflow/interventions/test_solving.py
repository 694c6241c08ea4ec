"""Problems solved with other rows at a layer: against decoding by hand without a cache, and with known answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small_scene import KEEP, LAYER, Scene
from torch import Tensor

from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter, Store
from workflow.formats.manifest import read_manifest
from workflow.formats.saes import read_sae
from workflow.formats.traces import Trace, read_traces
from workflow.interventions import solving
from workflow.interventions.decoding_rows import RowsReplaced
from workflow.interventions.solving import Solver, Writing, prompts, solve_spliced
from workflow.interventions.splicing import SpliceCell
from workflow.language_model import blocks, load_model

TOKENS = 9
WRITING = Writing(problems=6, max_new_tokens=TOKENS, batch=4)


def solved(scene: Scene, out: str, **changes: Any) -> Path:
    """Solve; the table of answers."""
    folder = scene.folder / out
    usual: dict[str, Any] = {
        "traces": scene.folder / "traces.parquet", "traces_manifest": scene.folder / "manifest.json", "model": scene.model,
        "shards": scene.shards, "saes": scene.saes, "sums": folder / "sums.parquet", "manifest": folder / "manifest.json",
        "cell": SpliceCell("strict", "onpolicy", "topk", 0, "ppo_0001", LAYER), "keep": KEEP, "ablated": ["mean", "zero"],
        "writing": WRITING, "device": "cpu", "dtype": "float32", "key": "k",
    }  # fmt: skip
    solve_spliced(**(usual | changes))
    return folder / "sums.parquet"


def by_hand(model: Any, prompt: list[int], replace: Callable[[Tensor], Tensor], keep: RowFilter, median: float) -> list[int]:
    """One prompt at a time, the whole text read anew for every token."""
    ids = list(prompt)

    def hook(_: object, __: object, output: Tensor) -> Tensor:
        chosen = (torch.arange(len(ids)) >= keep.skip_positions) & (output[0].norm(dim=1) <= keep.max_norm_multiple * median)
        changed = output.clone()
        changed[0, chosen] = replace(output[0, chosen])
        return changed

    handle = blocks(model)[LAYER].register_forward_hook(hook)
    with torch.inference_mode():
        for _ in range(TOKENS):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    handle.remove()
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def model(tiny_qwen2: Path) -> Any:
    return load_model(tiny_qwen2, torch.device("cpu"), torch.float32)


@pytest.fixture
def asked(scene: Scene) -> list[Trace]:
    return prompts(scene.folder / "traces.parquet", 6)


def solver(scene: Scene, model: Any, keep: RowFilter, median: float, batch: int = 4) -> Solver:
    return Solver(model, scene.model, LAYER, keep, median, WRITING._replace(batch=batch))


@pytest.mark.parametrize("keep", [KEEP, RowFilter(1, 0.99), RowFilter(9, 10.0)], ids=["all", "norms", "positions"])
@pytest.mark.parametrize("put", ["real", "half"])
def test_answers_are_those_of_decoding_by_hand_without_a_cache(
    scene: Scene, model: Any, asked: list[Trace], put: str, keep: RowFilter
) -> None:
    median = Store(scene.shards, keep=KEEP, splits=["test"]).median_norm
    sae = read_sae(scene.saes["real"]).model
    replace = {"real": lambda rows: sae(rows), "half": lambda rows: -0.5 * rows}[put]
    found = solver(scene, model, keep, median).write(asked, replace)
    plain = solver(scene, model, keep, median).write(asked, None)
    truth = [by_hand(model, one.token_ids[: one.prompt_tokens], replace, keep, median) for one in asked]
    for sampled, tokens in zip(found, truth, strict=True):
        assert sampled.tokens == tokens[: len(sampled.tokens)]
        assert len(sampled.tokens) == TOKENS or sampled.finished
    assert [one.tokens for one in found] != [one.tokens for one in plain]


def test_padding_and_batches_change_no_answer(scene: Scene, model: Any, asked: list[Trace]) -> None:
    def doubled(rows: Tensor) -> Tensor:
        return 2 * rows

    alone, together = (solver(scene, model, KEEP, 10.0, batch).write(asked, doubled) for batch in (1, 6))
    assert [one.tokens for one in alone] == [one.tokens for one in together]


def test_a_hook_that_puts_rows_back_changes_nothing_and_is_gone_afterwards(scene: Scene, model: Any, asked: list[Trace]) -> None:
    solver(scene, model, KEEP, 10.0).must_change_nothing(asked)
    with pytest.raises(RuntimeError, match="stop"), RowsReplaced(model, LAYER, lambda rows: rows, KEEP, 10.0):
        raise RuntimeError("stop")
    assert not model._forward_pre_hooks
    assert not blocks(model)[LAYER]._forward_hooks


def test_a_hook_that_does_change_something_is_refused(
    scene: Scene, model: Any, asked: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Careless(RowsReplaced):
        def _put(self, module: Any, inputs: object, output: Any) -> Any:
            return -output

    monkeypatch.setattr(solving, "RowsReplaced", Careless)
    with pytest.raises(ConfigError, match="must write the same tokens"):
        solver(scene, model, KEEP, 10.0).must_change_nothing(asked)


def test_every_problem_is_answered_with_everything_and_graded(scene: Scene, asked: list[Trace]) -> None:
    path = solved(scene, "answers")
    table = pd.read_parquet(path)
    assert set(table["put"]) == {"nothing", "real", "frozen", "null", "mean", "zero"}
    for _, rows in table.groupby("put"):
        assert list(rows["problem"]) == [one.problem for one in asked]
    assert max(table["tokens"]) <= TOKENS
    facts = read_manifest(path.with_name("manifest.json"), "solving")
    assert facts["problems"] == [one.problem for one in asked]
    assert facts["max_new_tokens"] == TOKENS


def test_right_answers_are_seen_to_be_right(scene: Scene, model: Any, asked: list[Trace]) -> None:
    one = solver(scene, model, KEEP, 10.0)
    said = [row["response"] for row in one.answers(asked, "nothing", None)]
    known = [trace._replace(gold=text.split("\n")[-1].strip() or "?") for trace, text in zip(asked, said, strict=True)]
    graded = list(one.answers(known, "nothing", None))
    assert [row["response"] for row in graded] == said
    assert any(row["flexible"] for row in graded)
    assert not any(row["flexible"] for row in one.answers([trace._replace(gold="-98765") for trace in asked], "nothing", None))


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Writing dies at the third intervention; what was begun."""
    begun: list[str] = []
    plain = Solver.answers

    def answers(self: Solver, asked: Any, put: str, replace: Any) -> Any:
        begun.append(put)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return plain(self, asked, put, replace)

    monkeypatch.setattr(Solver, "answers", answers)
    return begun


def test_a_killed_job_goes_on_to_the_same_bytes(scene: Scene, killed: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        solved(scene, "solving_killed")
    assert killed == ["nothing", "real", "frozen"]
    again = solved(scene, "solving_killed")
    assert killed[3:] == ["frozen", "null", "mean", "zero"]
    whole = solved(scene, "whole")
    for name in ("sums.parquet", "manifest.json"):
        assert again.with_name(name).read_bytes() == whole.with_name(name).read_bytes()
    assert not (again.parent / ".partial").exists()


def test_one_problem_is_refused(scene: Scene) -> None:
    with pytest.raises(ConfigError, match="At least 2 problems must be solved"):
        prompts(scene.folder / "traces.parquet", 1)
    assert len({trace.problem for trace in read_traces(scene.folder / "traces.parquet", ["test"])}) == 8
