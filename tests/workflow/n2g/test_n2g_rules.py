"""Which jobs the phase n2g consists of, planned on an empty folder, and what is refused before."""

from pathlib import Path
from typing import Any

import pytest
from planning import planned
from tiny_study import write_study

from workflow.config.models import ModelShape
from workflow.config.n2g import ORIGINAL, N2gConfig
from workflow.config.preflight import _check_patterns
from workflow.config.section import ConfigError
from workflow.config.study import load_study

CELL = ("strict", "fixed", "topk", "0")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("planned") / "n2g", design={"layers": [0], "chains": ["real"]})


def jobs_of(study: Path, **n2g: Any) -> set[tuple[str, ...]]:
    with planned({"n2g": n2g}, targets=("n2g",), folder=study) as jobs:
        return {job for job in jobs if "n2g" in job[0]}


def test_base_and_the_last_stage_are_mined_and_followed(study: Path) -> None:
    assert jobs_of(study, latents=2) == {
        ("mine_n2g", *CELL, "0", "base"), ("mine_n2g", *CELL, "0", "ppo_0002"), ("follow_n2g", *CELL, "0"), ("make_n2g_tables",),
    }  # fmt: skip
    assert len(jobs_of(study, latents=[1, 5], stages=["base", "ppo_0001", "ppo_0002"])) == 5
    assert not jobs_of(study, latents=0)


def test_listed_latents_need_no_drift(study: Path) -> None:
    with planned({"n2g": {"latents": [3]}}, targets=("n2g",), folder=study) as jobs:
        assert "measure_drift" not in {job[0] for job in jobs}


@pytest.mark.parametrize(
    ("n2g", "told"),
    [
        ({"latents": [4, 9999]}, r"must lie between 0 and 127.*got \[9999\]"),
        ({"stages": ["ppo_0007"]}, r"n2g\.stages must be among the stages base, .*got ppo_0007"),
        ({"stages": []}, "it names none of strict"),
    ],
)
def test_unknown_stages_and_latents_are_refused_before_any_job(n2g: dict[str, Any], told: str) -> None:
    study = load_study({"n2g": n2g, "saes": {"expansion": 2}})
    with pytest.raises(ConfigError, match=told):
        _check_patterns(study, ModelShape(layers=30, d_model=64, parameters=1))


def test_the_published_form_sets_its_settings_whatever_is_given() -> None:
    settings = N2gConfig(method="original", top=3, keep=0.9)
    assert {name: getattr(settings, name) for name in ORIGINAL} == ORIGINAL


def test_something_must_be_put_in_the_place_of_tokens() -> None:
    with pytest.raises(ValueError, match="must replace tokens with something"):
        N2gConfig(random_tokens=0, mean_embedding=False)
    with pytest.raises(ValueError, match="name each latent once"):
        N2gConfig(latents=[1, 1])
