"""What cannot work is refused before any job starts, in three parts."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_models import build_tiny_model

from workflow.config.preflight import refuse_early
from workflow.config.section import ConfigError
from workflow.config.study import Study, load_study


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n} + 1 =", "answer": str(n + 1)}) + "\n" for n in range(100)))
    return path


def study_of(model: Path, source: Path, **sections: dict) -> Study:
    base = {
        "problems": {"source": str(source), "size": None},
        "policies": {"model": str(model)},
        "design": {"layers": [0, 1]},
        "activations": {"prompts_per_hop": 4},
    }
    return load_study({name: base.get(name, {}) | sections.get(name, {}) for name in {*base, *sections}})


def refusal(study: Study) -> str:
    with pytest.raises(ConfigError) as refused:
        refuse_early(study)
    return str(refused.value)


def test_a_sound_study_passes_and_tells_its_cost(tiny_qwen2: Path, problems: Path) -> None:
    plan = refuse_early(study_of(tiny_qwen2, problems))
    assert plan.policies == 3
    assert plan.saes == 2 * (1 + 2 * 2)
    assert plan.bytes_on_disk > 0


def test_updates_are_those_of_all_runs_and_of_a_fresh_sae_all_that_its_chain_has_had(tiny_qwen2: Path, problems: Path) -> None:
    def updates(*chains: str, **design: object) -> tuple[int, int]:
        settings = {"batch": 16, "epochs": 3, "hop_epochs": 1}
        plan = refuse_early(study_of(tiny_qwen2, problems, saes=settings, design={"layers": [0], "chains": chains, **design}))
        return plan.sae_updates, plan.ppo_updates

    real, ppo = updates("real")
    hop = real // 5
    assert (real, ppo) == (5 * hop, 16), "three epochs at base, one at each of two stages"
    assert updates("real", "null")[0] == updates("real", "repeat")[0] == 7 * hop
    assert updates("real", "cold")[0] == real + (3 + 1) * hop + (3 + 1 + 1) * hop
    twice = {"runs": {"strict": {}}, "rl_seeds": [0, 1]}
    assert updates("real", **twice) == (real + 2 * hop, 32), "base is shared"


def test_a_layer_beyond_the_model(tiny_qwen2: Path, problems: Path) -> None:
    message = refusal(study_of(tiny_qwen2, problems, design={"layers": [0, 2]}))
    assert "below the model's 2 blocks" in message
    assert "[2]" in message


def test_a_crosscoder_that_keeps_more_latents_than_there_are(tiny_qwen2: Path, problems: Path) -> None:
    crosscoder = {"k": 200, "expansion": 1}
    assert "drift.crosscoder.k must be at most d_sae" in refusal(study_of(tiny_qwen2, problems, drift={"crosscoder": crosscoder}))
    refuse_early(study_of(tiny_qwen2, problems, drift={"crosscoder": {**crosscoder, "enabled": False}}))


def test_more_latents_kept_than_there_are(tiny_qwen2: Path, problems: Path) -> None:
    message = refusal(study_of(tiny_qwen2, problems, saes={"k": 600}))
    assert (
        "saes.k must be at most d_sae = 256 (expansion 4 × d_model 64); got 600. Lower saes.k or raise saes.expansion." in message
    )


def test_numbers_of_latents_that_do_not_go_into_d_sae(tiny_qwen2: Path, problems: Path) -> None:
    jumprelu, kind = {"sparsity_coef": 0.1, "k": 600}, {"kinds": ["jumprelu"]}
    assert refuse_early(study_of(tiny_qwen2, problems, saes=jumprelu, design=kind)).saes == 10, "no k, no limit on it"
    message = refusal(study_of(tiny_qwen2, problems, saes=jumprelu | {"target_l0": 300}, design=kind))
    assert "saes.target_l0 must be at most d_sae = 256" in message
    kind = {"kinds": ["matryoshka_batchtopk"]}
    message = refusal(study_of(tiny_qwen2, problems, saes={"widths": [0.001, 0.5, 1]}, design=kind))
    assert "different whole numbers of latents of d_sae = 256" in message
    assert "gives [0, 128, 256]" in message


def test_kinds_and_moments_count_in_the_plan(tiny_qwen2: Path, problems: Path) -> None:
    one, three = (
        refuse_early(study_of(tiny_qwen2, problems, design={"kinds": kinds}))
        for kinds in (["topk"], ["topk", "batchtopk", "topk_signed"])
    )
    assert (three.saes, three.sae_bytes) == (3 * one.saes, 3 * one.sae_bytes)
    assert refuse_early(study_of(tiny_qwen2, problems, saes={"warm_moments": True})).sae_bytes == 3 * one.sae_bytes


def test_an_override_for_a_layer_that_is_not_read(tiny_qwen2: Path, problems: Path) -> None:
    assert "may name only layers" in refusal(study_of(tiny_qwen2, problems, saes={"by_layer": {"7": {"k": 4}}}))


def test_a_missing_model_directory_says_where_to_put_it(tmp_path: Path, problems: Path) -> None:
    message = refusal(study_of(tmp_path / "nowhere", problems))
    assert "does not exist" in message
    assert "Put config.json" in message


def test_a_directory_without_config(tmp_path: Path, problems: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "must hold config.json" in refusal(study_of(tmp_path / "empty", problems))


def test_an_unknown_embedded_model(problems: Path) -> None:
    assert "SmolLM2-135M-Instruct" in refusal(study_of(Path("embedded:Qwen"), problems))


def test_an_unreachable_hub(problems: Path) -> None:
    message = refusal(study_of(Path("someone/some-model"), problems))
    assert "must be on the hub or in its cache" in message
    assert "give its path" in message


def test_a_hub_model_in_the_cache_is_used_offline(
    tmp_path: Path, tiny_qwen2: Path, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_qwen2, snapshot)
    refs = tmp_path / "models--someone--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    assert refuse_early(study_of(Path("someone/tiny"), problems)).policies == 3


def test_a_missing_problem_file(tiny_qwen2: Path, tmp_path: Path) -> None:
    message = refusal(study_of(tiny_qwen2, tmp_path / "none.jsonl"))
    assert "existing file" in message
    assert "put the file there" in message


def test_an_empty_problem_file(tiny_qwen2: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "must not be empty" in refusal(study_of(tiny_qwen2, tmp_path / "empty.jsonl"))


def test_too_few_problems_to_split(tiny_qwen2: Path, tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_text('{"question": "1", "answer": "1"}\n' * 6)
    assert "Every split must get at least 2 problems" in refusal(study_of(tiny_qwen2, tmp_path / "few.jsonl"))


def test_too_few_problems_for_the_hops(tiny_qwen2: Path, problems: Path) -> None:
    message = refusal(study_of(tiny_qwen2, problems, activations={"prompts_per_hop": 50}))
    assert "must reach into 3 blocks" in message
    assert "saes.hop_rows=same" in message


def test_fixed_text_without_solutions(tiny_qwen2: Path, problems: Path) -> None:
    assert "problems.solution is null" in refusal(study_of(tiny_qwen2, problems, problems={"solution": None}))


def test_saes_on_a_text_that_is_not_read(tiny_qwen2: Path, problems: Path) -> None:
    assert "saes.text must be one of" in refusal(study_of(tiny_qwen2, problems, saes={"text": "replayed"}))


def given(**stages: Path) -> dict:
    return {"source": "given", "given": {"r": [{"stage": name, "model": str(path)} for name, path in stages.items()]}}


def test_interventions_on_a_text_that_is_not_read_or_without_their_control(tiny_qwen2: Path, problems: Path) -> None:
    message = refusal(study_of(tiny_qwen2, problems, interventions={"texts": ["replayed"]}))
    assert "interventions.texts must be among design.texts" in message
    causal = {"causal": {"latents": 2}}
    message = refusal(study_of(tiny_qwen2, problems, interventions=causal, design={"chains": ["real"]}))
    assert "needs the chain null in design.chains" in message
    refuse_early(study_of(tiny_qwen2, problems, interventions=causal))


def test_a_stage_with_another_tokenizer(tiny_qwen2: Path, tmp_path: Path, problems: Path) -> None:
    other = shutil.copytree(tiny_qwen2, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    a, b = sorted(vocab)[10:12]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    message = refusal(study_of(tiny_qwen2, problems, policies=given(base=tiny_qwen2, ppo_0001=other)))
    assert "tokenizer must be its base's" in message
    assert "r/ppo_0001" in message


def test_a_stage_of_another_shape(tiny_qwen2: Path, tmp_path: Path, problems: Path) -> None:
    deeper = build_tiny_model(tmp_path / "deeper", layers=3)
    message = refusal(study_of(tiny_qwen2, problems, policies=given(base=tiny_qwen2, ppo_0001=deeper)))
    assert "shape of their base (2 blocks" in message


def test_no_disk_space(tiny_qwen2: Path, problems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    message = refusal(study_of(tiny_qwen2, problems))
    assert "must fit on the disk" in message
    assert "Free some space" in message
