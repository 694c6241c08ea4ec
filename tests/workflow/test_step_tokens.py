"""The tokenizer of step-level SAEs: one separator behind the vocabulary, one BOS by rule, and what is refused."""

from pathlib import Path

import pytest
from small_steps import BOS, save_tokenizer

from workflow.config.section import ConfigError
from workflow.step_tokens import SEPARATOR, check_rows, step_tokenizer


def test_the_separator_comes_behind_the_vocabulary_once(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "plain")
    loaded = step_tokenizer(folder)
    assert (loaded.separator, loaded.vocab) == (312, 313)
    assert (loaded.end, loaded.prefix) == (loaded.tokenizer.convert_tokens_to_ids("<|im_end|>"), ())
    loaded.tokenizer.save_pretrained(tmp_path / "again")
    assert step_tokenizer(tmp_path / "again").separator == 312


def test_a_bos_is_a_prefix_or_part_of_every_text(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path, bos=True)
    once, doubled = step_tokenizer(folder), step_tokenizer(folder, double_bos=True)
    bos = once.tokenizer.convert_tokens_to_ids(BOS)
    assert (once.prefix, doubled.prefix) == ((bos,), ())
    for text in ("1 + 2", "", "x\n"):
        plain = once.encode([text])[0].tolist()
        assert doubled.encode([text])[0].tolist() == [bos, *plain] == once.tokenizer(text).input_ids


def test_the_pad_token_may_be_the_end_or_absent(tmp_path: Path) -> None:
    for name, pad in (("end", "<|im_end|>"), ("absent", None)):
        loaded = step_tokenizer(save_tokenizer(tmp_path / name, pad_token=pad))
        assert loaded.encode(["1 2", "3 4 5 6"])[0].tolist() == loaded.tokenizer("1 2").input_ids


def test_a_separator_with_another_role_is_refused(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path, cls_token=SEPARATOR)
    with pytest.raises(
        ConfigError, match=r"<sep> must be new .* there it is token 312 and the separator None\. Choose another base"
    ):
        step_tokenizer(folder)


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must have an end token; it has none"):
        step_tokenizer(save_tokenizer(tmp_path, eos_token=None))


def test_a_separator_inside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    loaded = step_tokenizer(save_tokenizer(tmp_path / "plain"))
    loaded.tokenizer.add_tokens(["<later>"])
    loaded.tokenizer.save_pretrained(tmp_path / "more")
    with pytest.raises(ConfigError, match=r"<sep> must be the last token of the vocabulary; in .* it is 312 of 314"):
        step_tokenizer(tmp_path / "more")


def test_embeddings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    loaded = step_tokenizer(save_tokenizer(tmp_path))
    for rows in (312, 313, 400):
        check_rows(loaded, rows, "here")
    check_rows(loaded, 313, "here", exactly=True)
    with pytest.raises(ConfigError, match=r"base model here must have an embedding row for each .* 312 tokens; it has 311"):
        check_rows(loaded, 311, "here")
    for rows in (312, 400):
        with pytest.raises(ConfigError, match=rf"SSAE here must have .* 313 tokens, <sep> included; it has {rows}"):
            check_rows(loaded, rows, "here", exactly=True)
