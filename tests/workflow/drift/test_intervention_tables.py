"""Tables of interventions from sums whose answers are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from workflow.config.section import ConfigError
from workflow.drift.intervention_tables import causal_table, solving_table, splice_tables
from workflow.formats.drift_columns import schema
from workflow.formats.intervention_columns import SPLICE_TABLES, Causal, Solving
from workflow.formats.interventions import CAUSAL, OUTPUTS, SOLVING, SPLICE, write_sums

PROBLEMS = [f"p{number:02d}" for number in range(12)]
TOKENS = np.arange(4, 16)
STAGES = {"strict": [("base", 0), ("ppo_0008", 8)], "permuted": [("base", 0), ("ppo_0008", 8)]}
BOOTSTRAP = {"replicates": 400, "confidence": 0.95, "seed": 0}
CE = {"nothing": 1.0, "real": 1.2, "frozen": 1.3, "null": 1.25, "mean": 3.0, "zero": 5.0}
NOISE = np.random.default_rng(0).normal(size=12)


def written(folder: Path, artefact: str, records: list[dict[str, Any]], schema: Any, **facts: Any) -> tuple[Path, Path]:
    write_sums(folder / "sums.parquet", folder / "manifest.json", artefact, records, schema, **facts)
    return folder / "sums.parquet", folder / "manifest.json"


def a_splice(folder: Path, run: str, stage: str, puts: dict[str, float], problems: list[str] = PROBLEMS) -> tuple[Path, Path]:
    """A problem's loss has a size of its own, the same in all: differences between interventions are exact."""
    records = [
        {"put": put, "problem": problem, "tokens": int(tokens), "ce": tokens * (ce + noise), "kl": tokens * (ce - 1.0) / 2}
        for put, ce in puts.items()
        for problem, tokens, noise in zip(problems, TOKENS, NOISE, strict=True)
    ]
    facts = {
        "run": run,
        "text": "onpolicy",
        "kind": "topk",
        "seed": 0,
        "layer": 5,
        "stage": stage,
        "problems": PROBLEMS,
        "saes": {},
    }
    return written(folder, "splice", records, SPLICE, **facts)


def an_output(folder: Path, run: str) -> tuple[Path, Path]:
    per_token = {"ce": 1.0, "ce_base": 1.5, "kl": 0.25, "kl_reverse": 0.5, "entropy": 0.75, "entropy_base": 1.0}
    records = [
        {"problem": problem, "tokens": int(tokens), **{name: tokens * value for name, value in per_token.items()}}
        for problem, tokens in zip(PROBLEMS, TOKENS, strict=True)
    ]
    return written(folder, "outputs", records, OUTPUTS, run=run, text="fixed", stage="ppo_0008", problems=PROBLEMS)


def tabulate(folder: Path, *splices: tuple[Path, Path]) -> dict[str, pd.DataFrame]:
    tables = {name: (folder / f"{name}.parquet", folder / f"{name}.csv") for name in ("splice", "outputs")}
    splice_tables(
        splices=list(splices), outputs=[an_output(folder / "outputs", "strict")], stages=STAGES, bootstrap=BOOTSTRAP,
        tables=tables, manifest=folder / "manifest.json",
    )  # fmt: skip
    return {name: pd.read_parquet(parquet) for name, (parquet, _) in tables.items()}


def test_losses_shares_and_paired_differences_are_those_of_the_sums(tmp_path: Path) -> None:
    table = tabulate(tmp_path, a_splice(tmp_path / "a", "strict", "ppo_0008", CE))["splice"]
    assert list(zip(table.chain, table.sae_stage, strict=True)) == [("real", "ppo_0008"), ("null", "ppo_0008"), ("real", "base")]
    real, null, frozen = table.to_dict("records")
    assert real["tokens"] == TOKENS.sum()
    assert real["ce"] == pytest.approx(1 + (TOKENS * NOISE).sum() / TOKENS.sum())
    for row, delta in ((real, 0.2), (null, 0.25), (frozen, 0.3)):
        assert [row[f"delta_ce{end}"] for end in ("", "_low", "_high")] == pytest.approx([delta] * 3), "the same in every replicate"
        assert row["kl"] == pytest.approx(delta / 2)
        assert row["recovered_mean"] == pytest.approx((2 - delta) / 2)
        assert row["recovered_zero"] == pytest.approx((4 - delta) / 4)
    assert (real["over_frozen"], real["over_null"]) == pytest.approx((-0.1, -0.05))
    assert null["over_frozen"] == pytest.approx(-0.05)
    assert np.isnan([null["over_null"], frozen["over_null"], frozen["over_frozen"]]).all()


