"""Sampling: own random streams, agreement with transformers' own decoding, log-probabilities, ends."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workflow.config.section import ConfigError
from workflow.decoding import choose_tokens, common_start, random_stream
from workflow.language_model import load_model, load_tokenizer
from workflow.sampling import Sampled, SamplingSettings, TransformersEngine, build_engine

SETTINGS = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=12, batch=8, seed=3)


@pytest.fixture(params=["tiny_qwen2", "tiny_llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def policy(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A policy that often ends its responses: the end token's logit is raised through the embedding it shares with the head."""
    return load_model(folder, torch.device("cpu"), torch.float32), load_tokenizer(folder)


@pytest.fixture
def prompts(folder: Path) -> list[list[int]]:
    tokenizer = load_tokenizer(folder)
    questions = [" ".join(["12 + 3 ="] * (1 + n % 4)) + "7" * n for n in range(11)]
    turns = [[{"role": "system", "content": "Answer with ####."}, {"role": "user", "content": q}] for q in questions]
    return [tokenizer(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)).input_ids for turn in turns]


def ending(engine: TransformersEngine) -> TransformersEngine:
    """The engine with sixty more end tokens, so that responses of a random model end at all lengths."""
    engine._ends = torch.arange(60)
    return engine


def named(prompts: list[list[int]]) -> list[str]:
    return [f"problem-{n}/base/0" for n in range(len(prompts))]


def test_batch_size_and_order_change_nothing(policy: tuple, prompts: list[list[int]]) -> None:
    engine, streams = ending(TransformersEngine(*policy)), named(prompts)
    whole = engine.sample(prompts, streams, SETTINGS)
    assert {len(sampled.tokens) for sampled in whole} - {12}, "some responses must end early for this test to test dropping"
    assert any(sampled.finished for sampled in whole)
    for batch in (1, 3):
        again = engine.sample(prompts, streams, SETTINGS._replace(batch=batch))
        assert [sampled.tokens for sampled in again] == [sampled.tokens for sampled in whole]
    order = np.random.default_rng(0).permutation(len(prompts)).tolist()
    shuffled = engine.sample([prompts[i] for i in order], [streams[i] for i in order], SETTINGS)
    assert [sampled.tokens for sampled in shuffled] == [whole[i].tokens for i in order]
    np.testing.assert_allclose(
        np.concatenate([s.logprobs for s in shuffled]), np.concatenate([whole[i].logprobs for i in order]), atol=1e-5
    )


def test_a_trace_depends_on_its_stream_and_the_seed(policy: tuple, prompts: list[list[int]]) -> None:
    engine, one = TransformersEngine(*policy), [prompts[0]] * 3
    same, same_too, other = engine.sample(one, ["a", "a", "b"], SETTINGS)
    assert same == same_too
    assert same.tokens != other.tokens
    assert engine.sample(one[:1], ["a"], SETTINGS._replace(seed=4))[0].tokens != same.tokens


def test_a_longer_limit_only_adds_tokens(policy: tuple, prompts: list[list[int]]) -> None:
    engine = TransformersEngine(*policy)
    short = engine.sample(prompts, named(prompts), SETTINGS._replace(max_new_tokens=5))
    long = engine.sample(prompts, named(prompts), SETTINGS)
    assert [sampled.tokens for sampled in short] == [sampled.tokens[:5] for sampled in long]


def test_greedy_agrees_with_transformers(policy: tuple, prompts: list[list[int]]) -> None:
    model, _ = policy
    engine = ending(TransformersEngine(*policy))
    ends = engine._ends.tolist()
    for prompt, sampled in zip(prompts, engine.sample(prompts, named(prompts), SETTINGS._replace(temperature=0.0)), strict=True):
        ids = torch.tensor([prompt])
        told = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=ends)
        assert sampled.tokens == told[0, len(prompt) :].tolist()


def test_logprobs_are_of_the_plain_policy_whatever_the_temperature(policy: tuple, prompts: list[list[int]]) -> None:
    model, _ = policy
    engine = ending(TransformersEngine(*policy))
    for settings in (SETTINGS, SETTINGS._replace(temperature=0.5, top_p=0.8), SETTINGS._replace(temperature=0.0)):
        for prompt, sampled in zip(prompts, engine.sample(prompts, named(prompts), settings), strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + sampled.tokens])).logits[0, len(prompt) - 1 : -1]
            wanted = torch.log_softmax(logits, -1).gather(-1, torch.tensor(sampled.tokens)[:, None]).squeeze(-1)
            np.testing.assert_allclose(sampled.logprobs, wanted.numpy(), atol=1e-5)


