"""Measuring: sums are those of all rows at once, whatever the batches; paired stages share a mask; bad inputs are refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from sae_core.kernels.native.library import unavailable
from sae_core.metrics.reconstruction import nmse
from workflow.config.section import ConfigError
from workflow.drift import passes
from workflow.formats.activations import RowFilter, Store, kept_rows
from workflow.formats.drift import Pair, needed_pairs, read_drift_sums
from workflow.formats.drift_columns import schema
from workflow.formats.latent_columns import Latent
from workflow.formats.masks import open_store
from workflow.formats.parquet import read_table
from workflow.formats.saes import read_sae

KEEP = RowFilter(1, 10.0)
STAGES = ["base", "ppo_0008", "ppo_0016"]


def measured(folder):
    return read_drift_sums(folder / "sums.safetensors", folder / "manifest.json")


def test_real_needs_all_pairs_and_a_control_its_own_stage_and_base():
    names = [pair.name for pair in needed_pairs(["base", "a"], ["real", "null"])]
    assert names == ["real/base/base", "real/base/a", "real/a/base", "real/a/a", "null/a/base", "null/a/a"]


def test_sums_give_the_error_of_all_rows_at_once(world):
    planted = world(angle=0.4).write()
    result = measured(planted.measure())
    saes = {(facts["chain"], facts["stage"]): sae for sae, facts, *_ in map(read_sae, planted.saes)}
    assert set(result.pairs) == set(needed_pairs(STAGES, ["real", "null"]))
    for pair in result.pairs:
        store = Store([planted.stores[STAGES.index(pair.store_stage)]], KEEP, ["test"])
        x = store.read().double()
        with torch.no_grad():
            error = (x - saes[pair.chain, pair.sae_stage](x.float()).double()).square().sum()
        wanted = error / (x - x.mean(0)).square().sum()
        assert float(nmse(result.of(pair, "dropped"))) == pytest.approx(float(wanted), rel=1e-6)
        assert int(result.of(pair, "dropped").n.sum()) == len(store)


def test_rows_with_sinks_are_all_rows_of_the_split_and_only_of_it(world):
    planted = world().write()
    result = measured(planted.measure())
    everything = result.of(Pair("real", "base", "base"), "included")
    assert int(everything.n.sum()) == 40 * 2 * 7
    assert int(result.of(Pair("real", "base", "base"), "dropped").n.sum()) == 40 * 2 * 6
    assert result.manifest["problems"] == sorted(planted.problems)
    assert everything.n.tolist() == [14.0] * 40


def test_batches_change_no_number(world):
    planted = world(angle=0.4).write()
    few, many = (load_file(planted.measure(f"rows_{rows}", batch_rows=rows) / "sums.safetensors") for rows in (13, 4096))
    assert few.keys() == many.keys()
    for name in few:
        torch.testing.assert_close(few[name], many[name], rtol=1e-5, atol=1e-5)
    for table in ("latents", "dictionary", "lineage"):
        first, second = (pd.read_parquet(planted.folder / f"rows_{rows}" / f"{table}.parquet") for rows in (13, 4096))
        pd.testing.assert_frame_equal(first, second, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(unavailable("portable") is not None, reason="no compiled library")
def test_backends_tell_the_same(world):
    planted = world(angle=0.4).write()
    one, other = (planted.measure(backend, backend=backend) for backend in ("native", "torch"))
    first, second = (load_file(folder / "sums.safetensors") for folder in (one, other))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-4)
    for table in ("latents", "dictionary", "lineage"):
        mine, theirs = (pd.read_parquet(folder / f"{table}.parquet") for folder in (one, other))
        pd.testing.assert_frame_equal(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("what", "calls_in_all"), [("measure_store", 4), ("relate", 3)])
def test_a_killed_measurement_goes_on_and_gives_the_same_bytes(world, monkeypatch, what, calls_in_all):
    planted = world(angle=0.4).write()
    whole = planted.measure("whole")
    calls, real = [], getattr(passes, what)

    def killed_at_the_second(**arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(**arguments)

    monkeypatch.setattr(passes, what, killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        planted.measure("resumed")
    resumed = planted.measure("resumed")
    assert len(calls) == calls_in_all, "what the first pass through it had finished was not done again"
    names = ["dictionary.parquet", "latents.parquet", "lineage.parquet", "manifest.json", "sums.safetensors"]
    for name in names:
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()
    assert sorted(path.name for path in resumed.iterdir()) == names


def test_the_mask_is_that_of_the_store(world):
    planted = world().write()
    rows = open_store([planted.stores[0]]).rows
    kept = rows[kept_rows(rows, KEEP)[0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        kept[["trace", "pos", "norm"]].astype({"trace": str}),
        Store([planted.stores[0]], KEEP, ["test"]).rows[["trace", "pos", "norm"]].astype({"trace": str}),
    )


@pytest.mark.parametrize(("text", "stages_that_lose_it"), [("fixed", STAGES), ("replayed", STAGES), ("onpolicy", ["ppo_0008"])])
def test_what_one_stage_drops_all_drop_if_rows_are_paired(world, text, stages_that_lose_it):
    planted = world(text=text)
    planted.x["ppo_0008"][3] *= 100  # a massive activation at position 3 of the first trace, at one stage
    planted.write()
    result = measured(planted.measure())
    for stage in STAGES:
        first_prompt = result.of(Pair("real", stage, stage), "dropped").n[0]
        assert int(first_prompt) == 12 - (stage in stages_that_lose_it)
    assert result.manifest["paired"] == (text != "onpolicy")


@pytest.mark.parametrize("column", ["token", "pos", "trace"])
def test_unpaired_rows_are_refused(world, column):
    planted = world()
    table = planted.rows.to_pandas()
    table.loc[9, column] = "another" if column == "trace" else 77
    planted.tables["ppo_0016"] = pa.Table.from_pandas(table, schema=planted.rows.schema, preserve_index=False)
    planted.write()
    with pytest.raises(
        ConfigError, match=rf"unpaired prompts between stages: ppo_0016 and base differ, the {column} of row 9 is .*Extract"
    ):
        planted.measure()


def test_on_policy_rows_may_differ_but_not_their_problems(world):
    planted = world(text="onpolicy")
    table = planted.rows.to_pandas()
    table["token"] += 1
    planted.tables["ppo_0016"] = pa.Table.from_pandas(table, schema=planted.rows.schema, preserve_index=False)
    planted.write().measure()
    planted.tables["ppo_0016"] = pa.Table.from_pandas(
        table.replace({"problem": {planted.problems[4]: "pffffffffffff"}}), schema=planted.rows.schema, preserve_index=False
    )
    planted.write()
    with pytest.raises(ConfigError, match="unpaired prompts between stages: ppo_0016 and base differ in 2, such as p000000000004"):
        planted.measure("again")


def test_a_missing_row_is_unpaired(world):
    planted = world()
    planted.tables["ppo_0008"], planted.x["ppo_0008"] = planted.rows.slice(1), planted.x["ppo_0008"][1:]
    planted.write()
    with pytest.raises(ConfigError, match="559 rows against 560"):
        planted.measure()


def test_one_prompt_is_refused(world):
    planted = world(prompts=1).write()
    with pytest.raises(ConfigError, match=r"at least 2 prompts.*stage base has 1 .*Raise problems\.size"):
        planted.measure()


def test_prompts_without_kept_rows_do_not_count(world):
    planted = world(prompts=2)
    for x in planted.x.values():
        x[14:28] *= 1e-3
    planted.write()
    with pytest.raises(ConfigError, match="has 1 with rows"):
        planted.measure(keep=RowFilter(1, 0.5))


def test_a_chain_that_starts_from_another_base_is_refused(world):
    planted = world()
    planted.parents["null", "ppo_0008"] = "f" * 64
    planted.write()
    with pytest.raises(
        ConfigError, match=r"stage ppo_0008 in chain null must start from that of real/base, digest .*ffffffffffff.*again"
    ):
        planted.measure()


def test_a_missing_sae_and_a_missing_store_are_named(world):
    planted = world().write()
    stores, saes = planted.stores, planted.saes
    planted.stores = stores[:2]
    with pytest.raises(ConfigError, match="none was given for ppo_0016"):
        planted.measure()
    planted.stores, planted.saes = stores, saes[:-1]
    with pytest.raises(ConfigError, match="null/ppo_0016 were not given"):
        planted.measure()


@pytest.mark.parametrize(("name", "value"), [("layer", 4), ("seed", 1), ("kind", "topk_signed"), ("hook_point", "elsewhere")])
def test_an_sae_from_elsewhere_is_refused(world, name, value):
    planted = world().write()
    facts = json.loads(planted.saes[1].read_text())
    planted.saes[1].write_text(json.dumps(facts | {name: value}))
    with pytest.raises(ConfigError, match=rf"must have {name} = .* has {value}"):
        planted.measure()


def test_firing_is_counted_in_the_frozen_view_and_under_each_sae(world):
    planted = world(angle=0.4).write()
    table = read_table(planted.measure() / "latents.parquet", schema(Latent)).to_pandas()
    sae = read_sae(planted.saes[0]).model
    x = Store([planted.stores[1]], KEEP, ["test"]).read()
    with torch.no_grad():
        dense = sae.encode_dense(x).numpy()
    stage = table[(table["chain"] == "real") & (table["stage"] == "ppo_0008")]
    assert np.allclose(stage["frozen_rate"], (dense != 0).mean(0))
    assert np.allclose(stage["frozen_mean"], dense.sum(0) / (dense != 0).sum(0), rtol=1e-5)
    base = table[table["stage"] == "base"]
    assert (base["firing_rate"].to_numpy() == stage["frozen_rate_base"].to_numpy()).all()
    null = table[(table["chain"] == "null") & (table["stage"] == "ppo_0008")]
    with torch.no_grad():
        dense = read_sae(planted.saes[3]).model.encode_dense(x).numpy()
    assert np.allclose(null["frozen_rate"], (dense != 0).mean(0)), "the frozen view of null is its own SAE on the new rows"
    assert (null["frozen_rate_base"].to_numpy() == null["firing_rate"].to_numpy()).all()
    assert len(table) == 5 * 16
    assert (base["decoder_cosine"] > 1 - 1e-12).all()
    assert stage["reinitialised"].tolist() == [False] * 15 + [True]


def test_a_latent_is_alive_by_firings_and_by_prompts(world):
    planted = world(prompts=3).write()
    thresholds = planted.scope().drift
    counts = {name: thresholds.model_copy(update=changes) for name, changes in (("few", {}), ("prompts", {"min_prompts": 4}))}
    alive = {
        name: pd.read_parquet(planted.measure(name, drift=drift) / "latents.parquet")["alive"] for name, drift in counts.items()
    }
    assert alive["few"].mean() > 0.5
    assert not alive["prompts"].any()


def test_a_study_without_null_chain_is_measured(world):
    planted = world()
    planted.chains = ["real"]
    planted.write()
    assert {pair.chain for pair in measured(planted.measure()).pairs} == {"real"}


def test_sums_that_lack_a_pair_are_refused(world):
    planted = world().write()
    folder = planted.measure()
    other = world()
    other.chains = ["real"]
    shutil.copy(other.write().measure() / "sums.safetensors", folder / "sums.safetensors")
    with pytest.raises(ValueError, match="lacks null/ppo_0008/base"):
        measured(folder)
