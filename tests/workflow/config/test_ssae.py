"""Section `ssae`: defaults that other keys decide, presets, and what is refused."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from planning import ROOT

from sae_core.training.sparsity_control import PredictiveControl, SparsityTarget, StepwiseControl
from sae_core.training.step_update import StepNoise
from workflow.config.document import SCHEMA
from workflow.config.models import ModelShape
from workflow.config.section import ConfigError
from workflow.config.ssae import SsaeConfig
from workflow.config.ssae_checks import check_size, check_ssae
from workflow.config.ssae_presets import PRESETS
from workflow.config.ssae_study import SsaeAt, every_ssae, measured_steps, ssae_parent, steps_of
from workflow.config.study import load_study

DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
PLAIN = DEFAULT | {"ssae": DEFAULT["ssae"] | {"preset": None, "stages": []}}
"""The default configuration but for what it asks of step-level SAEs."""
QWEN = "gsm8k-385k_Qwen2.5-0.5b_spar-10"
SHAPE = ModelShape(layers=4, d_model=64, parameters=1)


def ssae(assignments: str = "", config: dict[str, Any] = PLAIN) -> SsaeConfig:
    return load_study(config | {"set": assignments}).ssae


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as refused:
        check_ssae(load_study(config), SHAPE)
    return str(refused.value)


def test_the_default_configuration_asks_for_a_small_ssae_and_its_other_nulls_stand_for_the_typed_defaults() -> None:
    assert (ssae(config=DEFAULT).stages, ssae(config=DEFAULT).preset) == (["base"], "small")
    assert ssae() == SsaeConfig()


def test_a_study_without_ssaes_is_not_checked_for_them() -> None:
    check_ssae(load_study({"ssae": {"target_l1": 1000, "data": {"format": "numina"}}}), SHAPE)


@pytest.mark.parametrize(
    ("phase", "epochs", "lr", "min_lr"),
    [(1, 30, 1e-6, 1e-7), (2, 101, 1e-4, 1e-5), ("'2'", 101, 1e-4, 1e-5), ("2.0", 101, 1e-4, 1e-5), (3, 101, 1e-4, 1e-5)],
)
def test_null_is_the_default_of_the_phase(phase: Any, epochs: int, lr: float, min_lr: float) -> None:
    training = ssae(f"ssae.training.phase={phase} ssae.source=continued ssae.given.model=out/phase_1.pt").training
    assert (training.epochs, training.lr, training.min_lr, training.decay_epochs) == (epochs, lr, min_lr, epochs)


def test_the_decay_follows_the_epochs_until_it_is_set() -> None:
    assert ssae("ssae.training.epochs=7").training.decay_epochs == 7
    assert ssae("ssae.training.epochs=7 ssae.training.decay_epochs=5").training.decay_epochs == 5


@pytest.mark.parametrize(
    ("data", "lengths"),
    [
        ("traces", (256, "last", 256)),
        ("gsm8k", (256, "first", 256)),
        ("gsm8k_aug", (256, "first", 256)),
        ("numina", (256, "last", 128)),
        ("opencodeinstruct", (256, "last", 256)),
    ],
)
def test_null_is_the_length_of_the_format(data: str, lengths: tuple[int, str, int]) -> None:
    found = ssae(f"ssae.data.format={data}").data
    assert (found.max_context_tokens, found.keep_context, found.max_step_tokens) == lengths
    assert ssae(f"ssae.data.format={data} ssae.data.max_step_tokens=9").data.max_step_tokens == 9


def test_there_is_a_preset_for_every_published_file() -> None:
    assert {name: preset["data"]["format"] for name, preset in PRESETS.items() if name != "small"} == {
        "gsm8k-385k_Qwen2.5-0.5b_spar-10": "gsm8k_aug",
        "gsm8k-385k_Llama-3.2-1b_spar-10": "gsm8k_aug",
        "numina-859k_Qwen2.5-0.5b_spar-10": "numina",
        "opencodeinstruct-36k_Qwen2.5-0.5b_spar-10": "opencodeinstruct",
        "opencodeinstruct-36k_Llama-3.2-1b_spar-10": "opencodeinstruct",
    }


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"small"}))
def test_a_preset_uses_the_published_file_with_its_base_and_target(name: str) -> None:
    found = ssae(f"ssae.preset={name}")
    assert (found.source, found.factor, found.target_l1) == ("given", 1, 10.0)
    assert (found.given.model, found.given.file) == ("Miaow-Lab/SSAE-Checkpoints", f"{name}.pt")
    assert found.base_model == ("Qwen/Qwen2.5-0.5B" if "Qwen" in name else "meta-llama/Llama-3.2-1B")
    assert found.data.max_step_tokens == (128 if name.startswith("numina") else 256)


def test_the_small_preset_trains_few_blocks_and_steps_aside_for_another() -> None:
    small, whole = ssae("ssae.preset=small"), ssae(f"ssae.preset={QWEN} ssae.source=fresh ssae.data.train=a.json")
    assert (small.source, small.blocks, small.training.epochs, small.training.precision) == ("fresh", 2, 1, "bf16")
    assert (whole.blocks, whole.training.epochs, whole.training.lr, whole.sparsity.controller) == (None, 30, 1e-6, "stepwise")


def test_what_is_set_goes_before_the_preset_and_what_is_null_does_not() -> None:
    config = {"ssae": {"preset": QWEN, "target_l1": 5, "given": {"model": "~/here", "file": None}, "data": {"format": "traces"}}}
    found = ssae("ssae.factor=2 ssae.source=fresh ssae.base_model=null", config)
    assert (found.target_l1, found.factor, found.source) == (5.0, 2, "fresh")
    assert (found.given.model, found.given.file) == ("~/here", f"{QWEN}.pt")
    assert (found.data.format, found.base_model) == ("traces", "Qwen/Qwen2.5-0.5B")


@pytest.mark.parametrize(
    "assignments", ["", f"ssae.preset={QWEN}", "ssae.training.phase=2 ssae.source=continued ssae.given.model=m"]
)
def test_the_params_of_a_job_are_complete(assignments: str) -> None:
    found = ssae(assignments)
    assert SsaeConfig.model_validate(found.params()) == found


def test_a_preset_is_not_changed_by_what_is_set_over_it() -> None:
    before = json.dumps(PRESETS)
    ssae(f"ssae.preset={QWEN} ssae.data.train=x.json ssae.given.revision=main")
    assert json.dumps(PRESETS) == before


def test_the_target_is_a_key_of_the_section_itself() -> None:
    assert ssae("ssae.target_l1=10").target_l1 == 10.0
    assert ssae("ssae.target_l1=3 ssae.sparsity.controller=predictive").sparsity.controller == "predictive"


def test_defaults_are_those_of_the_core() -> None:
    aim, noise, found = SparsityTarget(target=10.0), StepNoise(), SsaeConfig()
    assert (aim.target, aim.start) == (found.target_l1, found.sparsity.start_weight)
    assert (aim.low, aim.high) == (found.sparsity.min_weight, found.sparsity.max_weight)
    assert StepwiseControl(aim).settings == (found.sparsity.every, found.sparsity.factor)
    own = found.sparsity
    assert PredictiveControl(aim).settings == (own.gain, own.lookahead, own.smoothing, own.max_change)
    assert (noise.tokens, noise.code) == (found.training.token_mask_rate, found.training.noise)


def test_the_schema_takes_null_for_every_key_of_the_section_and_keeps_the_types() -> None:
    schema = yaml.safe_load(SCHEMA.read_text())
    jsonschema.validate({"ssae": {"factor": None, "training": {"batch": None}}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"ssae": {"training": {"batch": "many"}}}, schema)
    assert schema["$defs"]["SsaeTraining"]["properties"]["batch"]["description"].startswith("Steps per update")


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ("ssae.preset=gsm8k-385k_Qwen2.5", f"got 'gsm8k-385k_Qwen2.5'. Did you mean {QWEN}?"),
        ("ssae.preset=nothing", "got 'nothing'. Choose one of them."),
        ("ssae.targetl1=3", "Did you mean ssae.target_l1?"),
        ("ssae.sparsity.target_l1=3", "Did you mean ssae.target_l1?"),
        ("ssae.lr=3", "Did you mean ssae.training.lr?"),
        ("ssae.target_l1=0.5", "ssae.target_l1 is not valid"),
        ("ssae.target_l1=.inf", "ssae.target_l1 is not valid: input should be a finite number"),
        ("ssae.training.lr=.nan", "ssae.training.lr is not valid"),
        ("ssae.training.micro_batch=24", "must divide ssae.training.batch = 128; got 24. Change"),
        ("ssae.training.epochs=2", "the lesser of which is 2; got 2. Lower it."),
        ("ssae.training.decay_epochs=1", "the lesser of which is 1; got 2. Lower it."),
        ("ssae.training.min_lr=0.1", "must be at most ssae.training.lr = 1e-06; got 0.1."),
        ("ssae.training.phase=4", "ssae.training.phase is not valid"),
        ("ssae.training.phase=2", "got ssae.training.phase = 2 with ssae.source = fresh. Set ssae.source=continued"),
        ("ssae.source=given", "ssae.given.model must name an SSAE where ssae.source is given; it is null."),
        ("ssae.sparsity.start_weight=0.2", "must lie within [min_weight, max_weight] = [1e-06, 0.1]; got 0.2."),
        ("ssae.data.train=a.json", "must be null for the format traces, which this study makes itself; got a.json and None."),
        ("ssae.data.format=gsm", "ssae.data.format is not valid"),
        ("ssae.data.format=[gsm8k]", "ssae.data.format is not valid"),
        ("ssae.training.phase=one", "ssae.training.phase is not valid"),
        ("ssae.preset=[1]", "ssae.preset must be null or one of"),
        ("ssae.seeds=[1,1]", "ssae.seeds must hold each value once and one at least; got [1, 1]."),
        ("ssae.runs=[]", "ssae.runs must hold each value once and one at least; got []."),
        ("ssae.chains=[null]", "ssae.chains must hold `real`"),
        ("ssae.legacy.double_bos=true", "ssae.legacy.double_bos must be false for the format traces"),
        ("ssae.data.max_context_tokens=1", "ssae.data.max_context_tokens is not valid"),
        ("ssae.legacy.masked=true", "Did you mean ssae.legacy.masked_readout?"),
    ],
)
def test_bad_values_are_refused_with_what_to_do(assignments: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ssae(assignments)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"stages": ["base", "ppo_9"]}, "only stages of the run strict: base, ppo_0008, ppo_0016; got ppo_9. Correct it."),
        ({"runs": ["lenient"]}, "only runs of this study: strict; got lenient."),
        ({"blocks": 5}, "ssae.blocks must be at most the 4 blocks of the language model; got 5."),
        (
            {"target_l1": 8.1},
            "within [1, √L] = [1, 8.00], codes have L = 64 latents (factor 1 × d_model 64) and length 1; got 8.1.",
        ),
        (
            {"data": {"text": "replayed"}},
            "must be one of design.texts = ['fixed', 'onpolicy']; got replayed. Add it there, name another",
        ),
        ({"data": {"format": "numina"}}, "ssae.data.train must name a file for the format numina; it is null."),
        ({"data": {"format": "numina", "train": "none.json"}}, "ssae.data.train must be an existing file; none.json is none."),
        ({"source": "given", "given": {"model": "none.pt"}}, "or a hub id; none.pt is not there."),
    ],
)
def test_what_the_study_the_model_or_the_disk_lacks_is_refused_before_any_job(own: dict, message: str) -> None:
    assert message in refusal({"ssae": {"stages": ["base"], "target_l1": 5} | own})


def test_files_that_are_there_are_accepted(tmp_path: Path) -> None:
    train, weights = tmp_path / "train.json", tmp_path / "ssae.pt"
    train.touch()
    weights.touch()
    own = {"stages": ["base"], "target_l1": 8, "source": "given", "data": {"format": "numina", "train": str(train)}}
    check_ssae(load_study({"ssae": own | {"given": {"model": str(weights)}}}), SHAPE)
    check_ssae(load_study({"ssae": own | {"given": {"model": str(tmp_path), "file": "ssae.pt"}}}), SHAPE)
    check_ssae(load_study({"ssae": own | {"given": {"model": "Miaow-Lab/SSAE-Checkpoints", "file": "x.pt"}}}), SHAPE)
    assert f"{tmp_path / 'x.pt'} is not there" in refusal({"ssae": own | {"given": {"model": str(tmp_path), "file": "x.pt"}}})


def test_sizes_are_those_of_the_ssaes_own_language_models(tiny_qwen2: Path) -> None:
    own = {"stages": ["base"], "target_l1": 1.5, "base_model": str(tiny_qwen2)}
    layers = json.loads((tiny_qwen2 / "config.json").read_text())["num_hidden_layers"]
    check_ssae(load_study({"ssae": own | {"blocks": layers}}), ModelShape(1, 1, 1))
    assert f"at most the {layers} blocks" in refusal({"ssae": own | {"blocks": layers + 1}})


def test_more_soft_tokens_allow_a_higher_target() -> None:
    check_size(ssae("ssae.target_l1=16 ssae.factor=4"), SHAPE)
    with pytest.raises(ConfigError, match="L = 192 latents"):
        check_size(ssae("ssae.target_l1=16 ssae.factor=3"), SHAPE)


def test_stages_behind_base_need_steps_of_their_own_and_the_ssae_of_base() -> None:
    traces = {"splits": ["train", "val", "test"]}
    own = {"stages": ["base", "ppo_0008"], "target_l1": 5, "data": {"text": "onpolicy"}}
    check_ssae(load_study({"ssae": own, "traces": traces}), SHAPE)
    assert "must hold base, from whose SSAE" in refusal({"ssae": own | {"stages": ["ppo_0008"]}, "traces": traces})
    assert "got traces and fixed" in refusal({"ssae": own | {"data": {"text": "fixed"}}, "traces": traces})
    assert "traces.splits lacks train, val" in refusal({"ssae": own})


def test_a_control_chain_reads_base_and_starts_from_its_own() -> None:
    study = load_study({
        "design": {"runs": {"strict": {}, "loose": {"reward": "flexible"}}},
        "ssae": {"stages": ["base", "ppo_0008", "ppo_0016"], "data": {"text": "onpolicy"},
                 "chains": ["real", "null", "cold", "repeat"]},
    })  # fmt: skip
    every = every_ssae(study)
    assert len(every) == 1 + 2 * 4 * 2
    base = SsaeAt("shared", "real", 0, "base")
    parents = {at: ssae_parent(study, at) for at in every}
    assert parents[base] is None
    assert parents[SsaeAt("strict", "null", 0, "ppo_0008")] == base
    assert parents[SsaeAt("strict", "null", 0, "ppo_0016")] == SsaeAt("strict", "null", 0, "ppo_0008")
    assert parents[SsaeAt("loose", "repeat", 0, "ppo_0016")] == SsaeAt("loose", "real", 0, "ppo_0016")
    assert parents[SsaeAt("loose", "cold", 0, "ppo_0016")] is None
    assert steps_of(study, SsaeAt("strict", "null", 0, "ppo_0016")) == ("shared", "onpolicy", "base")
    assert steps_of(study, SsaeAt("strict", "real", 0, "ppo_0016")) == ("strict", "onpolicy", "ppo_0016")
    assert len(measured_steps(study, "strict")) == 1 + 3
    assert len(measured_steps(study, "shared")) == 1 + 1 + 2 * 2


def test_steps_of_files_are_not_measured_on_traces(tmp_path: Path) -> None:
    study = load_study({"ssae": {"stages": ["base"], "data": {"format": "gsm8k", "train": str(tmp_path / "a.json")}}})
    assert measured_steps(study, "shared") == []
