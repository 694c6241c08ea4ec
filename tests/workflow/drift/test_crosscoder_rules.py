"""One dictionary for all stages, from stores to the table: planted births, resuming, no problem on both sides, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from workflow.config.drift import DriftConfig
from workflow.config.joint import CrosscoderSettings
from workflow.config.section import ConfigError
from workflow.drift import crosscoding
from workflow.drift.crosscoder_counts import measure_crosscoder
from workflow.drift.crosscoder_tables import crosscoder_table
from workflow.drift.crosscoding import Scope, train_crosscoder
from workflow.drift.joint_store import open_joint_rows
from workflow.formats.activations import RowFilter
from workflow.formats.crosscoders import read_crosscoder
from workflow.formats.drift_columns import schema
from workflow.formats.joint_columns import CrosscoderLatent, CrosscoderStage

KEEP = RowFilter(1, 10.0)
SETTINGS = CrosscoderSettings(k=3, batch=64, epochs=30, lr=0.02, expansion=2)
CLASSES = ("shared", "rotated", "new", "gone")


def train(world: Any, name: str = "crosscoder", save_seconds: float = 1e9, **changes: Any) -> Path:
    """Train on a planted world; the folder of the result."""
    out = world.folder / name
    settings = SETTINGS.model_copy(update=changes)
    train_crosscoder(
        stores=world.stores, crosscoder=out / "crosscoder.safetensors", history=out / "history.csv", manifest=out / "manifest.json",
        scope=Scope("strict", world.text, 0, 5, list(world.STAGES), KEEP, settings), device="cpu", key="key", backend="torch",
        save_seconds=save_seconds,
    )  # fmt: skip
    return out


def measure(world: Any, out: Path, **changes: Any) -> pd.DataFrame:
    """The table of one crosscoder."""
    drift = DriftConfig(replicates=100, min_firings=5, min_prompts=3, crosscoder=SETTINGS)
    measure_crosscoder(
        crosscoder=out / "manifest.json", stores=world.stores, stages=out / "stages.parquet", latents=out / "latents.parquet",
        manifest=out / "measured.json", keep=KEEP, drift=drift.model_copy(update=changes), device="cpu",
    )  # fmt: skip
    crosscoder_table(
        stages=[out / "stages.parquet"], policies=world.policies, parquet=out / "table.parquet", csv=out / "table.csv",
        manifest=out / "table.json",
    )  # fmt: skip
    return pd.read_parquet(out / "table.parquet").set_index("stage")


def with_a_birth(world: Callable[..., Any]) -> Any:
    """A world whose last stage has two directions that base and the first stage lack, and lacks two that they have."""
    planted = world(prompts=120)
    signal = (planted.x["base"].double() - 0.5) @ torch.tensor(planted.directions).T
    for stage, absent in (("base", (14, 15)), ("ppo_0008", (14, 15)), ("ppo_0016", (12, 13))):
        there = torch.tensor(planted.directions[list(absent)])
        planted.x[stage] = planted.x[stage] - (signal[:, list(absent)] @ there).float()
    return planted.write()


@pytest.fixture(scope="module")
def born(world_class: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    planted = with_a_birth(lambda **settings: world_class(tmp_path_factory.mktemp("born"), **settings))
    return planted, train(planted)


def test_planted_births_and_deaths_stand_in_the_table(born: tuple[Any, Path]) -> None:
    table = measure(*born)
    before, after = table.loc["ppo_0008"], table.loc["ppo_0016"]
    assert after.new_confirmed >= 2
    assert after.gone_confirmed >= 2
    assert after.new_confirmed_high >= after.new_confirmed >= after.new_confirmed_low >= 1
    assert before.new + before.gone == 0
    for row in (before, after):
        assert sum(row[name] for name in CLASSES) == row.alive
        assert row.nmse < 0.35
    assert after.changed_share == (after.rotated + after.new_confirmed + after.gone_confirmed) / after.alive
    assert after.kl == 0.16
    assert np.isnan(before.kl)


def test_the_latents_tell_what_the_counts_are_made_of(born: tuple[Any, Path]) -> None:
    table, latents = measure(*born), pd.read_parquet(born[1] / "latents.parquet")
    assert pq.read_schema(born[1] / "latents.parquet").equals(schema(CrosscoderLatent))
    assert pq.read_schema(born[1] / "table.parquet").equals(schema(CrosscoderStage))
    for stage, rows in latents.groupby("stage"):
        counts = rows[rows.alive].of.value_counts()
        assert all(counts.get(name, 0) == table.loc[stage, name] for name in CLASSES)
    new = latents[(latents.stage == "ppo_0016") & (latents.of == "new") & latents.alive]
    directions = torch.nn.functional.normalize(
        read_crosscoder(born[1] / "manifest.json").model.decoders()[new.latent.tolist(), 2], dim=1
    )
    cosines = directions.double() @ torch.tensor(born[0].directions).T
    assert set(cosines.argmax(1).tolist()) == {14, 15}


def test_no_problem_is_trained_on_and_measured(born: tuple[Any, Path]) -> None:
    planted, out = born
    shards = {stage: [path] for (stage, _), path in zip(planted.STAGES, planted.stores, strict=True)}
    rows = open_joint_rows(shards, KEEP, 0.5)
    trained, measured = (set(store.rows["problem"]) for store in (rows.train, rows.held_out))
    assert not trained & measured
    assert len(measured) == 60
    assert "q000000000000" in trained, "the split val is trained on"
    assert sorted(measured) == rows.problems == read_crosscoder(out / "manifest.json").facts["problems"]
    whole = torch.cat([planted.x[stage] for stage in shards], 1)
    frame = planted.rows.to_pandas()
    chosen = (frame["problem"].isin(measured) & (frame["pos"] > 0)).to_numpy().copy()
    assert torch.equal(rows.held_out.read(), whole[torch.from_numpy(chosen)])
    assert [rows.problems[place] for place in rows.prompt.tolist()] == list(frame["problem"][chosen])


def test_equal_stages_share_every_latent(world: Callable[..., Any]) -> None:
    planted = world(prompts=60)
    planted.x = dict.fromkeys(planted.x, planted.x["base"])
    planted.write()
    table = measure(planted, train(planted, epochs=20))
    assert (table.shared == table.alive).all()
    assert (table.alive > 5).all()
    assert (table.changed_share == 0).all()


def test_a_killed_training_goes_on_to_the_same_bytes(world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    planted = world(angle=0.2).write()
    whole = train(planted, "whole", epochs=4)

    class Killed(crosscoding.Progress):
        def advance(self, units: int = 1, note: str = "") -> None:
            super().advance(units, note)
            if self._done == 9:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(crosscoding, "Progress", Killed)
        with pytest.raises(KeyboardInterrupt):
            train(planted, "killed", save_seconds=0, epochs=4)
    assert list((planted.folder / "killed/.partial").glob("*/trainer.pt"))
    started: list[int] = []
    monkeypatch.setattr(crosscoding, "Progress", lambda *arguments, done: started.append(done) or Killed(*arguments, done=99))
    killed = train(planted, "killed", epochs=4)
    assert started == [8]
    for name in ("crosscoder.safetensors", "history.csv", "manifest.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not (killed / ".partial").exists()


def test_unpaired_rows_are_refused(world: Callable[..., Any]) -> None:
    planted = world()
    planted.read_another_token("ppo_0016")
    with pytest.raises(ConfigError, match="unpaired prompts between stages"):
        train(planted.write())


def test_stages_of_two_widths_are_refused(world: Callable[..., Any]) -> None:
    planted = world()
    planted.x["ppo_0016"] = planted.x["ppo_0016"][:, :8]
    with pytest.raises(ConfigError, match="one hook point and width"):
        train(planted.write())


@pytest.mark.parametrize("prompts", [1, 2])
def test_too_few_problems_to_divide_are_refused(world: Callable[..., Any], prompts: int) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        train(world(prompts=prompts).write())


@pytest.mark.parametrize(("changes", "said"), [({"batch": 9999}, "drift.crosscoder.batch"), ({"k": 33}, "at most d_sae = 32")])
def test_settings_that_do_not_fit_are_refused(world: Callable[..., Any], changes: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train(world().write(), **changes)


def test_another_division_of_the_problems_is_refused(born: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from workflow.drift import crosscoder_counts

    planted, out = born
    monkeypatch.setattr(crosscoder_counts, "open_joint_rows", lambda shards, keep, share: open_joint_rows(shards, keep, 0.25))
    with pytest.raises(ConfigError, match="that it was kept from"):
        measure(planted, out)
