"""The PPO loop on a tiny policy: it learns, the control does not, and every update is a function of state, seed and number."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_policy import PROMPTS, TinyStudy

from workflow.answers import grade
from workflow.config.policies import PpoConfig
from workflow.formats.problems import read_problems
from workflow.language_model import load_model, load_tokenizer
from workflow.policies.learner import Learner
from workflow.policies.rollout import draw, roll_out
from workflow.policies.scoring import arrange, score
from workflow.policies.training import CurveRow, _prepare, one_update, train

SETTINGS = PpoConfig(batch=16, minibatches=2, lr=2e-3, max_new_tokens=8, lora_rank=4, lora_alpha=8, kl_coef=0.01)


def fresh(study: TinyStudy, settings: PpoConfig = SETTINGS) -> Learner:
    return Learner(load_model(study.base / "model", torch.device("cpu"), torch.float32), settings)


def curve(study: TinyStudy, settings: PpoConfig, updates: int) -> list[CurveRow]:
    learner, tokenizer, problems = (
        fresh(study, settings),
        load_tokenizer(study.base / "model"),
        read_problems(study.problems, ["ppo"]),
    )
    return [one_update(learner, tokenizer, problems, settings, PROMPTS) for _ in range(updates)]


def test_ppo_learns_to_give_the_rewarded_answer(tiny_study: TinyStudy) -> None:
    rows = curve(tiny_study, SETTINGS, 20)
    first, last = (np.mean([row.reward for row in part]) for part in (rows[:5], rows[-5:]))
    assert first < 0.65
    assert last > 0.85
    assert rows[0].kl == pytest.approx(0, abs=1e-4)
    assert rows[-1].kl > 0.05
    assert [row.update for row in rows] == list(range(1, 21))


def test_permuted_rewards_are_the_strict_ones_dealt_out_anew(tiny_study: TinyStudy) -> None:
    learner, tokenizer = fresh(tiny_study), load_tokenizer(tiny_study.base / "model")
    problems = draw(read_problems(tiny_study.problems, ["ppo"]), 16, 0, 1)
    permuted = SETTINGS.model_copy(update={"reward": "permuted"})
    honest, dealt, again = (
        roll_out(learner.policy.merge(), tokenizer, problems, learner.value, ("ppo", 1), settings, PROMPTS)
        for settings in (SETTINGS, permuted, permuted)
    )
    assert honest.responses == dealt.responses
    assert honest.rewards.tolist() != dealt.rewards.tolist() == again.rewards.tolist()
    assert sorted(honest.rewards.tolist()) == sorted(dealt.rewards.tolist())
    assert honest.strict == dealt.strict == float(honest.rewards.mean())


def test_rewards_are_the_answer_rules_verdicts(tiny_study: TinyStudy) -> None:
    learner, tokenizer = fresh(tiny_study), load_tokenizer(tiny_study.base / "model")
    problems = draw(read_problems(tiny_study.problems, ["ppo"]), 16, 0, 1)
    rollout = roll_out(learner.policy.merge(), tokenizer, problems, learner.value, ("ppo", 1), SETTINGS, PROMPTS)
    texts = [tokenizer.decode(response, skip_special_tokens=True) for response in rollout.responses]
    verdicts = [grade(str(text), "7") for text in texts]
    assert rollout.rewards.tolist() == [float(verdict.strict) for verdict in verdicts]
    assert 0 < rollout.strict < 1
    assert rollout.flexible == np.mean([verdict.flexible for verdict in verdicts])


def test_problems_are_drawn_by_weight_and_update(tiny_study: TinyStudy) -> None:
    problems = read_problems(tiny_study.problems, ["ppo"])
    heavy = [problem.weight > 1 for update in range(200) for problem in draw(problems, 16, 0, update)]
    assert np.mean(heavy) == pytest.approx(0.75, abs=0.03)
    assert draw(problems, 16, 0, 1) == draw(problems, 16, 0, 1)
    assert draw(problems, 16, 0, 1) != draw(problems, 16, 0, 2)
    assert draw(problems, 16, 0, 1) != draw(problems, 16, 1, 1)


def test_the_drawn_logprobs_are_those_of_the_trained_form_of_the_policy(tiny_study: TinyStudy) -> None:
    """The merged weights sample, the adapter trains: in float32 both say the same, so the first ratio is 1."""
    learner, tokenizer = fresh(tiny_study), load_tokenizer(tiny_study.base / "model")
    problems = read_problems(tiny_study.problems, ["ppo"])
    for _ in range(3):
        one_update(learner, tokenizer, problems, SETTINGS, PROMPTS)
    rollout = roll_out(learner.policy.merge(), tokenizer, problems * 2, learner.value, ("ppo", 4), SETTINGS, PROMPTS)
    batch = _prepare(learner, rollout, SETTINGS)
    with torch.no_grad():
        scored = score(learner.policy.model, arrange(rollout.prompts, rollout.responses, torch.device("cpu")))
    torch.testing.assert_close(batch.old[batch.written], scored.logprobs[batch.written], atol=2e-5, rtol=0)
    torch.testing.assert_close(rollout.values[batch.written], learner.value(scored.states)[batch.written], atol=1e-5, rtol=0)
    base = load_model(tiny_study.base / "model", torch.device("cpu"), torch.float32)
    with torch.no_grad():
        start = score(base, arrange(rollout.prompts, rollout.responses, torch.device("cpu"))).logprobs
    torch.testing.assert_close(batch.reference[batch.written], start[batch.written], atol=1e-5, rtol=0)


def test_another_temperature_is_that_of_the_trained_policy_too(tiny_study: TinyStudy) -> None:
    row = curve(tiny_study, SETTINGS.model_copy(update={"temperature": 1.5}), 1)[0]
    assert row.kl == pytest.approx(0, abs=1e-4)
    assert row.clip_share == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize(
    "changes", [{"kl_in": "loss"}, {"entropy_coef": 0.1}, {"epochs": 2}, {"minibatches": 4}, {"kl_coef": 0.0}, {"seed": 1}]
)
def test_every_setting_reaches_the_update(tiny_study: TinyStudy, changes: dict) -> None:
    plain, changed = curve(tiny_study, SETTINGS, 3), curve(tiny_study, SETTINGS.model_copy(update=changes), 3)
    assert all(np.isfinite(list(row)).all() for row in changed)
    assert plain[-1] != changed[-1]


def test_a_saved_learner_is_the_same_learner(tiny_study: TinyStudy, tmp_path: Path) -> None:
    tokenizer, problems = load_tokenizer(tiny_study.base / "model"), read_problems(tiny_study.problems, ["ppo"])
    whole = fresh(tiny_study)
    one_update(whole, tokenizer, problems, SETTINGS, PROMPTS)
    whole.save(tmp_path / "state.safetensors")
    again = fresh(tiny_study)
    again.load(tmp_path / "state.safetensors")
    assert again.update == 1
    assert one_update(whole, tokenizer, problems, SETTINGS, PROMPTS) == one_update(again, tokenizer, problems, SETTINGS, PROMPTS)
    whole.save(tmp_path / "a")
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_state_of_another_shape_is_refused(tiny_study: TinyStudy, tmp_path: Path) -> None:
    fresh(tiny_study).save(tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match="must hold the training state of this policy"):
        fresh(tiny_study, SETTINGS.model_copy(update={"lora_rank": 2})).load(tmp_path / "state.safetensors")


def test_stopping_and_going_on_gives_the_same_curve(tiny_study: TinyStudy, tmp_path: Path) -> None:
    tokenizer, problems = load_tokenizer(tiny_study.base / "model"), read_problems(tiny_study.problems, ["ppo"])
    whole = train(fresh(tiny_study), tokenizer, problems, 4, SETTINGS, PROMPTS, tmp_path / "whole", 0)
    train(fresh(tiny_study), tokenizer, problems, 2, SETTINGS, PROMPTS, tmp_path / "parts", 0)
    assert train(fresh(tiny_study), tokenizer, problems, 4, SETTINGS, PROMPTS, tmp_path / "parts", 0) == whole
