"""Prompts as tokens: the user's span under other models' templates, the end of turn, and steps that are exact to the token."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer
from tokenizers import processors

from workflow.config.prompts import PromptsConfig
from workflow.config.section import ConfigError
from workflow.prompts import end_of_turn, prompt_format, render, response_tokens, step_ends

TOKENIZER = tiny_tokenizer()
QUESTION = {"question": "12 + 5 ="}
LLAMA3 = (
    "{{ '<|endoftext|>' }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
)
DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n12 + 5 =<|im_end|>\n{% endif %}"


def with_template(template: str | None):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    "template", [TOKENIZER.chat_template, LLAMA3, WITHOUT_SYSTEM, DEFAULT_SYSTEM + TOKENIZER.chat_template, None]
)
def test_the_span_holds_the_users_text_and_nothing_else(template: str | None) -> None:
    tokenizer = with_template(template)
    prompt = render(tokenizer, QUESTION, PromptsConfig())
    assert tokenizer.decode(prompt.token_ids[prompt.question_start : prompt.question_end]).strip() == "12 + 5 ="
    if template:
        turn = [{"role": "user", "content": "12 + 5 ="}]
        assert prompt.token_ids == tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        assert 0 < prompt.question_start < prompt.question_end < len(prompt.token_ids)


def test_a_question_that_occurs_in_the_template_is_found_in_the_users_turn() -> None:
    prompt = render(TOKENIZER, {"question": "assistant"}, PromptsConfig(system="assistant"))
    before = TOKENIZER.decode(prompt.token_ids[: prompt.question_start])
    behind = TOKENIZER.decode(prompt.token_ids[prompt.question_end :])
    assert before.endswith("user\n")
    assert behind.startswith("<|im_end|>")


def test_blanks_around_the_question_may_be_trimmed_by_the_template() -> None:
    tokenizer = with_template(LLAMA3)
    prompt = render(tokenizer, {"question": "  12 + 5 =\n"}, PromptsConfig())
    assert tokenizer.decode(prompt.token_ids[prompt.question_start : prompt.question_end]).strip() == "12 + 5 ="


def test_the_user_template_reads_any_field_and_system_text_is_optional() -> None:
    prompts = PromptsConfig(system="Answer with ####.", user="{question} Think. {{}}")
    text = TOKENIZER.decode(render(TOKENIZER, QUESTION, prompts).token_ids)
    assert text == (
        "<|im_start|>system\nAnswer with ####.<|im_end|>\n<|im_start|>user\n12 + 5 = Think. {}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "system" not in TOKENIZER.decode(render(TOKENIZER, QUESTION, PromptsConfig()).token_ids)


def test_without_a_chat_template_the_prompt_is_plain_text_behind_the_models_own_beginning() -> None:
    tokenizer = with_template(None)
    assert (prompt_format(tokenizer), prompt_format(TOKENIZER)) == ("plain", "chat")
    plain = render(tokenizer, QUESTION, PromptsConfig(system="Sum."))
    assert tokenizer.decode(plain.token_ids) == "Sum.\n\n12 + 5 =\n"
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    started = render(tokenizer, QUESTION, PromptsConfig(system="Sum."))
    assert started.token_ids == [0, *plain.token_ids]
    assert started.question_start == plain.question_start + 1


@pytest.mark.parametrize(
    ("template", "system", "user", "words"),
    [
        (WITHOUT_SYSTEM, "Sum.", "{question}", ["System role not supported", "prompts.system: null"]),
        (TOKENIZER.chat_template, None, "{qestion}", ["{qestion}", "Did you mean {question}?"]),
        (TOKENIZER.chat_template, None, "{question", ["prompts.user", "written twice"]),
        ("{{ messages[0]['content'] | upper }}", None, "{question}", ["must show the user's text unchanged"]),
        (None, None, "", ["at least one token"]),
    ],
)
def test_what_cannot_be_rendered_is_told_in_words(template: str | None, system: str | None, user: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        render(with_template(template), {"question": "two plus two"}, PromptsConfig(system=system, user=user))
    assert all(word in str(error.value) for word in words)


def test_a_reference_solution_ends_with_the_templates_end_of_turn() -> None:
    tokens = response_tokens(TOKENIZER, "12 + 5 = 17\n#### 17")
    assert TOKENIZER.decode(tokens) == "12 + 5 = 17\n#### 17<|im_end|>"
    turns = [{"role": "user", "content": "12 + 5 ="}, {"role": "assistant", "content": "12 + 5 = 17\n#### 17"}]
    whole = TOKENIZER.apply_chat_template(turns, return_dict=False)
    prompt = render(TOKENIZER, QUESTION, PromptsConfig()).token_ids
    assert whole[: len(prompt) + len(tokens)] == [*prompt, *tokens]


def test_the_end_of_turn_is_the_templates_before_the_tokenizers() -> None:
    tokenizer = with_template(TOKENIZER.chat_template)
    tokenizer.eos_token = "<|endoftext|>"  # as in models whose end of text and end of turn differ
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == "<|im_end|>"
    tokenizer.chat_template = WITHOUT_SYSTEM
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == "<|endoftext|>"
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="no eos token"):
        end_of_turn(tokenizer)


def steps_of(text: str, separator: str = "\n", end: str = "<|im_end|>") -> list[str]:
    """The texts of the steps, behind a prompt that itself holds separators."""
    prompt = render(TOKENIZER, QUESTION, PromptsConfig()).token_ids
    tokens = [*prompt, *TOKENIZER(text + end, add_special_tokens=False).input_ids]
    ends = step_ends(TOKENIZER, tokens, len(prompt), separator)
    return [TOKENIZER.decode(tokens[a:b]) for a, b in pairwise([len(prompt), *ends])]


@pytest.mark.parametrize(
    ("text", "separator", "steps"),
    [
        ("12 + 5 = 17\n#### 17", "\n", ["12 + 5 = 17\n", "#### 17<|im_end|>"]),
        ("12 + 5 = 17\n\n\n#### 17\n", "\n", ["12 + 5 = 17\n\n\n", "#### 17\n<|im_end|>"]),
        ("\n \n12 + 5 = 17", "\n", ["\n \n12 + 5 = 17<|im_end|>"]),
        ("a. b. c", ". ", ["a. ", "b. ", "c<|im_end|>"]),
        ("ein → zwei ⇒ drei → vier", "→", ["ein →", " zwei ⇒ drei →", " vier<|im_end|>"]),
        ("one\ntwo", "", ["one\ntwo<|im_end|>"]),
        ("one two", "\n\n", ["one two<|im_end|>"]),
        ("\n\n", "\n", ["\n\n<|im_end|>"]),
        ("", "\n", ["<|im_end|>"]),
    ],
)
def test_steps_end_behind_their_separators_and_empty_ones_are_merged(text: str, separator: str, steps: list[str]) -> None:
    found = steps_of(text, separator)
    # ". " may share its blank with the next word's token; the token that holds the separator's end belongs to the step it ends
    assert "".join(found) == "".join(steps)
    assert len(found) == len(steps)
    if separator != ". ":
        assert found == steps


def test_a_response_without_tokens_has_no_steps_and_an_unfinished_one_ends_with_its_last_token() -> None:
    assert step_ends(TOKENIZER, [5, 6, 7], 3, "\n") == []
    assert steps_of("12 + 5 = 17\n###", end="") == ["12 + 5 = 17\n", "###"]
    half = TOKENIZER("a→", add_special_tokens=False).input_ids[:-1]
    assert step_ends(TOKENIZER, half, 0, "\n") == [len(half)]


@settings(deadline=None)
@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40), st.sampled_from(["\n", "\n\n", " ", "#", "é"]))
def test_steps_of_any_tokens_rise_to_the_end(tokens: list[int], separator: str) -> None:
    ends = step_ends(TOKENIZER, tokens, 0, separator)
    assert ends == sorted(set(ends))
    assert ends[-1:] == ([len(tokens)] if tokens else [])


@given(st.lists(st.sampled_from(["12 + 5 = 17", "so", "", " ", "→ é"]), min_size=1, max_size=6))
def test_as_many_steps_as_lines_with_content(lines: list[str]) -> None:
    assert len(steps_of("\n".join(lines))) == max(1, sum(bool(line.strip()) for line in lines))
