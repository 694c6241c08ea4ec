"""The tables about single latents: columns are what the rows say, planted changes are listed, and lists add up."""

import numpy as np
import pandas as pd
import pytest
import torch
from planted_firings import clustered_counts, firings_of

from sae_core.metrics.firing import effective_latents, latent_totals
from sae_core.metrics.threshold import matched_threshold, threshold_codes
from workflow.drift.dictionaries import effective_interval
from workflow.formats.activations import RowFilter, Store
from workflow.formats.saes import read_sae
from workflow.prompt_firings import with_rows_in_both

ROTATED = np.arange(16) < 6


def rows_of(tables, chain="real", stage="ppo_0016"):
    table = pd.read_parquet(tables["latents"])
    return table[(table["chain"] == chain) & (table["stage"] == stage)].reset_index(drop=True)


def test_only_directions_that_moved_change_their_rate_or_magnitude(tabulated):
    moved, still = rows_of(tabulated[0.4]), rows_of(tabulated[0.0])
    assert moved["rate_confirmed"].tolist() == ROTATED.tolist()
    assert (moved["magnitude_q"] <= 0.05).tolist() == ROTATED.tolist()
    assert (moved.loc[ROTATED, "magnitude_ratio_high"] < 1).all()
    assert not still["rate_confirmed"].any()
    assert still["rate_flip_p"].isna().all()
    assert (moved["rate_flip_p"].notna() == (moved["rate_q"] <= 0.05)).all()
    assert (moved["rate_q_dependent"] >= moved["rate_q"]).all()


def test_stability_is_claimed_of_the_others(tabulated):
    moved = rows_of(tabulated[0.4])
    assert ((moved["stable_q"] <= 0.05) == ~ROTATED).all()
    assert (rows_of(tabulated[0.0])["stable_q"] <= 0.05).all()


def test_the_log_ratio_is_that_of_mean_rates_and_lies_in_its_interval(tabulated):
    moved = rows_of(tabulated[0.4])
    # every prompt has as many kept rows, so means over prompts are those over rows
    expected = np.log(moved["frozen_rate"] / moved["frozen_rate_base"])
    assert moved["rate_log_ratio"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-9, abs=1e-12)
    assert moved["rate_log_ratio"].between(moved["rate_log_ratio_low"], moved["rate_log_ratio_high"]).all()


def test_rates_under_a_threshold_are_those_of_its_codes(world):
    planted = world(angle=0.4).write()
    table = pd.read_parquet(planted.measure() / "latents.parquet")
    x0, x = (Store([planted.stores[place]], RowFilter(1, 10.0), ["test"]).read() for place in (0, 1))
    sae = read_sae(planted.saes[0]).model
    real = table[(table["chain"] == "real") & (table["stage"] == "ppo_0008")]
    with torch.no_grad():
        at = matched_threshold(sae, x0)  # of at most 4096 rows, here all
        rate_base, rate = ((threshold_codes(sae, rows, at).dense(16) != 0).double().mean(0).numpy() for rows in (x0, x))
    np.testing.assert_allclose(real["threshold_rate_base"], rate_base)
    np.testing.assert_allclose(real["threshold_rate"], rate)
    assert table.loc[table["chain"] == "null", "threshold_rate"].isna().all()


def test_a_direction_beyond_relation_is_another_latent(tabulated):
    """At the last stage the six have turned by 0.8 in their planes: some are no relatives of themselves, none of them elsewhere."""
    moved, still = rows_of(tabulated[0.4]), rows_of(tabulated[0.0])
    gone = moved["decoder_cosine"] <= 0.7
    assert gone.any()
    assert (gone <= ROTATED).all()
    assert (moved["born_appeared"] == gone).all()
    for prefix, first in (("born", "appeared"), ("died", "vanished")):
        conditions = [moved[f"{prefix}_{name}"] for name in (first, "unrelated", "own", "unexplained")]
        assert (moved[prefix] == np.logical_and.reduce(conditions)).all()
        assert not still[prefix].any()
    assert not moved.loc[moved["reinitialised"], ["born_own", "died_own"]].any(axis=None)


def test_the_dictionary_counts_the_latents(tabulated):
    for tables in tabulated.values():
        latents, saes = pd.read_parquet(tables["latents"]), pd.read_parquet(tables["dictionary"])
        assert len(saes) == 5
        for _, sae in saes[saes["stage"] != "base"].iterrows():
            mine = latents[(latents["chain"] == sae["chain"]) & (latents["stage"] == sae["stage"])]
            assert sae["rates_changed"] == (mine["rate_q"] <= 0.05).sum()
            assert sae["rates_confirmed"] == mine["rate_confirmed"].sum()
            assert sae["rates_stable"] == (mine["stable_q"] <= 0.05).sum()
            assert sae["born"] == mine["born"].sum()
            assert sae["died"] == mine["died"].sum()
            assert sae["mmcs"] == pytest.approx(mine.loc[mine["alive"], "ancestor_cosine"].mean())
            assert sae["renaming_gap"] == pytest.approx(0, abs=1e-9), "nobody took another's place"
            assert sae["effective_low"] < sae["effective"] < sae["effective_high"] <= 16.5
    real = saes[(saes["chain"] == "real") & (saes["stage"] != "base")]
    assert (real["born_excess"] == real["born"] - real["born_null"]).all()
    assert saes.loc[saes["chain"] == "null", "born_null"].isna().all()


