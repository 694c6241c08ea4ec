"""Section `probes`: which pools there are, and what is refused before any job starts."""

from pathlib import Path

import pytest

from workflow.config.probe_study import PoolAt, check_probes, every_pool
from workflow.config.section import ConfigError
from workflow.config.study import Study, load_study


def study(**sections: dict) -> Study:
    config = {"design": {"runs": {"strict": {}, "other": {}}}, "policies": {"stages": [8, 16]}}
    return load_study({name: config.get(name, {}) | sections.get(name, {}) for name in {*config, *sections}})


def test_base_has_one_pool_for_all_runs_and_the_last_stage_one_in_each() -> None:
    assert every_pool(study()) == [PoolAt("shared", "base"), PoolAt("strict", "ppo_0016"), PoolAt("other", "ppo_0016")]


def test_pools_follow_runs_and_stages() -> None:
    asked = study(probes={"runs": ["other"], "stages": ["ppo_0016", "ppo_0008"]})
    assert every_pool(asked) == [PoolAt("other", "ppo_0008"), PoolAt("other", "ppo_0016")]
    assert every_pool(study(probes={"stages": []})) == []


def test_a_pool_writes_as_long_as_the_other_traces_where_nothing_else_is_said() -> None:
    assert study(traces={"max_new_tokens": 99}).traces.pool_tokens == 99
    assert study(traces={"max_new_tokens": 99, "pool": {"max_new_tokens": 7}}).traces.pool_tokens == 7


@pytest.mark.parametrize(
    ("probes", "told"),
    [
        ({"runs": ["strikt"]}, r"only strict, other; got strikt"),
        ({"stages": ["ppo_0017"]}, r"base, ppo_0008, ppo_0016; got ppo_0017"),
        ({"labels": "nowhere.csv"}, r"existing file that ends in \.csv, \.jsonl, \.parquet; got nowhere\.csv"),
    ],
)
def test_what_a_study_does_not_have_is_refused(probes: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_probes(study(probes=probes))


def test_labels_of_another_form_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.xlsx").touch()
    with pytest.raises(ConfigError, match="existing file that ends in"):
        check_probes(study(probes={"labels": str(tmp_path / "labels.xlsx")}))


@pytest.mark.parametrize("probes", [{"stages": ["base", "base"]}, {"runs": []}, {"judge": {"url": "http://localhost/v1"}}])
def test_settings_that_do_not_go_together_are_refused(probes: dict) -> None:
    with pytest.raises(ConfigError, match=r"each value once|probes\.judge\.model must be set"):
        study(probes=probes)