def test_finished_means_ended_by_an_end_token_and_nothing_follows_it(policy: tuple, prompts: list[list[int]]) -> None:
    sampled = ending(TransformersEngine(*policy)).sample(prompts * 4, [str(n) for n in range(44)], SETTINGS)
    assert {entry.finished for entry in sampled} == {True, False}
    for entry in sampled:
        assert entry.finished == (entry.tokens[-1] < 60)
        assert all(token >= 60 for token in entry.tokens[:-1])
        assert entry.finished or len(entry.tokens) == 12
        assert len(entry.logprobs) == len(entry.tokens)


def test_readings_are_of_the_state_that_made_each_token(policy: tuple, prompts: list[list[int]]) -> None:
    model, _ = policy
    engine = ending(TransformersEngine(*policy))
    head = model.get_output_embeddings()
    read = engine.sample_reading(prompts, named(prompts), SETTINGS, read=lambda states: head(states).logsumexp(-1))
    for prompt, (sampled, readings) in zip(prompts, read, strict=True):
        with torch.no_grad():
            wanted = model(torch.tensor([prompt + sampled.tokens])).logits[0, len(prompt) - 1 : -1].logsumexp(-1)
        np.testing.assert_allclose(readings, wanted.numpy(), atol=1e-4)


def test_progress_counts_every_response_once(policy: tuple, prompts: list[list[int]]) -> None:
    told: list[int] = []
    TransformersEngine(*policy).sample(prompts, named(prompts), SETTINGS._replace(batch=4), progress=told.append)
    assert told == [4, 4, 3]


def test_an_empty_prompt_and_a_missing_stream_are_refused(policy: tuple) -> None:
    engine = TransformersEngine(*policy)
    with pytest.raises(ValueError, match="1 empty"):
        engine.sample([[1], []], ["a", "b"], SETTINGS)
    with pytest.raises(ValueError, match="2 prompts, 1 streams"):
        engine.sample([[1], [2]], ["a"], SETTINGS)


def test_tokens_are_drawn_in_proportion_to_their_probability() -> None:
    logits = torch.log(torch.tensor([0.5, 0.2, 0.2, 0.1])).expand(4000, -1)
    uniforms = torch.as_tensor(random_stream(0, "draws").random(4000))
    counts = Counter(choose_tokens(logits, uniforms, 1.0, 1.0)[0].tolist())
    assert [counts[token] / 4000 for token in range(4)] == pytest.approx([0.5, 0.2, 0.2, 0.1], abs=0.03)
    cold = Counter(choose_tokens(logits, uniforms, 0.5, 1.0)[0].tolist())
    assert cold[0] / 4000 == pytest.approx(0.25 / 0.34, abs=0.03)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.15, 0.25]])).expand(1000, -1)
    uniforms = torch.as_tensor(random_stream(0, "draws").random(1000))
    for top_p, kept in [(0.4, {1}), (0.74, {1, 3}), (0.76, {1, 2, 3}), (0.95, {0, 1, 2, 3})]:
        assert set(choose_tokens(logits, uniforms, 1.0, top_p)[0].tolist()) == kept


def test_the_ends_of_the_unit_interval_give_tokens_that_can_occur() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).expand(2, -1)
    tokens, logprobs = choose_tokens(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), 1.0, 1.0)
    assert tokens.tolist() == [1, 2]
    assert bool(torch.isfinite(logprobs).all())


def test_random_streams_are_fixed_by_seed_and_names() -> None:
    drawn = {names: random_stream(*names).random() for names in itertools.product((0, 1), ("a", "ab"), ("", "b"))}
    assert len(set(drawn.values())) == len(drawn)
    assert random_stream(0, "a").random() == random_stream(0, "a").random() == pytest.approx(0.6, abs=0.6)


def test_the_common_start_leaves_every_prompt_a_token() -> None:
    assert common_start([[1, 2, 3], [1, 2, 4]]) == 2
    assert common_start([[1, 2], [1, 2, 3]]) == 1
    assert common_start([[1, 2, 3]]) == 2
    assert common_start([[5]]) == 0


def test_auto_takes_transformers_without_vllm_and_says_why(folder: Path, prompts: list[list[int]]) -> None:
    engine, facts = build_engine("auto", folder, "cpu", "auto")
    assert engine.name == "transformers"
    assert facts["engine"] == "transformers"
    assert (facts["device"], facts["engine_reason"]) == ("cpu", "vLLM is not installed; there is no GPU to use")
    assert facts["dtype"] in ("float32", "bfloat16")
    assert isinstance(engine.sample(prompts[:1], ["a"], SETTINGS)[0], Sampled)


def test_vllm_that_cannot_be_used_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"traces.engine: vllm needs vLLM and a GPU; here .*set traces.engine to auto"):
        build_engine("vllm", folder, "cpu", "float32")