def test_latents_that_change_places_are_a_renaming_gap(world):
    planted = world(angle=0.0)
    swapped = planted.dictionary
    planted.dictionary = lambda hop: swapped(hop)[[1, 0, *range(2, 16)]] if hop else swapped(hop)
    saes = pd.read_parquet(planted.write().measure() / "dictionary.parquet")
    real = saes[(saes["chain"] == "real") & (saes["stage"] != "base")]
    assert (real["aligned_cosine"] < 0.9).all()
    assert (real["matched_cosine"] > 0.99).all()
    assert (real["mmcs"] > 0.99).all()
    assert (real["born"] == 0).all(), "both are relatives of each other"
    events = pd.read_parquet(planted.folder / "drift/lineage.parquet")
    pairs = events[(events["chain"] == "real") & (events["stage"] == "ppo_0008")][["event", "parents", "children"]]
    assert {("persist", "0", "1"), ("persist", "1", "0")} <= set(pairs.itertuples(index=False, name=None))


def test_lineage_is_counted_beside_the_null_chain(tabulated):
    counts = pd.read_parquet(tabulated[0.4]["lineage"]).set_index(["stage", "event"])
    assert (counts["excess"] == counts["count"] - counts["null_count"]).all()
    assert counts.loc[("ppo_0008", "persist"), "count"] == 15, "all but the one that was re-initialised"
    last, null = counts.loc["ppo_0016", "count"], counts.loc["ppo_0016", "null_count"]
    assert last["persist"] == 9
    assert null["persist"] == 15
    assert last["persist"] + last["rotate"] + last["born"] + last["unplaced"] == 15
    assert null.drop("persist").sum() == 0


def test_without_null_chain_nothing_is_subtracted(world):
    planted = world(angle=0.4)
    planted.chains = ["real"]
    tables = planted.write().tabulate(planted.measure(), replicates=40)
    assert pd.read_parquet(tables["lineage"])["null_count"].isna().all()
    saes = pd.read_parquet(tables["dictionary"])
    assert saes[["born_null", "born_excess", "turned"]].isna().all(axis=None)
    assert saes.loc[saes["stage"] != "base", "born"].notna().all()


def test_a_latent_at_the_border_keeps_its_life(world):
    planted = world(angle=0.4).write()
    thresholds = planted.scope().drift.model_copy(update={"min_firings": 75, "min_prompts": 3, "keep_firings": 1})
    table = pd.read_parquet(planted.measure(drift=thresholds) / "latents.parquet").set_index(["chain", "stage"])
    before, now = (table.loc[("real", stage)].reset_index() for stage in ("base", "ppo_0016"))
    enough = np.rint(now["firing_rate"] * 480) >= 75
    kept = before["alive"] & ~now["reinitialised"]
    assert (now["alive"] >= kept).all()
    assert (kept & ~enough).any(), "the test must cover a latent below the border"
    assert before["alive"].sum() < 16


def test_prompts_with_rows_in_one_stage_alone_are_left_out(world):
    planted = world(text="onpolicy")
    planted.x["ppo_0008"][:14] *= 1000  # all rows of the first prompt are sinks at this stage
    table = pd.read_parquet(planted.write().measure() / "latents.parquet").set_index(["chain", "stage"])
    assert table.loc[("real", "ppo_0008"), "rate_p"].notna().all()


def test_both_lose_the_prompts_that_one_lacks() -> None:
    draw = np.random.default_rng(0)
    counts = [draw.integers(0, 3, size=(5, 4)) for _ in range(2)]
    counts[0][1], counts[1][3] = 0, 0
    base, now = (firings_of(one, rows).sums for one, rows in zip(counts, ([9, 0, 9, 9, 9], [9, 9, 9, 0, 9]), strict=True))
    for found, whole in zip(with_rows_in_both(base, now), counts, strict=True):
        whole[[1, 3]] = 0
        assert found.rows.tolist() == [9, 0, 9, 0, 9]
        assert latent_totals(found).firings.tolist() == whole.sum(0).tolist()
        assert found.offsets.diff().tolist() == (whole > 0).sum(1).tolist()


def test_the_interval_of_the_effective_number_covers_as_often_as_it_says() -> None:
    rates = 0.3 * np.arange(1, 31) ** -0.6
    draw, rows = np.random.default_rng(0), np.full(150, 40)
    sums = [firings_of(clustered_counts(draw, rates, 150, 40), rows).sums for _ in range(200)]
    found = np.array([effective_interval(one, 0.95) for one in sums])
    np.testing.assert_allclose(found[0, 0], float(effective_latents(latent_totals(sums[0]).firings)), rtol=1e-9)
    # what all worlds together say: the entropy of clipped, clustered rates has no closed form
    truth = float(effective_latents(sum(latent_totals(one).firings for one in sums)))
    assert 0.90 <= ((found[:, 1] <= truth) & (truth <= found[:, 2])).mean() <= 0.985


def test_a_fresh_sae_inherits_no_latent_and_a_repeated_one_all(world):
    planted = world(angle=0.4)
    planted.chains = ["real", "null", "cold", "repeat"]
    folder = planted.write().measure()
    table, events = pd.read_parquet(folder / "latents.parquet"), pd.read_parquet(folder / "lineage.parquet")
    cold, repeat = (table[(table["chain"] == chain)] for chain in ("cold", "repeat"))
    assert cold["reinitialised"].all()
    assert not cold[["born", "died"]].any(axis=None)
    assert "cold" not in set(events["chain"])
    assert repeat["reinitialised"].sum() == 2, "that of `real`, at both stages"
    assert (events[(events["chain"] == "repeat") & (events["stage"] == "ppo_0008")]["event"] == "persist").all()
