"""The tables: a planted change is found, its absence too; identities hold; rates are refused where they mean nothing."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from sae_core.config.sae import TopKConfig
from sae_core.metrics.reconstruction import nmse, reconstruction_sums
from sae_core.models.topk import TopKSAE
from workflow.config.section import ConfigError
from workflow.drift.estimates import ROOT, Measurement
from workflow.drift.tables import drift_tables
from workflow.formats.claim_columns import CLAIM_TABLES
from workflow.formats.drift import DriftSums, named_tensors, needed_pairs, read_drift_sums
from workflow.formats.drift_columns import TABLES, schema
from workflow.formats.parquet import read_table
from workflow.formats.table_files import write_csv


def frame(tables, name, **where):
    table = pd.read_parquet(tables[name])
    for column, value in where.items():
        table = table[table[column] == value]
    return table.reset_index(drop=True)


def covers_zero(row, term):
    return row[f"{term}_low"] <= 0 <= row[f"{term}_high"]


def test_without_change_there_is_refit_but_no_adaptation(tabulated):
    rows = frame(tabulated[0.0], "decomposition", sinks="dropped")
    for _, row in rows.iterrows():
        assert covers_zero(row, "adaptation")
        assert not covers_zero(row, "null_refit")
    moved = frame(tabulated[0.4], "decomposition", sinks="dropped")
    assert (rows["shift"].abs() < 0.03 * moved["shift"]).all()
    assert (rows["adaptation"].abs() < 0.03 * moved["adaptation"].abs()).all()


def in_memory(planted) -> DriftSums:
    """The sums of base and one stage of an unwritten world, sinks dropped, taken without files."""
    rows = planted.rows.to_pandas()
    keep = torch.tensor(((rows["split"] == "test") & (rows["pos"] > 0)).to_numpy())
    prompt = torch.tensor([planted.problems.index(name) for name in rows["problem"][keep.numpy()]])
    base = {name: torch.tensor(planted.dictionary(0)) for name in ("W_enc", "W_dec")}
    refit = base | {"W_dec": torch.nn.functional.normalize(base["W_dec"] + 0.02 * torch.roll(base["W_dec"], 1, 0), dim=1)}
    offset = {"b_enc": torch.zeros(16), "b_pre": torch.full((16,), 0.5), "b_dec": torch.full((16,), 0.5), "scale": torch.ones(())}
    saes = {
        stage: TopKSAE(TopKConfig(d_model=16, d_sae=16, k=3), tensors | offset)
        for stage, tensors in (("base", base), ("ppo_0008", refit))
    }
    sums = {}
    for pair in needed_pairs(["base", "ppo_0008"], ["real", "null"]):
        x = planted.x[pair.store_stage][keep]
        with torch.no_grad():
            x_hat = saes[pair.sae_stage](x)
        sums[pair, "dropped"] = reconstruction_sums(x, x_hat, prompt, len(planted.problems), torch.zeros(16))
    facts = {"problems": planted.problems, "stages": [["base", 0], ["ppo_0008", 8]], "chains": ["real", "null"]}
    return DriftSums(facts, named_tensors(sums))


def test_over_many_worlds_without_change_the_intervals_cover_zero_as_often_as_they_say(world):
    covered = {"shift": 0, "adaptation": 0}
    for seed in range(150):
        measured = Measurement(in_memory(world(seed=seed)), 300, 0.95, seed)
        terms = measured.terms("ppo_0008", "dropped")._asdict()
        for name in covered:
            _, low, high = measured.estimate(terms[name])
            covered[name] += low <= 0 <= high
    assert 0.90 <= covered["shift"] / 150 <= 0.98
    assert 0.90 <= covered["adaptation"] / 150 <= 0.98


def test_a_planted_rotation_is_shift_above_zero_and_adaptation_below(tabulated):
    rows = frame(tabulated[0.4], "decomposition", sinks="dropped")
    for prefix in ("", "anchored_"):
        assert (rows[f"{prefix}shift_low"] > 0).all()
        assert (rows[f"{prefix}adaptation_high"] < 0).all()
        assert (rows[f"{prefix}contrast_high"] < 0).all()
    assert rows["shift"].is_monotonic_increasing, "more rotation, more shift"


@pytest.mark.parametrize("angle", [0.0, 0.4])
@pytest.mark.parametrize("prefix", ["", "anchored_"])
def test_the_decomposition_is_exact(tabulated, angle, prefix):
    rows = frame(tabulated[angle], "decomposition")
    delta, shift, refit, null_refit, adaptation = (
        rows[f"{prefix}{name}"] for name in ("delta", "shift", "refit", "null_refit", "adaptation")
    )
    assert (delta - (shift + refit)).abs().max() < 1e-12
    assert (delta - (shift + null_refit + adaptation)).abs().max() < 1e-12


def test_the_decomposition_is_that_of_the_transfer_table(tabulated):
    transfer = frame(tabulated[0.4], "transfer", sinks="dropped").set_index(["chain", "sae_stage", "store_stage"])["nmse"]
    for _, row in frame(tabulated[0.4], "decomposition", sinks="dropped").iterrows():
        t = row["stage"]
        assert row["shift"] == pytest.approx(transfer["real", "base", t] - transfer["real", "base", "base"], abs=1e-12)
        assert row["null_refit"] == pytest.approx(transfer["null", t, "base"] - transfer["real", "base", "base"], abs=1e-12)
        assert row["contrast"] == pytest.approx(transfer["real", t, t] - transfer["null", t, t], abs=1e-12)


def test_the_diagonal_exceeds_itself_by_nothing_and_a_foreign_sae_is_worse(tabulated):
    rows = frame(tabulated[0.4], "transfer", sinks="dropped", chain="real")
    own = rows["sae_stage"] == rows["store_stage"]
    assert (rows.loc[own, ["excess", "excess_low", "excess_high"]] == 0).all(axis=None)
    assert (rows.loc[~own, "excess_low"] > 0).all()
    assert (rows["low"] <= rows["nmse"]).all()
    assert (rows["nmse"] <= rows["high"]).all()


def test_every_sae_has_a_line_with_and_one_without_sinks(tabulated):
    rows = frame(tabulated[0.4], "quality")
    assert rows.groupby(["chain", "stage"], sort=False)["sinks"].apply(list).tolist() == [["dropped", "included"]] * 5
    assert rows[["chain", "stage"]].drop_duplicates().to_numpy().tolist() == [
        ["real", "base"], ["real", "ppo_0008"], ["real", "ppo_0016"], ["null", "ppo_0008"], ["null", "ppo_0016"],
    ]  # fmt: skip
    with_sinks, without = (rows[rows["sinks"] == sinks].reset_index(drop=True) for sinks in ("included", "dropped"))
    assert (with_sinks["rows"] == 560).all()
    assert (without["rows"] == 480).all()
    assert without["dropped_share"].to_numpy() == pytest.approx(1 / 7)
    assert (with_sinks["dropped_share"] == 0).all()
    assert (with_sinks["nmse"] < without["nmse"]).all()
    assert with_sinks["nmse"][0] < 0.1 * without["nmse"][0], "a few sinks hide the error of all other rows"
    assert without["dead_share"].notna().all()
    assert with_sinks["dead_share"].isna().all()


def test_a_control_chain_is_scored_on_base_rows(tabulated):
    rows = frame(tabulated[0.4], "quality", sinks="dropped", chain="null")
    assert (rows["store_stage"] == "base").all()
    null_refit = frame(tabulated[0.4], "decomposition", sinks="dropped")["null_refit"]
    assert rows["delta_nmse"].to_numpy() == pytest.approx(null_refit.to_numpy(), abs=1e-15)


def test_base_does_not_differ_from_itself_and_anchoring_leaves_it(tabulated):
    base = frame(tabulated[0.4], "quality", stage="base").iloc[0]
    assert base["delta_nmse"] == base["delta_nmse_low"] == base["delta_nmse_high"] == 0
    assert base["nmse_anchored"] == base["nmse"]
    assert base["l0"] == pytest.approx(3, abs=0.01)


def reasons(tables):
    rows = frame(tables, "quality", sinks="dropped")
    assert (rows["rate_refused"].isna() == rows["delta_per_update"].notna()).all()
    assert (rows["rate_refused"].isna() == rows["delta_per_kl"].notna()).all()
    return {(row["chain"], row["stage"]): row["rate_refused"] for _, row in rows.iterrows()}


def test_rates_are_refused_with_their_reason(tabulated):
    assert reasons(tabulated[0.0]) == {
        ("real", "base"): "the stage is base",
        ("real", "ppo_0008"): "the interval of adaptation contains 0",
        ("real", "ppo_0016"): "the interval of adaptation contains 0",
        ("null", "ppo_0008"): "the chain null is a control",
        ("null", "ppo_0016"): "the chain null is a control",
    }
    moved = reasons(tabulated[0.4])
    assert moved["real", "ppo_0008"] == "the KL to base is unknown"
    assert pd.isna(moved["real", "ppo_0016"])


def test_a_rate_is_the_change_over_its_measure(tabulated):
    row = frame(tabulated[0.4], "quality", sinks="dropped", chain="real", stage="ppo_0016").iloc[0]
    assert row["delta_per_update"] == pytest.approx(row["delta_nmse"] / 16)
    assert row["delta_per_kl"] == pytest.approx(row["delta_nmse"] / 0.16)


def test_without_null_chain_its_terms_are_null_and_rates_refused(world):
    planted = world(angle=0.4)
    planted.chains = ["real"]
    tables = planted.write().tabulate(planted.measure(), replicates=50)
    rows = frame(tables, "decomposition")
    for name in ("null_refit", "adaptation", "contrast", "adaptation_low", "anchored_adaptation"):
        assert rows[name].isna().all()
    assert rows["refit"].notna().all()
    assert reasons(tables)["real", "ppo_0016"] == "there is no null chain to tell refit from change"
    assert frame(tables, "latents")["cosine_excess"].isna().all()


def test_errors_are_those_of_the_core(world):
    planted = world(angle=0.4).write()
    folder = planted.measure()
    sums = read_drift_sums(folder / "sums.safetensors", folder / "manifest.json")
    measured = Measurement(sums, 20, 0.95, 0)
    for pair in sums.pairs:
        assert measured.nmse(pair, "dropped").numpy() == pytest.approx(
            nmse(sums.of(pair, "dropped"), measured._weights).numpy(), rel=1e-12
        )
    assert float(measured.nmse(ROOT, "included")[0]) == pytest.approx(float(nmse(sums.of(ROOT, "included"))), rel=1e-12)


def test_pairing_by_prompt_makes_differences_tight(tabulated):
    row = frame(tabulated[0.0], "decomposition", sinks="dropped").iloc[0]
    base = frame(tabulated[0.0], "quality", sinks="dropped", stage="base").iloc[0]
    assert row["shift_high"] - row["shift_low"] < base["nmse_high"] - base["nmse_low"]


def test_rows_and_saes_in_other_units_change_no_ratio(world):
    plain, scaled = world(angle=0.4), world(angle=0.4)
    scaled.scale, scaled.x = 7.0, {stage: 7 * x for stage, x in scaled.x.items()}
    one, other = (frame(w.write().tabulate(w.measure(), replicates=50), "decomposition") for w in (plain, scaled))
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-6)


def test_latents_that_turned_exceed_the_null_and_others_do_not(tabulated):
    rows = frame(tabulated[0.4], "latents", chain="real", stage="ppo_0008")
    turned = rows["latent"] < 6
    assert rows.loc[turned, "cosine_excess"].to_numpy() == pytest.approx(1 - np.cos(0.4), abs=0.03)
    assert rows.loc[~turned & ~rows["reinitialised"], "cosine_excess"].abs().max() < 0.03
    assert rows.loc[rows["reinitialised"], "cosine_excess"].isna().all()
    others = frame(tabulated[0.4], "latents")
    assert others.loc[(others["chain"] == "null") | (others["stage"] == "base"), "cosine_excess"].isna().all()


def test_tables_have_exactly_the_described_columns(tabulated):
    for name, table in TABLES.items():
        assert len(read_table(tabulated[0.4][name], schema(table))) > 0


def test_csv_and_parquet_say_the_same_and_their_bytes_repeat(world):
    planted = world(angle=0.4).write()
    folder = planted.measure()
    first, second = planted.tabulate(folder, replicates=50), planted.tabulate(folder, name="again", replicates=50)
    for name in TABLES:
        for ending in (".parquet", ".csv"):
            assert first[name].with_suffix(ending).read_bytes() == second[name].with_suffix(ending).read_bytes()
        written = pd.read_csv(first[name].with_suffix(".csv"), keep_default_na=False, na_values=[""])
        stored = pd.read_parquet(first[name]).map(lambda value: np.nan if value is None else value)
        pd.testing.assert_frame_equal(written, stored, check_dtype=False, rtol=1e-9)
    manifests = [first["quality"].with_name("manifest.json"), second["quality"].with_name("manifest.json")]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()
    assert json.loads(manifests[0].read_text())["tables"]["latents"]["csv_complete"]


def test_several_measurements_stand_below_each_other(world):
    planted, other = world(angle=0.4).write(), world(text="onpolicy").write()
    tables = planted.tabulate(planted.measure(), other.measure(), replicates=50)
    assert frame(tables, "quality")["text"].tolist() == ["fixed"] * 10 + ["onpolicy"] * 10


def test_a_long_table_leaves_only_its_header_in_the_csv(tmp_path):
    table = pa.table({"latent": np.arange(200_000), "alive": np.ones(200_000, bool)})
    assert not write_csv(tmp_path / "long.csv", table)
    assert (tmp_path / "long.csv").read_text() == "latent,alive\n"
    assert write_csv(tmp_path / "short.csv", table.slice(0, 2).append_column("mean", pa.array([None, 1 / 3])))
    assert (tmp_path / "short.csv").read_text() == "latent,alive,mean\n0,true,\n1,true,0.3333333333\n"


def test_a_stage_without_its_policy_is_named(world):
    planted = world().write()
    planted.policies = planted.policies[:2]
    with pytest.raises(ConfigError, match=r"none was given for ppo_0016 of run strict\. Pass"):
        planted.tabulate(planted.measure())


def test_lists_of_unequal_length_are_refused(world, tmp_path):
    planted = world().write()
    folder = planted.measure()
    with pytest.raises(ValueError, match="zip"):
        drift_tables(
            sums=[folder / "sums.safetensors"], manifests=[folder / "manifest.json"] * 2, latents=[folder / "latents.parquet"],
            dictionaries=[folder / "dictionary.parquet"], lineages=[folder / "lineage.parquet"],
            policies=planted.policies, tables={}, manifest=tmp_path / "manifest.json", drift=planted.scope().drift, recipes={},
        )  # fmt: skip


def test_the_described_types_are_the_written_ones():
    names = schema(TABLES["decomposition"]).names
    assert names[8:11] == ["delta", "delta_low", "delta_high"]
    assert schema(TABLES["quality"]).field("dead_share").nullable
    assert not schema(TABLES["quality"]).field("nmse").nullable


def test_the_documentation_names_every_column():
    text = (Path(__file__).parents[3] / "docs" / "drift.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", text))
    for table in (TABLES | CLAIM_TABLES).values():
        # ends of anchored terms are described once for all of them
        columns = [name for name in schema(table).names if not re.fullmatch(r"anchored_\w+_(low|high)", name)]
        assert set(columns) <= named
