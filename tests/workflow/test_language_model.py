"""Language models: loading, blocks, facts and tokenizers of real tiny models."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from workflow.config.section import ConfigError
from workflow.devices import _cpu_has_bf16, choose_device, choose_dtype
from workflow.language_model import (
    blocks,
    end_ids,
    load_model,
    load_tokenizer,
    model_facts,
    tokenizer_digest,
    trunk,
)

CPU = torch.device("cpu")


@pytest.fixture(params=["tiny_qwen2", "tiny_llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def edited(folder: Path, target: Path, name: str, **changes: object) -> Path:
    """A copy of a model's folder with some keys of one of its JSON files changed."""
    shutil.copytree(folder, target)
    content = json.loads((target / name).read_text())
    (target / name).write_text(json.dumps({**content, **changes}))
    return target


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_comes_in_the_number_format_asked_for_and_in_eval_mode(folder: Path, dtype: torch.dtype) -> None:
    model = load_model(folder, CPU, dtype)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert not model.training


def test_blocks_are_the_decoder_layers_in_order_and_see_the_residual_stream(folder: Path) -> None:
    model = load_model(folder, CPU, torch.float32)
    outputs = []
    hooks = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in blocks(model)]
    with torch.no_grad():
        states = model(torch.arange(3, 9)[None], output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    first = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
    assert len(outputs) == 2
    torch.testing.assert_close(first, states[1], rtol=0, atol=0)


def test_the_list_of_blocks_is_not_mistaken_for_a_list_inside_a_block(folder: Path) -> None:
    model = load_model(folder, CPU, torch.float32)
    found = blocks(model)
    found[0].experts = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    assert blocks(model) is found


def test_a_model_without_its_blocks_in_one_list_is_refused(folder: Path) -> None:
    model = load_model(folder, CPU, torch.float32)
    model.config.num_hidden_layers = 7
    with pytest.raises(ConfigError, match="7 transformer blocks"):
        blocks(model)


def test_the_trunk_ends_in_the_states_that_the_head_reads(folder: Path) -> None:
    model = load_model(folder, CPU, torch.float32)
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        states = trunk(model)(ids).last_hidden_state
        torch.testing.assert_close(model.get_output_embeddings()(states), model(ids).logits)


def test_facts_need_no_weights(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(folder / "config.json", bare)
    facts = model_facts(bare)
    assert (facts.layers, facts.d_model) == (2, 64)
    assert facts.vocab == len(load_tokenizer(folder))
    assert facts.architecture in ("Qwen2ForCausalLM", "LlamaForCausalLM")


def test_the_tokenizer_pads_on_the_left_whatever_was_saved(folder: Path, tmp_path: Path) -> None:
    right = edited(folder, tmp_path / "right", "tokenizer_config.json", padding_side="right")
    assert load_tokenizer(right).padding_side == "left"


@pytest.mark.parametrize("pad", ["<|im_end|>", None])
def test_a_tokenizer_whose_padding_hides_real_ends_is_refused(folder: Path, tmp_path: Path, pad: str | None) -> None:
    bad = edited(folder, tmp_path / "bad", "tokenizer_config.json", pad_token=pad)
    with pytest.raises(ConfigError, match=r"must have a padding token.*Set pad_token"):
        load_tokenizer(bad)


def test_the_digest_is_of_the_meaning_not_of_the_spelling(tiny_llama: Path, tmp_path: Path) -> None:
    digest = tokenizer_digest(tiny_llama)
    respelled = shutil.copytree(tiny_llama, tmp_path / "respelled")
    content = json.loads((respelled / "tokenizer.json").read_text())
    padding = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
    (respelled / "tokenizer.json").write_text(json.dumps(content | {"padding": padding | {"pad_token": "x"}}, indent=7))
    assert tokenizer_digest(respelled) == digest

    content["model"]["merges"] = content["model"]["merges"][:-1]
    (respelled / "tokenizer.json").write_text(json.dumps(content))
    assert tokenizer_digest(respelled) != digest


def test_every_listed_end_counts_and_so_does_the_end_of_a_turn(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert end_ids(tokenizer, [9, 4]) == [tokenizer.eos_token_id, 4, 9]
    assert end_ids(tokenizer, None) == [tokenizer.eos_token_id]
    tokenizer.eos_token = "<|endoftext|>"
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in end_ids(tokenizer, None)


def test_device_and_number_format_follow_the_machine_unless_set(tmp_path: Path) -> None:
    assert choose_device("cpu") == CPU
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("float32", CPU) == torch.float32
    cpuinfo = tmp_path / "cpuinfo"
    for flags, has in [("fpu avx512f amx_bf16", True), ("fpu avx512_bf16", True), ("fpu avx512f", False)]:
        cpuinfo.write_text(f"processor: 0\nflags\t\t: {flags}\n")
        assert _cpu_has_bf16(cpuinfo) is has
    assert _cpu_has_bf16(tmp_path / "none") is False


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs a GPU.*Set compute.device to auto or cpu"):
        choose_device("cuda")
    assert choose_device("auto") == CPU