def test_base_is_told_once_per_run_and_lacks_what_was_not_measured(tmp_path: Path) -> None:
    puts = {name: CE[name] for name in ("nothing", "real", "zero")}
    table = tabulate(tmp_path, a_splice(tmp_path / "a", "shared", "base", puts))["splice"]
    assert list(table.run) == ["permuted", "strict"]
    assert set(zip(table.stage, table.sae_stage, table["update"], strict=True)) == {("base", "base", 0)}
    assert table.recovered_mean.isna().all()
    assert table.over_frozen.isna().all()


def test_intervals_are_those_of_other_prompts(tmp_path: Path) -> None:
    """With a difference that varies by prompt, the interval is about that of the mean's standard error."""
    folder, manifest = a_splice(tmp_path / "a", "strict", "ppo_0008", {"nothing": 1.0, "real": 1.2})
    sums = pd.read_parquet(folder)
    mine = sums["put"] == "real"
    sums.loc[mine, "ce"] += TOKENS * NOISE
    write_sums(
        folder, manifest, "splice", sums.to_dict("records"), SPLICE, run="strict", text="onpolicy", kind="topk", seed=0, layer=5,
        stage="ppo_0008", problems=PROBLEMS, saes={},
    )  # fmt: skip
    row = tabulate(tmp_path, (folder, manifest))["splice"].iloc[0]
    width = row["delta_ce_high"] - row["delta_ce_low"]
    expected = 2 * 1.96 * NOISE.std() / np.sqrt(len(PROBLEMS))
    assert 0.6 * expected < width < 1.5 * expected


def test_outputs_are_means_per_token(tmp_path: Path) -> None:
    row = tabulate(tmp_path, a_splice(tmp_path / "a", "strict", "ppo_0008", CE))["outputs"].iloc[0]
    assert (row["kl"], row["kl_reverse"], row["entropy_change"], row["ce"], row["ce_base"]) == (0.25, 0.5, -0.25, 1.0, 1.5)
    assert row["update"] == 8


def test_sums_of_other_problems_or_of_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="12 problems that their manifest names"):
        tabulate(tmp_path, a_splice(tmp_path / "a", "strict", "ppo_0008", CE, problems=PROBLEMS[::-1]))
    sums, manifest = a_splice(tmp_path / "b", "strict", "ppo_0008", CE)
    records = [record for record in pd.read_parquet(sums).to_dict("records") if record["problem"] == PROBLEMS[0]]
    facts = {"run": "strict", "text": "onpolicy", "kind": "topk", "seed": 0, "layer": 5, "stage": "ppo_0008", "saes": {}}
    write_sums(sums, manifest, "splice", records, SPLICE, **facts, problems=PROBLEMS[:1])
    with pytest.raises(ConfigError, match="at least 2 prompts"):
        tabulate(tmp_path, (sums, manifest))


def test_causal_rows_are_means_of_members_with_both_tails(tmp_path: Path) -> None:
    effects = {
        ("nothing", "policy"): [(1.0, 0.0)], ("nothing", "base"): [(2.0, 0.5)], ("zero", "drifted"): [(1.3, 0.2), (1.1, 0.4)],
        ("zero", "random"): [(0.9, 0.1), (1.2, 0.1), (1.0, 0.1)], ("zero", "null"): [(1.1, 0.25)],
        ("transplant", "drifted"): [(1.8, 0.4)], ("transplant", "all"): [(1.5, 0.1)], ("transplant", "all_null"): [(2.0, 0.6)],
    }  # fmt: skip
    records = [
        {"action": action, "group": group, "member": member, "strength": 0.0, "problem": problem, "tokens": int(tokens),
         "ce": tokens * (ce + noise), "kl": tokens * kl}
        for (action, group), members in effects.items()
        for member, (ce, kl) in enumerate(members)
        for problem, tokens, noise in zip(PROBLEMS, TOKENS, NOISE, strict=True)
    ]  # fmt: skip
    facts = {"run": "strict", "text": "onpolicy", "kind": "topk", "seed": 0, "layer": 5, "stage": "ppo_0008", "latents": []}
    check = written(tmp_path / "check", "causal", records, CAUSAL, **facts, problems=PROBLEMS)
    files = (tmp_path / "causal.parquet", tmp_path / "causal.csv")
    causal_table(checks=[check], stages=STAGES, bootstrap=BOOTSTRAP, table=files, manifest=tmp_path / "manifest.json")
    table = pd.read_parquet(files[0]).set_index(["action", "group"])
    assert len(table) == len(effects) - 2
    random, drifted = table.loc[("zero", "random")], table.loc[("zero", "drifted")]
    assert (random["delta_ce_least"], random["delta_ce_most"]) == pytest.approx((-0.1, 0.2))
    assert (drifted["delta_ce"], drifted["kl"], drifted["members"]) == pytest.approx((0.2, 0.3, 2))
    assert (drifted["over_random"], drifted["over_null"]) == pytest.approx((0.2, 0.05))
    assert np.isnan(random["over_random"])
    moved, every = table.loc[("transplant", "drifted")], table.loc[("transplant", "all")]
    assert (moved["delta_ce"], moved["kl_change"]) == pytest.approx((-0.2, -0.1))
    assert (every["kl_change"], every["over_null"]) == pytest.approx((-0.4, -0.5))


