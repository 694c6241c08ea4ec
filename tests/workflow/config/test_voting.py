"""Section voting: the preset, and votes that no pool can give."""

import pytest

from workflow.config.section import ConfigError
from workflow.config.study import load_study
from workflow.config.voting import VotingConfig
from workflow.config.voting_checks import check_voting

PUBLISHED = {"samples": 16, "temperature": 0.7, "top_p": 0.9}


def test_the_preset_fixes_what_was_published_and_nothing_else() -> None:
    own, preset = VotingConfig(seed=3), VotingConfig(preset="ssae_paper", seed=3)
    assert preset.counting() == own.counting() | {"k": 16, "taus": [0.8], "aggregations": ["mean"]}
    assert "enabled" not in own.counting()
    check_voting(load_study({"voting": {"preset": "ssae_paper"}, "traces": {"pool": PUBLISHED}}))


@pytest.mark.parametrize(
    ("voting", "pool", "message"),
    [
        ({"k": 9}, {"samples": 8}, "samples must be at least the 9 traces of a vote; got 8"),
        ({"preset": "ssae_paper"}, PUBLISHED | {"samples": 8}, "16 traces of a vote; got 8.*the preset has as many"),
        ({"preset": "ssae_paper"}, {"samples": 16}, "sampled at temperature 0.7, top_p 0.9; got temperature 1, top_p 1"),
        ({}, {"problems": {"test": 0}}, "problems.test must be above 0"),
    ],
)
def test_votes_that_no_pool_can_give_are_refused(voting: dict, pool: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_voting(load_study({"voting": voting, "traces": {"pool": pool}}))


def test_nothing_is_refused_where_nothing_is_voted_on() -> None:
    check_voting(load_study({"voting": {"k": 99, "enabled": False}}))
    check_voting(load_study({"voting": {"k": 99}, "probes": {"stages": []}}))


@pytest.mark.parametrize("values", [{"taus": []}, {"taus": [1.0, 1.0]}, {"curve": []}, {"taus": [0.0]}, {"k": 0}])
def test_lists_hold_each_value_once_and_one_at_least(values: dict) -> None:
    with pytest.raises(ConfigError, match=r"voting"):
        load_study({"voting": values})
