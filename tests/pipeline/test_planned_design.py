"""The factors of a design: which jobs a value adds, and that it touches none of those there were; planned, nothing runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from planning import ROOT, planned
from snakemake.utils import update_config
from tiny_study import run_study, write_study

from workflow.config.plan import plan_of
from workflow.config.plan_text import describe
from workflow.config.preflight import base_shape
from workflow.config.study import Study, load_study

STAGES = ("ppo_0001", "ppo_0002")
GATHER = {"drift_tables", "make_report", "representation_table", "crosscoder_table", "agreement_table"}
"""Rules that read everything."""
DOOR = dict.fromkeys(("splice_tables", "solving_tables", "causal_tables"), "interventions") | {
    "ssae_tables": "ssae",
    "ssae_latents": "ssae",
}
"""Phase of the rules whose script is in the room `drift`."""
Jobs = dict[tuple[str, ...], tuple[str, list[str]]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("planned") / "design")


@pytest.fixture(scope="module")
def before(study: Path) -> Jobs:
    return jobs_of(study)


def jobs_of(study: Path, **design: Any) -> Jobs:
    """Params and inputs, which is all that decides about a re-run, of every job by rule and wildcards."""
    with planned({"design": design}, folder=study, jobs=True) as jobs:
        return {(job.rule.name, *map(str, job.wildcards)): (repr(list(job.params)), sorted(map(str, job.input))) for job in jobs}


@pytest.mark.parametrize(
    ("design", "added", "changed"),
    [
        ({"runs": {"permuted": {"reward": "permuted"}}}, {"permuted"}, set()),
        ({"kl_sweep": [0.02, 0.5]}, {"strict_kl_0p5"}, set()),
        ({"rl_seeds": [0, 1]}, {"strict_seed_1"}, set()),
        ({"seeds": [0, 7]}, {"7"}, {"representation"}),
        ({"kinds": ["topk", "batchtopk"]}, {"batchtopk"}, {"representation"}),
        ({"texts": ["fixed", "replayed"]}, {"replayed", "replayed_text"}, set()),
        ({"chains": ["real", "null", "cold"]}, {"cold"}, {"measure_drift"}),
        ({"chains": ["real", "null", "repeat"]}, {"repeat"}, {"measure_drift"}),
    ],
)
def test_another_value_adds_its_jobs_and_changes_none_that_were_there(
    study: Path, before: Jobs, design: dict[str, Any], added: set[str], changed: set[str]
) -> None:
    after = jobs_of(study, **design)
    assert {job[0] for job in before if before[job] != after[job]} - GATHER == changed
    new = after.keys() - before.keys()
    assert all(added & set(job) for job in new)
    assert {job[0] for job in new} >= ({"train_sae"} if "texts" not in design else {"replayed_text", "extract_shard"})


def test_control_chains_start_where_they_say(study: Path) -> None:
    jobs = jobs_of(study, chains=["real", "null", "cold", "repeat"])

    def of(chain: str, stage: str) -> set[str]:
        _, inputs = jobs["train_sae", "strict", "fixed", "topk", chain, "0", stage, "0"]
        return {path for path in inputs if path.startswith("results/saes") and path.endswith("manifest.json")}

    def sae(chain: str, stage: str) -> str:
        run = "shared" if stage == "base" else "strict"
        return f"results/saes/{run}/fixed/topk/{chain}/seed_0/{stage}/layer_0/manifest.json"

    assert of("null", "ppo_0002") == {sae("null", "ppo_0001")}
    assert of("null", "ppo_0001") == of("real", "ppo_0001") == {sae("real", "base")}
    assert of("repeat", "ppo_0002") == {sae("real", "ppo_0002")}
    assert of("cold", "ppo_0002") == {sae("real", stage) for stage in ("base", *STAGES)}
    assert {job[4] for job in jobs if job[0] == "train_sae" and job[6] == "base"} == {"real"}
    rows = {
        chain: jobs["train_sae", "strict", "fixed", "topk", chain, "0", "ppo_0002", "0"][1] for chain in ("real", "cold", "repeat")
    }
    stores = {chain: [path for path in inputs if "activations" in path] for chain, inputs in rows.items()}
    assert stores["real"] == stores["cold"] == stores["repeat"]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"design": {"runs": {"permuted": {"reward": "permuted"}}, "rl_seeds": [1], "texts": ["fixed", "onpolicy", "replayed"]}},
        {
            "design": {"kinds": ["topk", "batchtopk"], "chains": ["real", "null", "cold", "repeat"], "seeds": [0, 1]},
            "saes": {"together": True},
            "activations": {"shards": 2},
            "traces": {"greedy_problems": 4},
        },
        {
            "design": {"rl_seeds": [1], "texts": ["fixed", "onpolicy", "replayed"]},
            "interventions": {"problems": 4, "texts": ["fixed", "replayed"], "causal": {"latents": 2}, "solving": {"problems": 3}},
        },
        {
            "design": {"rl_seeds": [1], "texts": ["fixed", "onpolicy"]},
            "traces": {"splits": ["train", "val", "test"]},
            "ssae": {
                "stages": ["base", "ppo_0001"],
                "chains": ["real", "null"],
                "seeds": [0, 1],
                "target_l1": 3,
                "data": {"text": "onpolicy"},
            },
        },
        {
            "design": {"rl_seeds": [1], "kinds": ["topk", "batchtopk"]},
            "ssae": {"stages": ["base"], "target_l1": 3},
            "n2g": {"latents": 4, "steps": {"latents": 2}},
        },
        {"probes": {"stages": None}},
        {"probes": {"stages": ["base"]}, "voting": {"enabled": False}},
    ],
)
def test_the_stated_cost_counts_the_jobs_that_are_planned(study: Path, config: dict[str, Any]) -> None:
    with planned(config, folder=study, jobs=True) as jobs:
        found: dict[str, int] = {}
        for job in jobs:
            phase = DOOR.get(job.rule.name) or Path(str(job.rule.script)).parent.name
            found[phase] = found.get(phase, 0) + 1
    stated = merged(study, config)
    plan = plan_of(stated, base_shape(stated))
    assert {phase: count for phase, count in plan.jobs.items() if count} == found
    text = describe(stated, plan)
    assert len(text.splitlines()) <= 12
    assert f"= {sum(found.values())}" in text


def test_a_dry_run_shows_factors_and_cost(study: Path) -> None:
    stated = merged(study, {})
    assert describe(stated, plan_of(stated, base_shape(stated))) in run_study(study, "--dry-run")


def merged(study: Path, config: dict[str, Any]) -> Study:
    """The study that Snakemake sees: config.yaml of the repository, of the folder, and what is given beside."""
    whole: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(whole, yaml.safe_load((study / "config.yaml").read_text()))
    update_config(whole, config)
    whole["policies"]["model"], whole["problems"]["source"] = str(study / "tiny-model"), str(study / "problems.jsonl")
    return load_study(whole)
