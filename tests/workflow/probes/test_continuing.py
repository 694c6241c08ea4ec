"""Values of steps: shares of continuations that are right, the same after a kill and whatever is sampled together."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_pool import Pool, without_steps, write_pool
from tiny_policy import teach

from workflow.formats.traces import read_traces
from workflow.language_model import load_tokenizer
from workflow.probes import continuing
from workflow.probes.continuing import Continuing, continue_steps
from workflow.trace_steps import StepCutter


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, tiny_qwen2: Path) -> Pool:
    """A policy that writes `#### 7` or `#### 5` behind prompts of its own, and what it is said to have written."""
    folder = tmp_path_factory.mktemp("pool")
    return write_pool(folder, teach(tiny_qwen2, folder / "taught", updates=20), written=("3 * 4 = 12\n#### 11", "so\nwe\n#### 7"))


def values(pool: Pool, out: Path, **changes: Any) -> pd.DataFrame:
    settings = Continuing(8, 1.0, 1.0, 6, 0, 16, "transformers")._replace(**changes)
    continue_steps(
        traces=pool.traces, traces_manifest=pool.manifest, model=pool.model, values=out / "labels.parquet",
        manifest=out / "manifest.json", settings=settings, device="cpu", dtype="float32", key="k",
    )  # fmt: skip
    return pd.read_parquet(out / "labels.parquet")


def test_every_step_has_a_value_and_the_last_that_of_its_response(pool: Pool, tmp_path: Path) -> None:
    table, traces = values(pool, tmp_path), read_traces(pool.traces)
    cut = StepCutter(load_tokenizer(pool.model))
    assert list(zip(table["trace"], table["step"], strict=True)) == [(t.trace, s.number) for t in traces for s in cut(t)]
    last = table.groupby("trace").tail(1).set_index("trace")
    assert last["continuations"].eq(0).all()
    assert last["value"].to_dict() == {trace.trace: float(trace.strict) for trace in traces}
    others = table.drop(table.groupby("trace").tail(1).index)
    assert (others["continuations"] == 8).all()
    assert others["value"].between(0, 1).all()
    assert np.allclose(others["value"] * 8, (others["value"] * 8).round())


def test_the_value_is_the_share_of_right_continuations(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is judged is counted: with a rule that every second text fulfils, the value is a half."""
    seen: list[str] = []

    def every_second(text: str, _: str) -> bool:
        seen.append(text)
        return len(seen) % 2 == 0

    monkeypatch.setattr(continuing, "strict", every_second)
    table = values(pool, tmp_path)
    assert set(table.loc[table["continuations"] > 0, "value"]) == {0.5}
    assert len(seen) == table["continuations"].sum()
    assert all(text.startswith(("3 * 4 = 12", "so")) for text in seen), "what is judged begins with the steps"


def test_batches_and_windows_change_nothing_and_seeds_do(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = values(pool, tmp_path / "a", continuations=4, temperature=2.0)
    assert values(pool, tmp_path / "b", continuations=4, temperature=2.0, batch=5).equals(one)
    monkeypatch.setattr(continuing, "WINDOW", 5)
    assert values(pool, tmp_path / "c", continuations=4, temperature=2.0).equals(one)


def test_a_killed_job_goes_on_to_the_same_bytes(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuing, "WINDOW", 4)
    values(pool, tmp_path / "a")
    built, asked = continuing.build_engine, []

    class Dying:
        """The real engine until it dies."""

        name = "transformers"

        def __init__(self, engine: Any, allowed: int) -> None:
            self.engine, self.allowed = engine, allowed

        def sample(self, prompts: Any, *others: Any) -> Any:
            asked.append(len(prompts))
            if len(asked) == self.allowed:
                raise KeyboardInterrupt
            return self.engine.sample(prompts, *others)

    def dying(*arguments: Any) -> Any:
        engine, facts = built(*arguments)
        return Dying(engine, 4), facts

    monkeypatch.setattr(continuing, "build_engine", dying)
    with pytest.raises(KeyboardInterrupt):
        values(pool, tmp_path / "b")
    values(pool, tmp_path / "b")
    wanted = pd.read_parquet(tmp_path / "a" / "labels.parquet")["continuations"].sum()
    assert sum(asked) - asked[3] == wanted, "what was finished is not sampled again"
    for name in ("labels.parquet", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not (tmp_path / "b" / ".partial").exists()


def test_a_pool_without_steps_has_no_values(pool: Pool, tmp_path: Path) -> None:
    assert values(without_steps(pool, tmp_path / "pool"), tmp_path).empty
