"""The validation of drift: what it feeds to the workflow's own code, what it makes of the answers, what it rests on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.validation.designs import HEAVY, NO_DRIFT, ONE_HOP, SETTINGS, Design, designs
from benchmarks.validation.gate import passed, verdicts
from benchmarks.validation.latents import born_and_died, changed_rates, score, turned_by_index
from benchmarks.validation.lines import table
from benchmarks.validation.naive import discoveries, index_aligned, row_intervals, row_level_firing_discoveries
from benchmarks.validation.outcomes import outcome
from benchmarks.validation.running import Job, outcomes
from benchmarks.validation.tables import decomposition_table, drift_sums, only_prompts, stage_name
from sae_core.config.sae import TopKConfig
from sae_core.metrics.reconstruction import nmse
from sae_core.planted.chains import NULL, REAL, REPEAT, ChainSettings, ChainTrainer, Name, PlantedSAE
from sae_core.planted.config import WorldConfig
from sae_core.planted.events import Born, Rate, Redraw, Rotate
from sae_core.planted.measuring import Pair, measure, sums_of
from sae_core.planted.world import PlantedWorld
from workflow.formats.drift import needed_pairs

TINY = ChainSettings(
    sae=TopKConfig(d_model=16, d_sae=24, k=3),
    training=replace(SETTINGS.training, updates=40, updates_per_epoch=20, batch=64, resample_epochs=0),
    hop_updates=20,
    validation_prompts=10,
)
SMALL = WorldConfig(d_model=16, directions=20, active=2.0, prompts=60, hops=1)
SEEDS = 3


def trained(world: PlantedWorld, rule: ChainSettings = TINY, seed: int = 0) -> dict[Name, PlantedSAE]:
    return ChainTrainer(world, rule, seed).train((NULL, REPEAT))


def decomposition(*worlds: PlantedWorld, rule: ChainSettings = SETTINGS) -> pd.DataFrame:
    """The table of several runs of a world, with three SAE seeds; base and the null chain are the same for all runs."""
    found = []
    for seed in range(SEEDS):
        shared: dict[Name, PlantedSAE] = {}
        for world in worlds:
            saes = ChainTrainer(world, rule, seed).train((NULL,), shared)
            shared = {name: sae for name, sae in saes.items() if name.chain == NULL or name.stage == 0}
            found.append(drift_sums(world, measure(world, saes), seed))
    return decomposition_table(found)


def test_the_tables_hold_what_the_worlds_sums_say() -> None:
    world = PlantedWorld(replace(SMALL, hops=2, events=(Rotate(directions=5, angle=0.3),), sink_every=50))
    measured = measure(world, trained(world))
    sums = drift_sums(world, measured, seed=0)
    assert set(needed_pairs(sums.stages, sums.manifest["chains"])) == {
        (pair.chain, stage_name(pair.sae_stage), stage_name(pair.store_stage)) for pair in measured.dropped
    }
    found = decomposition_table([sums], replicates=50)
    assert list(found["stage"].unique()) == ["ppo_0010", "ppo_0020"]
    n = {sinks: {pair: float(nmse(one)) for pair, one in getattr(measured, sinks).items()} for sinks in ("dropped", "included")}
    for _, row in found.iterrows():
        of, stage = n[row["sinks"]], row["update"] // 10
        root = of[Pair(REAL, 0, 0)]
        assert row["shift"] == pytest.approx(of[Pair(REAL, 0, stage)] - root, abs=1e-12)
        assert row["delta"] == pytest.approx(of[Pair(REAL, stage, stage)] - root, abs=1e-12)
        assert row["adaptation"] == pytest.approx(row["refit"] - (of[Pair(NULL, stage, 0)] - root), abs=1e-12)
        assert row["delta"] == pytest.approx(row["shift"] + row["null_refit"] + row["adaptation"], abs=1e-12)
        assert row["shift_low"] < row["shift"] < row["shift_high"]


def test_sums_of_some_prompts_are_those_of_the_rest_taken_away() -> None:
    world = PlantedWorld(SMALL)
    measured = measure(world, trained(world))
    first, second = only_prompts(measured, torch.arange(20)), only_prompts(measured, torch.arange(20, 60))
    for pair, sums in measured.dropped.items():
        total = first.dropped[pair].sse.sum() + second.dropped[pair].sse.sum()
        torch.testing.assert_close(total, sums.sse.sum())


def claimed(shift: float, adaptation: float, spread: float = 0.01) -> bool:
    """Whether the gate passes three SAE seeds with these terms."""
    terms = {
        "delta": shift + adaptation,
        "shift": shift,
        "refit": adaptation,
        "null_refit": 0.0,
        "adaptation": adaptation,
        "contrast": adaptation,
    }
    columns = {
        f"{prefix}{name}{end}": value + sign * spread
        for prefix in ("", "anchored_") for name, value in terms.items() for end, sign in (("", 0), ("_low", -1), ("_high", 1))
    }  # fmt: skip
    key = {"run": "run_0", "text": "fixed", "kind": "topk", "stage": "ppo_0010", "update": 10, "layer": 0}
    rows = [key | columns | {"seed": seed, "sinks": sinks} for seed in range(SEEDS) for sinks in ("dropped", "included")]
    return any(map(passed, verdicts(pd.DataFrame(rows))))


def test_sinks_that_no_sae_was_trained_on_measure_nothing_and_are_said_to() -> None:
    rule = replace(TINY, training=replace(TINY.training, updates=120), hop_updates=60)
    calm, moved = (
        PlantedWorld(replace(SMALL, sink_every=60, events=events)) for events in ((), (Rotate(directions=6, angle=0.5),))
    )
    claims = [verdicts(decomposition(world, rule=rule))[0] for world in (calm, moved)]
    assert [passed(claim) for claim in claims] == [False, True]
    assert [claim.holds_with_sinks for claim in claims] == [None, None]
    assert all("no better than their mean" in str(claim.about_sinks) for claim in claims)


def test_the_gate_of_the_report_is_what_is_asked() -> None:
    assert claimed(0.1, -0.1)
    assert not claimed(0.005, -0.1), "an interval of shift that holds 0"
    assert not claimed(0.1, -0.005), "an interval of adaptation that holds 0"


def test_discoveries_are_those_of_benjamini_and_hochberg() -> None:
    assert discoveries(np.array([0.01, 0.02, 0.03, 0.5]), 0.05) == 3
    assert discoveries(np.array([0.04, 0.04, 0.04, 0.04]), 0.05) == 4, "a later step carries the earlier ones"
    assert discoveries(np.array([0.2, 0.5, 0.6]), 0.05) == 0


def test_naive_measures_claim_drift_where_there_is_none() -> None:
    world = PlantedWorld(replace(SMALL, paired=False))
    saes = trained(world)
    aligned = index_aligned(saes, 1)
    assert aligned.real > 0.001, "decoders turn because training goes on"
    assert 0.5 < aligned.real / aligned.null < 2
    low, high = row_intervals(world, saes, 1)["delta"]
    assert high < 0, "and errors fall for the same reason"
    assert low < high


def test_tests_over_rows_list_latents_where_only_the_text_was_drawn_anew() -> None:
    listed: dict[str, list[int]] = {"rows": [], "prompts": []}
    for seed in range(3):
        world = PlantedWorld(WorldConfig(seed=seed, hops=1, paired=False, clustering=0.3))
        saes = ChainTrainer(world, replace(SETTINGS, hop_updates=75), 0).train((NULL,))
        listed["rows"].append(row_level_firing_discoveries(world, saes[Name(REAL, 0)].model, 1))
        listed["prompts"].append(int(changed_rates(world, saes, 1).sum()))
    assert sum(listed["rows"]) > 10 > 2 >= sum(listed["prompts"]), listed


def test_a_changed_rate_is_found_and_company_with_it() -> None:
    world = PlantedWorld(replace(ONE_HOP, events=(Rate(directions=4, factor=2.5),)))
    base = ChainTrainer(world, SETTINGS, 0).train(())
    called = changed_rates(world, base, 1)
    found = score(world, base[Name(REAL, 0)], 0, "rate", called)
    assert found.found == found.findable > 0
    assert found.called > found.right, "k is fixed, so others fire less"


def test_calls_are_scored_against_the_directions_that_latents_stand_for() -> None:
    world = PlantedWorld(replace(ONE_HOP, events=(Born(directions=3, at=1),)))
    truth = world.dictionary.stages[1]
    born = [place for place, label in enumerate(world.dictionary.labels) if label == "born"]
    others = [place for place, label in enumerate(world.dictionary.labels) if label == "stay"]
    draw = torch.Generator().manual_seed(0)
    decoder = torch.cat(
        [torch.from_numpy(truth.vectors[[born[0], born[0], born[1], others[0]], 0]).float(), torch.randn(1, 32, generator=draw)]
    )
    sae = ChainTrainer(world, replace(SETTINGS, sae=TopKConfig(d_model=32, d_sae=5, k=2)), 0)
    model = sae.train(())[Name(REAL, 0)]
    with torch.no_grad():
        model.model.W_dec.copy_(decoder)
    found = score(world, model, 1, "born", np.array([True, True, False, True, True]))
    assert found == (4, 2, 1, 2, 3)


def test_chains_that_train_on_the_same_rows_have_no_births() -> None:
    world = PlantedWorld(replace(SMALL, noise=0.0))
    saes = trained(world)
    for chain in (REAL, NULL):
        born, died = born_and_died(world, saes, chain, 1)
        assert not born.any()
        assert not died.any()
    assert turned_by_index(saes, 1).shape == (24,)


def test_every_family_has_worlds_and_a_line() -> None:
    families = designs(200)
    assert len({design.name for design in families}) == len(families)
    assert sum(design.worlds for design in families if design.name.removeprefix("no drift: ") in NO_DRIFT) >= 200
    keys = {Job(design, 0).key for design in families}
    assert len(keys) == len(families)
    assert Job(families[0], 1).key not in keys


def small(design: Design) -> Design:
    world = replace(
        design.world, d_model=16, directions=24, active=2.0, prompts=30, rows_per_prompt=10,
        hidden_dims=2 * bool(design.world.hidden_dims),
    )  # fmt: skip
    return design._replace(world=world, settings=TINY, seeds=1)


@pytest.fixture(scope="module")
def few() -> dict[str, list[dict[str, Any]]]:
    """The outcome of a tiny world of every family but those of coverage, which need many prompts."""
    held = {unit: dict.fromkeys(("delta", "shift", "adaptation", "contrast"), 9) for unit in ("prompt", "row")}
    covered = {"coverage": {"sets": 10, "held": held, "truth": {}}}
    return {design.name: [covered if design.coverage else outcome(small(design), 0)] for design in designs(6)}


def test_the_table_of_validation_has_numbers_and_says_what_holds(few: dict[str, list[dict[str, Any]]]) -> None:
    lines = table(few)
    assert {line.world for line in lines} >= {"no drift", "heavy", "rotation 0.4", "births and deaths", "coverage: noise"}
    assert len({(line.world, line.metric) for line in lines}) == len(lines)
    assert all((line.holds is None) == (line.bound == "") for line in lines)
    enough = next(line for line in lines if line.metric == "worlds")
    assert enough.value == 3
    assert enough.holds is False
    covered = next(line for line in lines if line.metric == "interval of shift over prompts holds the truth")
    assert (covered.value, covered.bound, covered.holds) == (0.9, "0.9–0.98", True)


@pytest.mark.slow
def test_a_validation_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    family = [small(designs(6)[0])._replace(worlds=2)]
    first = outcomes(family, tmp_path, processes=1)
    files = sorted(tmp_path.iterdir())
    written = [path.stat().st_mtime_ns for path in files]
    assert len(files) == 2
    files[0].unlink()
    assert outcomes(family, tmp_path, processes=1) == first, "the same to the bit, whichever process made it"
    assert files[1].stat().st_mtime_ns == written[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noise", "unpaired"])
def test_nothing_is_claimed_where_nothing_drifts(name: str) -> None:
    worlds = [PlantedWorld(replace(NO_DRIFT[name], run=run)) for run in range(2)]
    found = decomposition(*worlds)
    assert not any(map(passed, verdicts(found)))
    assert found["adaptation"].abs().max() < 0.01
    assert found["delta"].max() < -0.02, "though every chain gets better"


@pytest.mark.slow
def test_heavy_drift_keeps_sign_and_order_at_every_stage_with_every_seed() -> None:
    world = PlantedWorld(WorldConfig(events=HEAVY))
    found = decomposition(world)
    assert world.kl == sorted(world.kl)
    for _, one in found[found["sinks"] == "dropped"].groupby("seed"):
        assert (one["shift_low"] > 0).all()
        assert (one["adaptation"] < 0).all()
        assert one["shift"].is_monotonic_increasing
        assert one["adaptation"].is_monotonic_decreasing
        assert one["contrast"].is_monotonic_decreasing
    assert (found["delta"] < found["shift"]).all(), "what a chain reports hides most of it"


@pytest.mark.slow
def test_intervals_by_prompt_hold_the_truth_as_often_as_they_say_and_those_by_row_do_not() -> None:
    world = PlantedWorld(WorldConfig(hops=1, clustering=0.3, events=(Redraw(directions=48),)))
    sae = ChainTrainer(world, SETTINGS, 0).train(())[Name(REAL, 0)].model
    prompts, each = 8000, 40
    stores = [world.rows("population", stage, prompts) for stage in (0, 1)]
    centre = stores[0].x.mean(0)
    shares = {}
    for unit, count in (("prompt", prompts), ("row", prompts * 20)):
        index = [rows.prompt if unit == "prompt" else torch.arange(count) for rows in stores]
        sums = [sums_of(sae, rows.x, places, count, centre) for rows, places in zip(stores, index, strict=True)]
        truth = float(nmse(sums[1]) - nmse(sums[0]))
        held = []
        for part in torch.arange(count).split(each * count // prompts):
            mine = [type(one)(*(tensor[part] for tensor in one)) for one in sums]
            draws = torch.from_numpy(np.random.default_rng(len(held)).multinomial(len(part), [1 / len(part)] * len(part), size=400))
            shift = (nmse(mine[1], draws) - nmse(mine[0], draws)).numpy()
            low, high = np.quantile(shift, [0.025, 0.975])
            held.append(low <= truth <= high)
        shares[unit] = float(np.mean(held))
    assert 0.90 <= shares["prompt"] <= 0.98, shares
    assert shares["row"] < 0.85, shares
