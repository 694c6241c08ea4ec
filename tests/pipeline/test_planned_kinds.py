"""Which jobs a study of several kinds consists of, planned on an empty folder: nothing runs."""

from pathlib import Path

import pytest
import yaml
from planning import planned
from tiny_study import write_study

KINDS = ("batchtopk", "jumprelu", "topk")
DESIGN = {"kinds": ["topk", "jumprelu", "batchtopk"]}
SAES = {"by_kind": {"jumprelu": {"sparsity_coef": 0.1}}}
HOPS = ("ppo_0001", "ppo_0002")
CELLS = {("shared", "real", "base"), *(("strict", chain, stage) for chain in ("real", "null") for stage in HOPS)}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("planned") / "kinds", design=DESIGN, saes=SAES)


def jobs_of(study: Path, **saes: object) -> set[tuple[str, ...]]:
    with planned({"saes": saes}, folder=study) as jobs:
        return jobs


def test_every_kind_has_its_own_saes_and_measurements(study: Path) -> None:
    jobs = jobs_of(study)
    trained = {job[1:] for job in jobs if job[0] == "train_sae"}
    assert trained == {
        (run, "fixed", kind, chain, "0", stage, layer) for run, chain, stage in CELLS for kind in KINDS for layer in ("0", "1")
    }
    measured = {job[1:] for job in jobs if job[0] == "measure_drift"}
    assert measured == {("strict", "fixed", kind, "0", layer) for kind in KINDS for layer in ("0", "1")}
    assert "train_kinds" not in {job[0] for job in jobs}


def test_together_one_job_trains_all_kinds_of_a_cell_and_the_rest_is_the_same(study: Path) -> None:
    apart, together = jobs_of(study), jobs_of(study, together=True)
    trained = {job[1:] for job in together if job[0] == "train_kinds"}
    assert trained == {(run, "fixed", chain, "0", stage, layer) for run, chain, stage in CELLS for layer in ("0", "1")}
    rules = ("train_sae", "train_kinds")
    assert {job for job in apart if job[0] not in rules} == {job for job in together if job[0] not in rules}
    assert "train_sae" not in {job[0] for job in together}


def test_the_settings_of_a_job_are_those_of_its_kind_layer_and_hop(study: Path) -> None:
    found = params(study, by_layer={"1": {"k": 3}}, by_kind={"topk": {"lr": 0.01}, "jumprelu": {"sparsity_coef": 0.2}})
    assert found["train_sae", "topk", "0", "base"]["saes"]["lr"] == 0.01
    assert found["train_sae", "topk", "1", "base"]["saes"]["k"] == 3
    assert found["train_sae", "batchtopk", "0", "base"]["saes"]["lr"] == 0.001
    assert found["train_sae", "jumprelu", "0", "ppo_0001"]["saes"]["sparsity_coef"] == 0.2
    assert found["train_sae", "topk", "0", "base"]["compute"] == {"backend": "auto", "device": "auto"}
    text = yaml.safe_dump(found["train_sae", "topk", "0", "base"])
    assert "together" not in text, "how jobs are cut is not what they compute"
    joint = params(study, together=True)["train_kinds", None, "0", "base"]["saes"]
    assert list(joint) == list(KINDS)
    assert joint["jumprelu"] == params(study)["train_sae", "jumprelu", "0", "base"]["saes"]


def params(study: Path, **saes: object) -> dict[tuple[str, str | None, str, str], dict]:
    """`cfg` of the training jobs of seed 0 by rule, kind, layer and stage."""
    with planned({"saes": saes}, folder=study, jobs=True) as jobs:
        trainings = [job for job in jobs if job.rule.name.startswith("train_")]
        return {
            (job.rule.name, job.wildcards.get("kind"), job.wildcards["layer"], job.wildcards["stage"]): job.params.cfg
            for job in trainings
        }
