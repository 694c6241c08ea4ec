"""The claim gate: each condition alone can take a claim back, and what was not measured is not taken for true."""

from typing import Any

import pandas as pd
import pytest

from workflow.config.recipes import Recipe, recipes
from workflow.config.study import load_study
from workflow.drift.gate import claim_rows, one_side
from workflow.formats.claim_columns import BEYOND, EXPLORATORY, NO_NULL, NOT_BEYOND, Claim

RECIPES = {
    "strict": Recipe("strict", 0, ""),
    "again": Recipe("strict", 1, ""),
    "permuted": Recipe("permuted", 0, ""),
    "other": Recipe("strict", 0, "kl_coef 0"),
}
AT = {"kind": "topk", "layer": 10, "stage": "ppo_0008", "update": 8}


def estimate(name: str, value: float, spread: float = 0.01) -> dict[str, float]:
    return {name: value, f"{name}_low": value - spread, f"{name}_high": value + spread}


def decomposition(seeds: int = 3, **changes: Any) -> pd.DataFrame:
    """Every run, text and treatment of sinks with a shift of 0.1 and an adaptation of −0.08, permuted ones with none."""
    rows = []
    for run in RECIPES:
        for text in ("fixed", "replayed"):
            for seed in range(seeds):
                for sinks in ("dropped", "included"):
                    row: dict[str, Any] = {"run": run, "text": text, "seed": seed, "sinks": sinks} | AT
                    for prefix in ("", "anchored_"):
                        row |= estimate(f"{prefix}shift", 0.1) | estimate(f"{prefix}adaptation", -0.08)
                    rows.append(row | estimate("repeat_shift_floor", 0.02))
    return pd.DataFrame(rows)


