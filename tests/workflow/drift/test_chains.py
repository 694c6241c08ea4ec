"""Chains beside `real`: what each starts from, what it tells, and when two of them may not be compared."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter
from workflow.formats.drift import needed_pairs, own_pair
from workflow.formats.files import file_digest
from workflow.formats.masks import plan_rows

CHAINS = ["real", "null", "cold", "repeat"]


def four(world: Callable, **settings: object):
    planted = world(angle=0.4, **settings)
    planted.chains = CHAINS
    return planted


def read(tables: dict[str, Path], name: str, **where: object) -> pd.DataFrame:
    table = pd.read_parquet(tables[name])
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def test_control_chains_are_measured_on_base_and_on_their_own_stage():
    names = {pair.name for pair in needed_pairs(["base", "a", "b"], CHAINS) if pair.chain != "real"}
    assert names == {f"{chain}/{stage}/{store}" for chain in CHAINS[1:] for stage in "ab" for store in ("base", stage)}
    assert [own_pair(chain, "a").store_stage for chain in CHAINS] == ["a", "base", "a", "a"]


def test_floors_and_gap_are_differences_of_the_transfer_table(world):
    planted = four(world).write()
    tables = planted.tabulate(planted.measure(), replicates=200)
    for sinks in ("dropped", "included"):
        n = read(tables, "transfer", sinks=sinks).set_index(["chain", "sae_stage", "store_stage"])["nmse"]
        for _, row in read(tables, "decomposition", sinks=sinks).iterrows():
            t = row["stage"]
            again = n["repeat", t, t] - n["real", t, t]
            assert row["repeat_floor"] == pytest.approx(abs(again), abs=1e-12)
            on_base = n["repeat", t, "base"] - n["real", t, "base"]
            assert row["repeat_shift_floor"] == pytest.approx(abs(again - on_base), abs=1e-12)
            assert row["cold_gap"] == pytest.approx(n["cold", t, t] - n["real", t, t], abs=1e-12)
            for name in ("repeat_floor", "repeat_shift_floor", "cold_gap"):
                assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
                assert row[f"anchored_{name}"] == pytest.approx(row[name], rel=0.2, abs=1e-4)
    assert read(tables, "decomposition")["comparison_refused"].isna().all()


def shuffled(manifest: Path) -> None:
    """The latents of an SAE in another order, as one that was trained afresh has them."""
    path = manifest.with_name("sae.safetensors")
    tensors = load_file(path)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    save_file({name: tensor[order] if tensor.shape[:1] == (16,) and name[:2] != "b_" else tensor
               for name, tensor in tensors.items()}, path)  # fmt: skip
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(facts | {"digest": file_digest(path)}))


def test_control_chains_are_matched_with_the_latents_of_real_whatever_their_order(world):
    planted = four(world).write()
    for manifest in planted.saes:
        if "cold" in manifest.parts:
            shuffled(manifest)
    saes = pd.read_parquet(planted.measure() / "dictionary.parquet").set_index(["chain", "stage"])
    own = ["real_mmcs", "real_mmcs_back", "real_matched_cosine"]
    assert saes.loc["real", [*own, "real_matched"]].isna().all(axis=None)
    for hop, stage in enumerate(("ppo_0008", "ppo_0016"), start=1):
        assert (saes.loc["cold", stage][own] > 0.99).all()
        assert saes.loc["cold", stage]["aligned_cosine":"matched_cosine"].isna().all(), "its indices are nobody's"
        assert (saes.loc["repeat", stage][own] > 0.99).all()
        turned = (10 + 6 * np.cos(0.4 * hop)) / 16
        assert saes.loc["null", stage]["real_matched_cosine"] == pytest.approx(turned, abs=0.01)
        assert (saes.loc[(["null", "cold", "repeat"], stage), "real_matched"] == 16).all()


def test_a_planted_change_lies_far_above_the_floor_and_an_unturned_fresh_sae_does_better(world):
    planted = four(world).write()
    rows = read(planted.tabulate(planted.measure(), replicates=200), "decomposition", sinks="dropped")
    assert (rows["shift"] > 10 * rows["repeat_shift_floor_high"]).all()
    assert (rows["adaptation"].abs() > 10 * rows["repeat_floor_high"]).all()
    assert (rows["cold_gap_high"] < 0).all()


def test_chains_that_are_not_in_the_study_tell_nothing(tabulated):
    rows = read(tabulated[0.4], "decomposition")
    for name in ("repeat_floor", "repeat_shift_floor_high", "cold_gap", "anchored_cold_gap"):
        assert rows[name].isna().all()


@pytest.mark.parametrize(
    ("chain", "parent", "message"),
    [
        ("cold", "f" * 64, "chain cold must start fresh; it started from ffffffffffff"),
        ("repeat", "f" * 64, r"chain repeat must start from that of real/ppo_0008, digest .*; it started from ffffffffffff"),
        ("real", None, r"chain real must start from that of real/base, digest .*; it started fresh\. Train the chain real again"),
    ],
)
def test_an_sae_that_started_elsewhere_than_its_chain_says_is_refused(world, chain, parent, message):
    planted = four(world)
    planted.parents[chain, "ppo_0008"] = parent
    planted.write()
    with pytest.raises(ConfigError, match=message):
        planted.measure()


def test_two_base_saes_are_refused(world):
    planted, other = world().write(), world(directions_seed=1).write()
    planted.saes.append(other.saes[0])
    with pytest.raises(ConfigError, match="All chains must share one SAE at real/base; two were given"):
        planted.measure()


def test_runs_that_do_not_share_the_base_sae_are_refused(world):
    planted, other = world().write(), world(directions_seed=1).write()
    with pytest.raises(ConfigError, match=r"All runs and text sets must share one base SAE per kind, seed and layer; .* has"):
        planted.tabulate(planted.measure(), other.measure(), replicates=40)


@pytest.mark.parametrize(
    ("chain", "hidden", "left"),
    [
        ("null", ("null_refit", "adaptation", "contrast", "anchored_adaptation"), ("shift", "refit", "repeat_floor", "cold_gap")),
        ("cold", ("cold_gap",), ("adaptation", "repeat_floor")),
        ("repeat", ("repeat_floor", "repeat_shift_floor"), ("adaptation", "cold_gap")),
    ],
)
def test_a_chain_of_another_l0_is_never_compared(world, chain, hidden, left):
    planted = four(world)
    planted.k[chain] = 5
    planted.write()
    tables = planted.tabulate(planted.measure(), replicates=50)
    rows = read(tables, "decomposition")
    for name in hidden:
        assert rows[name].isna().all()
        assert rows[f"{name}_low"].isna().all()
    for name in left:
        assert rows[name].notna().all()
    reason = rows["comparison_refused"].iloc[0]
    assert reason.startswith(f"l0 is 5.0 in the chain {chain} and 3.0 in real, beyond the factor 1.25")
    rates = read(tables, "quality", chain="real", stage="ppo_0016", sinks="dropped")["rate_refused"]
    assert (rates.iloc[0] == reason) if chain == "null" else rates.isna().all()


def test_a_store_of_too_many_sinks_is_refused(world):
    planted = world()
    planted.x["ppo_0008"][[number for number in range(280) if number % 7 in (1, 2)]] *= 1e3
    planted.write()
    with pytest.raises(ConfigError, match=r"drift\.max_sink_share = 0\.2 .*of stage base 0\.286 do not pass.*max_norm_multiple"):
        planted.measure()
    rows = plan_rows({"base": [planted.stores[0]]}, RowFilter(1, 10.0), paired=True, max_sink_share=0.2)
    assert 1 - rows.stages["base"].keep.mean() == pytest.approx(1 / 7)
