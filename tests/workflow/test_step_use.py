"""From files and texts to codes and texts again: loading, tokenisation, and the whole way there and back."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_caches import COMMIT, put_into_cache
from small_steps import save_tokenizer
from steps_in_use import small_step_sae
from tiny_models import build_tiny_model
from transformers import PreTrainedTokenizerFast

from workflow.config.section import ConfigError
from workflow.formats.published.step_saes import write_published
from workflow.formats.step_saes import write_step_manifest, write_step_tensors
from workflow.step_decoding import GREEDY, codes_from_prior, decode_steps
from workflow.step_encoding import encode_steps
from workflow.step_loading import load_step_sae
from workflow.step_saes import save_base
from workflow.step_texts import tokenised_steps
from workflow.step_tokens import step_tokenizer

DOCUMENTATION = Path(__file__).parent.parent.parent / "docs" / "ssae.md"
CONTEXTS = ["12 + 3 = 15\n", "What is the sum? 7 + 7 ", ""]
STEPS = ["15 + 1 = 16", "#### 14", "Let us think."]


@pytest.fixture
def released(tiny_llama: Path, tmp_path: Path) -> Path:
    model = small_step_sae(tiny_llama, 2, prior=True)
    write_published(tmp_path / "ssae.pt", model.state_dict(), base_model="./Nobody-Knows", training={})
    return tmp_path / "ssae.pt"


def test_a_file_is_loaded_with_its_base_model_and_used(released: Path, tiny_llama: Path) -> None:
    ssae = load_step_sae(released, base=tiny_llama, prior=True)
    made = small_step_sae(tiny_llama, 2, prior=True)
    read = tokenised_steps(contexts=CONTEXTS, steps=STEPS, tokenizer=ssae.tokenizer)
    codes = encode_steps(model=ssae.model, steps=read.steps).dense()
    torch.testing.assert_close(codes, made.encode(read.steps.batch(range(3))), rtol=1e-5, atol=1e-6)
    settings = GREEDY._replace(max_new_tokens=5)
    asked = {"contexts": read.steps.contexts, "separator": ssae.tokenizer.separator}
    written = decode_steps(model=ssae.model, codes=codes, end=ssae.tokenizer.end, settings=settings, **asked)
    assert [len(step.tokens) for step in written] == [5, 5, 5] or any(step.finished for step in written)
    assert codes_from_prior(model=ssae.model, seed=0, **asked).shape == (3, made.d_code)
    assert (ssae.source.path, ssae.base) == (released, tiny_llama)


@pytest.mark.parametrize("legacy", [[], ["double_bos"]])
def test_what_saedrift_wrote_needs_no_base_model(tmp_path: Path, legacy: list[str]) -> None:
    base = build_tiny_model(tmp_path / "llama", "llama")
    save_tokenizer(base, bos=True)
    made, own = small_step_sae(base, 2, prior=True), tmp_path / "own"
    write_step_tensors(own / "step_sae.safetensors", made.state_dict())
    save_base(made, step_tokenizer(base), own / "base")
    write_step_manifest(own, legacy=legacy)
    shutil.rmtree(base)
    for name in (own, own / "manifest.json"):
        ssae = load_step_sae(name, prior=True)
        read = tokenised_steps(contexts=CONTEXTS, steps=STEPS, tokenizer=ssae.tokenizer)
        assert torch.equal(ssae.model.encode(read.steps.batch(range(3))), made.encode(read.steps.batch(range(3))))
        assert ssae.base == own / "base"
        assert (len(ssae.tokenizer.prefix) == 0) == bool(legacy)  # as texts of their own, contexts bring their BOS with them
    (own / "step_sae.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="must have the digest"):
        load_step_sae(own)


def test_the_base_model_must_be_told_and_fit(released: Path, tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"says '\./Nobody-Knows'"):
        load_step_sae(released)
    other = shutil.copytree(tiny_llama, tmp_path / "other")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(other)
    tokenizer.add_tokens(["<another>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ConfigError, match=r"ssae\.pt must have an embedding row for each of the \d+ tokens"):
        load_step_sae(released, base=other)


def test_the_example_of_the_documentation_runs(
    released: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    torch.save({**torch.load(released, weights_only=True), "encoder_name": "./Qwen2.5-0.5B"}, tmp_path / "named.pt")
    name = "gsm8k-385k_Qwen2.5-0.5b_spar-10.pt"
    put_into_cache(tmp_path / "hub", "Miaow-Lab/SSAE-Checkpoints", {name: tmp_path / "named.pt"})
    put_into_cache(tmp_path / "hub", "Qwen/Qwen2.5-0.5B", {path.name: path for path in tiny_llama.iterdir()})
    used = DOCUMENTATION.read_text(encoding="utf-8").partition("## Use")[2]
    example = used.partition("```python\n")[2].partition("```")[0]
    scope: dict[str, Any] = {}
    exec(example, scope)
    assert scope["encoded"].dense().shape == scope["drawn"].shape == (2, 128)
    assert scope["ssae"].source.revision == COMMIT
    assert scope["texts"](scope["codes"]) != scope["texts"](scope["codes"].flip(0))


class TestTexts:
    @pytest.fixture(params=[{}, {"bos": True}, {"pad_token": None}], ids=["plain", "bos", "no padding token"])
    def folder(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        """With or without a BOS in front of every text, as Llama's and Qwen's tokenizers; without padding token, as Llama's."""
        return save_tokenizer(tmp_path / "model", **request.param)

    def test_one_bos_begins_a_context_and_none_a_step(self, folder: Path) -> None:
        tokenizer = step_tokenizer(folder)
        read = tokenised_steps(contexts=CONTEXTS, steps=STEPS, tokenizer=tokenizer)
        plain = tokenizer.tokenizer(CONTEXTS, add_special_tokens=False).input_ids
        assert read.steps.contexts == [[*tokenizer.prefix, *ids] for ids in plain]
        assert read.steps.steps == tokenizer.tokenizer(STEPS, add_special_tokens=False).input_ids
        assert (read.cut_contexts, read.cut_steps) == (0, 0)

    def test_long_texts_are_cut_and_counted_and_keep_their_bos(self, folder: Path) -> None:
        tokenizer = step_tokenizer(folder)
        whole = tokenised_steps(contexts=CONTEXTS, steps=STEPS, tokenizer=tokenizer).steps
        front = len(tokenizer.prefix)
        for keep, part in [("first", slice(front, 4)), ("last", slice(-(4 - front), None))]:
            read = tokenised_steps(
                contexts=CONTEXTS, steps=STEPS, tokenizer=tokenizer, max_context_tokens=4, keep_context=keep, max_step_tokens=5,
            )  # fmt: skip
            assert read.steps.contexts == [[*tokenizer.prefix, *ids[part]] if len(ids) > 4 else ids for ids in whole.contexts]
            assert read.steps.steps == [ids[:5] for ids in whole.steps]
            assert read.cut_contexts == sum(len(ids) > 4 for ids in whole.contexts) > 0
            assert read.cut_steps == sum(len(ids) > 5 for ids in whole.steps) > 0

    def test_an_empty_step_is_refused(self, folder: Path) -> None:
        with pytest.raises(ValueError, match="1 of them empty"):
            tokenised_steps(contexts=["a"], steps=[""], tokenizer=step_tokenizer(folder))
