"""The study that a configuration describes: stages, hops, parts and what is shared."""

import jsonschema
import pytest
import yaml
from planning import ROOT

from workflow.config.document import SCHEMA, schema_text
from workflow.config.section import sorted_plain
from workflow.config.study import load_study

GIVEN = {
    "source": "given",
    "given": {"strict": [{"stage": s, "model": f"m/{s}"} for s in ("base", "ppo_0010", "ppo_0116")]},
}


def test_trained_stages_sort_by_name_as_by_update() -> None:
    stages = load_study({"policies": {"stages": [5, 50, 500]}}).stages("strict")
    assert (
        [stage.name for stage in stages] == sorted(stage.name for stage in stages) == ["base", "ppo_0005", "ppo_0050", "ppo_0500"]
    )
    assert [stage.hop for stage in stages] == [0, 1, 2, 3]


def test_given_stages_tell_their_updates_by_name_or_number() -> None:
    study = load_study({"policies": GIVEN})
    assert [stage.update for stage in study.stages("strict")] == [0, 10, 116]
    assert study.before("strict", "ppo_0116") == "ppo_0010"


@pytest.mark.parametrize("stages", [["base"], ["ppo_0010", "base"], ["base", "base"], ["base", "tuned"], ["base", "b_20", "a_10"]])
def test_given_stages_out_of_order_are_refused(stages: list[str]) -> None:
    with pytest.raises(ValueError, match=r"policies\.given|Stage"):
        load_study({"policies": {"source": "given", "given": {"r": [{"stage": s, "model": "m"} for s in stages]}}})


def test_fresh_hops_read_their_own_part_and_the_null_chain_reads_them_from_base() -> None:
    study = load_study({"policies": {"stages": [5, 10]}})
    assert study.parts("shared", "fixed", "base") == ["heldout", "hop_0", "hop_1", "hop_2"]
    assert study.parts("strict", "fixed", "ppo_0005") == ["heldout", "hop_1"]


def test_without_null_chain_or_with_same_rows_base_is_read_once() -> None:
    assert load_study({"design": {"chains": ["real"]}}).parts("shared", "fixed", "base") == ["heldout", "hop_0"]
    same = load_study({"saes": {"hop_rows": "same"}})
    assert same.parts("shared", "fixed", "base") == same.parts("strict", "fixed", "ppo_0016") == ["heldout", "hop_0"]


def test_texts_that_train_no_sae_are_read_on_heldout_problems_only() -> None:
    assert load_study({}).parts("strict", "onpolicy", "ppo_0016") == ["heldout"]


def test_base_is_shared_by_runs_but_for_the_text_that_depends_on_the_run() -> None:
    study = load_study({})
    assert [study.home("strict", text, "base") for text in ("fixed", "onpolicy", "replayed")] == ["shared", "shared", "strict"]
    assert study.home("strict", "fixed", "ppo_0008") == "strict"


def test_params_are_plain_and_sorted_at_every_level() -> None:
    assert list(sorted_plain({"b": {"d": 1, "c": (2, {"z": 1, "a": 2})}, "a": 0})) == ["a", "b"]
    params = load_study({}).params()
    assert yaml.safe_load(yaml.safe_dump(params)) == params


def test_the_schema_file_is_up_to_date_and_accepts_the_default_configuration() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "run: python -m workflow.config.document"
    jsonschema.validate(yaml.safe_load((ROOT / "config.yaml").read_text()), yaml.safe_load(SCHEMA.read_text()))


def test_the_schema_refuses_an_unknown_key() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"saes": {"kk": 1}}, yaml.safe_load(SCHEMA.read_text()))


@pytest.mark.parametrize(("confidence", "least"), [(0.95, 40), (0.9, 20), (0.5, 4)])
def test_so_few_replicates_that_an_interval_has_no_ends_are_refused(confidence: float, least: int) -> None:
    load_study({"drift": {"confidence": confidence, "replicates": least}})
    with pytest.raises(ValueError, match=rf"drift\.replicates must be at least {least}"):
        load_study({"drift": {"confidence": confidence, "replicates": least - 1}})
