"""Measures before any SAE: what the table says is what rows in memory give, with known answers where a change is planted."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from sae_core.metrics.representation import cka, cross_moments, moments, procrustes
from workflow.config.joint import RepresentationConfig
from workflow.config.section import ConfigError
from workflow.drift.representation_tables import representation_table
from workflow.drift.representing import Scope, measure_representation
from workflow.formats.activations import RowFilter
from workflow.formats.drift_columns import schema
from workflow.formats.joint_columns import Representation

SETTINGS = RepresentationConfig(variance_shares=[0.5, 0.99], span_directions=[4, 99], jackknife_groups=8)


def measure(world: Any, name: str = "alike", **changes: Any) -> Path:
    """Measure a planted world; the folder of the result."""
    out = world.folder / name
    scope = Scope("strict", world.text, 5, list(world.STAGES), RowFilter(1, 10.0), SETTINGS)._replace(**changes)
    measure_representation(
        stores=world.stores, saes=world.saes[:1], sums=out / "sums.safetensors", manifest=out / "manifest.json", scope=scope,
        device="cpu", key="key",
    )  # fmt: skip
    return out


def tabulated(world: Any) -> pd.DataFrame:
    """The table of a planted world."""
    out = measure(world)
    representation_table(
        sums=[out / "sums.safetensors"], manifests=[out / "manifest.json"], policies=world.policies,
        parquet=out / "table.parquet", csv=out / "table.csv", manifest=out / "table.json", confidence=0.95,
    )  # fmt: skip
    assert pq.read_schema(out / "table.parquet").equals(schema(Representation))
    return pd.read_parquet(out / "table.parquet")


def one(table: pd.DataFrame, measure: str, stage: str = "ppo_0016", against: str = "base", at: float | None = None) -> pd.Series:
    rows = table[(table.measure == measure) & (table.stage == stage) & (table.against == against)]
    rows = rows if at is None else rows[rows["at"] == at]
    assert len(rows) == 1
    return rows.iloc[0]


def kept(world: Any, stage: str) -> torch.Tensor:
    """Rows of the split test behind position 0, in float64."""
    rows = world.rows.to_pandas()
    chosen = (rows["split"] == "test") & (rows["pos"] > 0)
    return world.x[stage][torch.tensor(chosen.to_numpy())].double()


def test_every_pair_is_against_base_or_the_stage_before(world: Callable[..., Any]) -> None:
    table = tabulated(world(angle=0.3).write())
    pairs = set(zip(table.against, table.stage, strict=True))
    assert pairs == {("base", "ppo_0008"), ("base", "ppo_0016"), ("ppo_0008", "ppo_0016")}
    assert set(table[table.stage == "ppo_0016"].kl) == {0.16}
    assert table[table.stage == "ppo_0008"].kl.isna().all()


def test_the_numbers_are_those_of_rows_in_memory(world: Callable[..., Any]) -> None:
    planted = world(angle=0.3).write()
    table = tabulated(planted)
    a, b = kept(planted, "base"), kept(planted, "ppo_0016")
    assert set(table.rows) == {len(a)}
    centre = a.mean(0)
    sums = moments(a, centre), moments(b, centre), cross_moments(a, b, centre, centre)
    delta = b - a
    expected = {
        "cka": cka(*sums), "procrustes": procrustes(*sums).normalised,
        "change_size": delta.square().sum() / (a - centre).square().sum(),
        "mean_shift_share": len(a) * delta.mean(0).square().sum() / delta.square().sum(),
    }  # fmt: skip
    for measure, value in expected.items():
        assert one(table, measure).value == pytest.approx(float(value), rel=1e-6), measure


def test_a_rigid_rotation_is_a_change_that_similarity_does_not_see(world: Callable[..., Any]) -> None:
    still, turned = (tabulated(world(angle=angle).write()) for angle in (0.0, 0.4))
    for blind in ("cka", "procrustes", "participation_ratio"):
        assert one(turned, blind).value == pytest.approx(one(still, blind).value, rel=0.05), blind
    assert one(turned, "subspace_angle_largest", at=0.5).value > one(still, "subspace_angle_largest", at=0.5).value
    assert one(turned, "change_size").low > one(still, "change_size").high
    assert one(turned, "change_size").value > one(turned, "change_size", "ppo_0008").value
    # all 16 directions span everything
    assert one(turned, "inside_share", at=16).value == pytest.approx(1)
    assert one(turned, "inside_isotropic", at=4).value == 4 / 16
    # without a change but noise, its share in any span is that of an isotropic change
    interval = one(still, "inside_share", at=4)
    assert interval.low - 0.02 < 4 / 16 < interval.high + 0.02


def test_a_shift_of_all_rows_is_all_mean_and_no_loss_of_similarity(world: Callable[..., Any]) -> None:
    planted = world()
    planted.x = {stage: planted.x["base"] + shift for stage, shift in zip(planted.x, (0.0, 0.3, 0.7), strict=True)}
    table = tabulated(planted.write())
    assert one(table, "mean_shift_share").value == pytest.approx(1, abs=1e-4)
    assert one(table, "cka").value == pytest.approx(1, abs=1e-5)
    assert one(table, "procrustes").value == pytest.approx(0, abs=1e-5)
    assert one(table, "subspace_angle_largest", at=0.5).value == pytest.approx(0, abs=1e-3)
    assert one(table, "participation_change").value == pytest.approx(0, abs=1e-3)


def test_equal_stages_have_no_share_of_change(world: Callable[..., Any]) -> None:
    planted = world()
    planted.x = dict.fromkeys(planted.x, planted.x["base"])
    table = tabulated(planted.write())
    assert one(table, "change_size").value == 0
    assert math.isnan(one(table, "mean_shift_share").value)
    assert math.isnan(one(table, "inside_share", at=4).low)


def test_a_killed_measurement_goes_on_to_the_same_bytes(world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    planted = world(angle=0.2).write()
    whole = measure(planted, "whole")
    from workflow.drift import representing

    real, calls = representing.measured_pair, []

    def dying(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(representing, "measured_pair", dying)
    with pytest.raises(KeyboardInterrupt):
        measure(planted, "killed")
    killed = measure(planted, "killed")
    assert len(calls) == 4, "three pairs, of which the one that was cut off was begun twice"
    for name in ("sums.safetensors", "manifest.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not (killed / ".partial").exists()


def test_unpaired_rows_are_refused(world: Callable[..., Any]) -> None:
    planted = world()
    planted.read_another_token("ppo_0016")
    with pytest.raises(ConfigError, match="unpaired prompts between stages"):
        measure(planted.write())


def test_one_prompt_has_no_interval(world: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="at least 2 prompts"):
        measure(world(prompts=1).write())


def test_stages_of_two_widths_are_refused(world: Callable[..., Any]) -> None:
    planted = world()
    planted.x["ppo_0016"] = planted.x["ppo_0016"][:, :8]
    with pytest.raises(ConfigError, match="one hook point and width"):
        measure(planted.write())


def test_a_text_of_each_stages_own_is_refused(world: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="rows that all stages share"):
        measure(world(text="onpolicy").write())