def contrasts(against: str = "permuted", shift: float = 0.09, adaptation: float = -0.07) -> pd.DataFrame:
    rows = [
        {"run": "strict", "against": against, "text": text, "seed": seed, "sinks": "dropped"}
        | AT | estimate("shift", shift) | estimate("adaptation", adaptation)
        for text in ("fixed", "replayed") for seed in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def dictionary(real: int = 5, null: int = 4) -> pd.DataFrame:
    key = {"run": "strict", "text": "fixed"} | AT
    counts = {"real": real, "null": null, "cold": None}
    return pd.DataFrame(
        [key | {"seed": seed, "chain": chain, "rates_confirmed": counts[chain]} for seed in range(3) for chain in counts]
    )


def changed(table: pd.DataFrame, where: dict[str, Any], **values: Any) -> pd.DataFrame:
    rows = (table[list(where)] == pd.Series(where)).all(axis=1)
    assert rows.any()
    table = table.copy()
    table.loc[rows, list(values)] = list(values.values())
    return table


def verdict(table: pd.DataFrame, run: str = "strict", **others: Any) -> Claim:
    inputs = {"contrasts": contrasts(), "dictionary": dictionary(), "recipes": RECIPES} | others
    return next(claim for claim in claim_rows(table, **inputs) if (claim.run, claim.text) == (run, "fixed"))


def test_all_conditions_together_make_a_claim() -> None:
    claim = verdict(decomposition())
    assert (claim.verdict, claim.reward_verdict, claim.latents_verdict) == (BEYOND, BEYOND, BEYOND)
    assert (claim.failing, claim.missing, claim.sae_seeds, claim.rl_seeds) == (None, None, 3, 2)
    assert claim.shift == pytest.approx((0.1, 0.09, 0.11))


@pytest.mark.parametrize(
    ("where", "values", "failing"),
    [
        ({"text": "fixed", "sinks": "dropped", "seed": 2}, {"shift_low": -0.01}, "shift"),
        ({"text": "fixed", "sinks": "dropped", "seed": 1}, {"adaptation_high": 0.0}, "adaptation"),
        ({"text": "fixed", "sinks": "dropped", "seed": 1}, {"repeat_shift_floor_high": 0.07}, "above_floor"),
        ({"text": "fixed", "sinks": "dropped", "seed": 0}, {"anchored_shift_low": -0.01}, "anchored"),
        ({"text": "replayed", "sinks": "dropped"}, {"shift": -0.01}, "replayed"),
    ],
)
def test_one_failing_condition_of_one_seed_takes_the_claim_back(where: dict, values: dict[str, float], failing: str) -> None:
    claim = verdict(changed(decomposition(), {"run": "strict"} | where, **values))
    assert claim.verdict == claim.reward_verdict == claim.latents_verdict == NOT_BEYOND
    assert failing in str(claim.failing).split(", ")


def test_sinks_may_hide_an_effect_but_not_turn_it_round() -> None:
    where = {"run": "strict", "text": "fixed", "sinks": "included"}
    hidden = changed(decomposition(), where, adaptation_high=0.02)
    assert verdict(hidden).verdict == BEYOND
    turned = changed(hidden, where, adaptation=0.03, adaptation_low=0.01, adaptation_high=0.05)
    assert verdict(turned).failing == "with_sinks"


def with_sinks(table: pd.DataFrame, nmse: list[float]) -> pd.DataFrame:
    """The facts of sink rows in the lines that include them, one nmse per SAE seed."""
    table = table.assign(sink_rows=None, sink_variance=None, sink_error=None, sink_nmse=None).astype({"sink_nmse": float})
    for seed, value in enumerate(nmse):
        where = {"sinks": "included", "seed": seed}
        table = changed(table, where, sink_rows=0.024, sink_variance=0.974, sink_error=0.99991, sink_nmse=value)
    return table


@pytest.mark.parametrize("nmse", [1.0, 40.0, float("inf")])
@pytest.mark.parametrize("turned", [False, True])
def test_sinks_that_one_sae_of_base_does_not_know_measure_nothing(nmse: float, turned: bool) -> None:
    table = decomposition()
    if turned:
        where = {"run": "strict", "text": "fixed", "sinks": "included"}
        table = changed(table, where, adaptation=0.03, adaptation_low=0.01, adaptation_high=0.05)
    claim = verdict(with_sinks(table, [0.2, nmse, 0.2]))
    assert (claim.verdict, claim.missing, claim.holds_with_sinks) == (EXPLORATORY, "with_sinks", None)
    assert "2.4 % of the rows of base are sinks" in str(claim.about_sinks)
    assert "99.99 % of the squared error" in str(claim.about_sinks)
    assert "activations.max_norm_multiple" in str(claim.about_sinks)


def test_sinks_that_all_saes_of_base_know_can_hold_and_fail() -> None:
    table = with_sinks(decomposition(), [0.2, 0.9, 0.5])
    claim = verdict(table)
    assert (claim.verdict, claim.about_sinks) == (BEYOND, None)
    where = {"run": "strict", "text": "fixed", "sinks": "included"}
    turned = verdict(changed(table, where, adaptation=0.03, adaptation_low=0.01, adaptation_high=0.05))
    assert (turned.verdict, turned.failing) == (NOT_BEYOND, "with_sinks")
    assert "its nmse over them is 0.9. To include" in str(turned.about_sinks)


def test_an_rl_seed_on_the_opposite_side_fails_and_one_without_effect_does_as_well() -> None:
    where = {"run": "again", "text": "fixed", "sinks": "dropped"}
    opposite = changed(decomposition(), where, adaptation=0.03, adaptation_low=0.01, adaptation_high=0.05)
    assert verdict(opposite).failing == "same_in_seeds"
    assert verdict(changed(decomposition(), where, adaptation_high=0.01)).failing == "same_in_seeds"


def test_the_effect_must_exceed_the_floor_where_it_is_above_zero_as_well() -> None:
    where = {"text": "fixed", "sinks": "dropped"}
    risen = changed(decomposition(), where, adaptation=0.08, adaptation_low=0.07, adaptation_high=0.09)
    assert verdict(risen).holds_above_floor
    assert verdict(changed(risen, where, repeat_shift_floor_high=0.075)).holds_above_floor is False


def test_what_is_not_measured_makes_a_claim_exploratory() -> None:
    few = verdict(decomposition(seeds=2))
    assert (few.verdict, few.missing) == (EXPLORATORY, "same_in_seeds")
    alone = verdict(decomposition(), run="other")
    assert (alone.rl_seeds, alone.verdict, alone.missing) == (1, EXPLORATORY, "same_in_seeds")
    table = decomposition()
    bare = table[(table["text"] == "fixed") & (table["sinks"] == "dropped")].drop(columns=["repeat_shift_floor_high"])
    claim = verdict(bare, contrasts=pd.DataFrame(), dictionary=pd.DataFrame())
    assert claim.missing == "above_floor, with_sinks, replayed"
    assert claim.holds_reward is claim.holds_latents is None
    assert (claim.verdict, claim.reward_verdict) == (EXPLORATORY, EXPLORATORY)


def test_an_effect_that_permuted_rewards_have_too_is_none_of_the_reward() -> None:
    claim = verdict(decomposition(), contrasts=contrasts(adaptation=0.002))
    assert (claim.verdict, claim.reward_verdict) == (BEYOND, NOT_BEYOND)
    unrelated = verdict(decomposition(), contrasts=contrasts(against="other", adaptation=0.002))
    assert unrelated.holds_reward is None, "only a run with permuted rewards says so"


def test_latents_that_change_for_one_frozen_sae_alone_are_no_claim() -> None:
    claim = verdict(decomposition(), dictionary=dictionary(real=5, null=0))
    assert (claim.verdict, claim.latents_verdict) == (BEYOND, NOT_BEYOND)


def test_without_null_chain_nothing_is_claimed() -> None:
    table = decomposition()
    table[[name for name in table if "adaptation" in name]] = float("nan")
    claim = verdict(table, contrasts=pd.DataFrame())
    assert (claim.verdict, claim.adaptation, claim.holds_adaptation) == (NO_NULL, None, None)


def test_an_interval_that_touches_zero_is_on_no_side() -> None:
    assert one_side(pd.DataFrame({"x_low": [0.0], "x_high": [0.1]}), "x") == 0
    assert one_side(pd.DataFrame({"x_low": [0.01, 0.02], "x_high": [0.1, 0.1]}), "x") == 1
    assert one_side(pd.DataFrame({"x_low": [-0.2], "x_high": [-0.1]}), "x") == -1
    assert one_side(pd.DataFrame({"x_low": [float("nan")], "x_high": [float("nan")]}), "x") is None


def test_runs_repeat_and_control_each_other_by_their_settings() -> None:
    runs = {"a": {}, "b": {"seed": 4}, "c": {"seed": 5, "kl_coef": 0.1}, "p": {"reward": "permuted", "seed": 9}}
    found = recipes(load_study({"design": {"runs": runs}}))
    assert [run for run in found if found[run].repeats(found["a"])] == ["a", "b"]
    assert [run for run in found if found[run].controls(found["a"])] == ["p"]
    assert not any(found[run].controls(found["c"]) for run in found)
    assert not any(found[run].controls(found["p"]) for run in found)
