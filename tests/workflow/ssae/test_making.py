"""What an SSAE of a study starts from: language models, the SSAE before it, or one that is given; its manifest tells its place."""

import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_steps import write_lines
from steps_in_use import small_step_sae

from workflow.config.section import ConfigError
from workflow.config.ssae import SsaeConfig
from workflow.formats.manifest import read_manifest
from workflow.formats.published.step_saes import write_published
from workflow.formats.step_saes import ARTEFACT, FILE
from workflow.ssae.forms import StepRules
from workflow.ssae.making import Place, make_step_sae
from workflow.ssae.step_cache import step_cache

QUICK = {"epochs": 1, "batch": 8, "micro_batch": 4, "warmup_epochs": 0, "max_updates": 1, "precision": "fp32"}
ROOT = Place("shared", "real", 0, "base")
LATER = Place("strict", "null", 0, "ppo_0008")


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    """Steps, and a published file."""
    rows = [{"question": f"{n} + 1?", "answer": f"{n} + 1 = {n + 1}\nso\n#### {n + 1}"} for n in range(12)]
    source = write_lines(tmp_path / "a.json", rows)
    step_cache(source=source, tokenizer=tiny_llama, rules=StepRules(format="gsm8k"), folder=tmp_path / "steps")
    write_published(tmp_path / "given.pt", small_step_sae(tiny_llama).state_dict(), base_model=str(tiny_llama), training={})
    return tmp_path


def made(folder: Path, base: Path, name: str, place: Place = ROOT, warm: str | None = None, **settings: Any) -> dict[str, Any]:
    """The manifest of an SSAE that is made in the folder `name`."""
    section = {"data": {"format": "gsm8k", "train": "a.json", "valid_share": 0.3}, "target_l1": 3.0, "training": QUICK, **settings}
    make_step_sae(
        place=place, steps=folder / "steps/manifest.json", valid=None, policy=base, folder=folder / name, device="cpu",
        key="k" * 16, warm=folder / warm / "manifest.json" if warm else None, settings=SsaeConfig(**section),
    )  # fmt: skip
    return read_manifest(folder / name / "manifest.json", ARTEFACT)


def test_a_later_one_goes_on_from_the_one_before_and_both_tell_their_place(folder: Path, tiny_llama: Path) -> None:
    first = made(folder, tiny_llama, "first")
    assert [first[name] for name in (*Place._fields, "parent")] == [*ROOT, None]
    second = made(folder, tiny_llama, "second", LATER, warm="first")
    assert [second[name] for name in (*Place._fields, "parent")] == [*LATER, first["digest"]]
    cold = made(folder, tiny_llama, "cold", LATER._replace(chain="cold"))
    assert cold["parent"] is None


def test_base_takes_what_is_given_and_later_ones_do_not(folder: Path, tiny_llama: Path) -> None:
    given = {"source": "given", "given": {"model": str(folder / "given.pt"), "resume": True}}
    adopted = made(folder, tiny_llama, "adopted", **given)
    assert [adopted[name] for name in (*Place._fields, "updates")] == [*ROOT, None]
    later = made(folder, tiny_llama, "later", LATER, warm="adopted", **given)
    assert (later["parent"], later["updates"]) == (adopted["digest"], 1)
    continued = made(folder, tiny_llama, "continued", source="continued", given={"model": str(folder / "given.pt")})
    assert (continued["parent"], continued["updates"]) == (adopted["parent"], 1)


def test_one_that_saedrift_trained_is_taken_as_it_is_with_what_is_known_of_it(folder: Path, tiny_llama: Path) -> None:
    first = made(folder, tiny_llama, "first")
    again = made(folder, tiny_llama, "again", ROOT._replace(seed=3), source="given", given={"model": str(folder / "first")})
    assert {**again, "parent": None, "seed": 0} == first
    assert again["parent"] == first["digest"]
    weights = [load_file(folder / name / FILE) for name in ("first", "again")]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_moments_of_one_that_saedrift_trained_are_asked_for_in_vain(folder: Path, tiny_llama: Path) -> None:
    made(folder, tiny_llama, "first")
    given = {"model": str(folder / "first"), "resume": True}
    with pytest.raises(ConfigError, match=re.escape("is an SSAE of saedrift, which holds none. Set ssae.given.resume=false.")):
        made(folder, tiny_llama, "again", source="continued", given=given)