RIGHT = {
    "nothing": "rrrrrrrrwwww",
    "real": "rrrrrrwwwwwr",
    "frozen": "wwwwwwwwwwww",
    "null": "rrrrwwwwwwww",
    "zero": "wwwwwwwwwwww",
}
"""Answers to the twelve problems, right or wrong."""


def some_answers(folder: Path, run: str, stage: str) -> tuple[Path, Path]:
    records = [
        {"put": put, "problem": problem, "strict": verdict == "r", "flexible": True, "verl_strict": False, "verl_flexible": False,
         "finished": verdict == "r", "tokens": 10 if put == "nothing" else 20, "response": verdict}
        for put, verdicts in RIGHT.items() for problem, verdict in zip(PROBLEMS, verdicts, strict=True)
    ]  # fmt: skip
    facts = {"run": run, "text": "onpolicy", "kind": "topk", "seed": 0, "layer": 5, "stage": stage, "problems": PROBLEMS}
    return written(folder, "solving", records, SOLVING, **facts)


def solved(folder: Path, *answers: tuple[Path, Path]) -> pd.DataFrame:
    table = folder / "solving.parquet"
    solving_table(
        solved=answers, stages=STAGES, bootstrap=BOOTSTRAP, table=(table, folder / "solving.csv"), manifest=folder / "manifest.json"
    )
    return pd.read_parquet(table)


def test_accuracies_flips_and_paired_differences_are_those_of_the_answers(tmp_path: Path) -> None:
    table = solved(tmp_path, some_answers(tmp_path / "one", "strict", "ppo_0008"))
    assert list(table["sae_stage"]) == ["ppo_0008"] * 4 + ["base"] * 2
    strict = table[table["rule"] == "strict"].set_index(["chain", "sae_stage"])
    real, null, frozen = (strict.loc[key] for key in (("real", "ppo_0008"), ("null", "ppo_0008"), ("real", "base")))
    assert [real[f"{a}_{b}"] for a in ("right", "wrong") for b in ("right", "wrong")] == [6, 2, 1, 3]
    assert (real["accuracy"], real["accuracy_spliced"], real["change"]) == pytest.approx((8 / 12, 7 / 12, -1 / 12))
    assert real["flip_p"] == pytest.approx(1.0)  # 2 against 1 of 3
    assert frozen["flip_p"] == pytest.approx(2 / 2**8)
    assert (real["over_frozen"], real["over_null"]) == pytest.approx((7 / 12, 3 / 12))
    assert np.isnan([frozen["over_frozen"], null["over_null"], real["accuracy_mean"]]).all()
    assert (real["accuracy_zero"], real["same"], real["response_tokens_spliced"]) == pytest.approx((0, 9 / 12, 20))
    assert real["change_low"] < real["change"] < real["change_high"]
    unpaired = real["accuracy_high"] - real["accuracy_low"] + real["accuracy_spliced_high"] - real["accuracy_spliced_low"]
    assert real["change_high"] - real["change_low"] < unpaired
    assert set(table.loc[table["rule"] == "flexible", "change"]) == {0}


def test_answers_of_base_are_told_in_every_run_and_others_are_refused(tmp_path: Path) -> None:
    table = solved(tmp_path, some_answers(tmp_path / "base", "shared", "base"))
    assert set(table["run"]) == {"strict", "permuted"}
    answers, manifest = some_answers(tmp_path / "one", "strict", "ppo_0008")
    found = pq.read_table(answers)
    pq.write_table(found.filter(pc.field("problem") != "p03"), answers)
    with pytest.raises(ConfigError, match="one each; got 11"):
        solved(tmp_path, (answers, manifest))


@pytest.mark.parametrize("table", [*SPLICE_TABLES.values(), Solving, Causal])
def test_every_column_is_explained_in_the_docs(table: type) -> None:
    text = (Path(__file__).parents[3] / "docs/interventions.md").read_text(encoding="utf-8")
    section = text[text.index(f"## {table.__name__.lower()}: ") :]
    assert not [name for name in schema(table).names if f"`{name}`" not in section]
