"""Extraction: the values of a plain forward pass, in the order of the traces, labelled, cut, split into parts and shards."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_traces import extraction_arguments, publish, write_random_traces
from torch import Tensor

from workflow.activations import partial_shards
from workflow.activations.extraction import extract_shard
from workflow.batching import batches, blocks, padded
from workflow.config.section import ConfigError
from workflow.formats.activations import Store
from workflow.formats.rows import QUESTION, RESPONSE, TEMPLATE
from workflow.formats.traces import Trace, write_traces
from workflow.language_model import load_model
from workflow.residuals import ResidualReader

PROBLEMS = {"val": 3, "test": 6, "train": 9}


def plain_forward(folder: Path, traces: list[Trace], max_tokens: int = 64) -> list[Tensor]:
    """Both layers' residual streams, a trace at a time; the last one from a hook, as hidden_states[-1] is normed."""
    model = load_model(folder, torch.device("cpu"), torch.float32)
    last: list[Tensor] = []
    model.model.layers[1].register_forward_hook(lambda module, inputs, output: last.append(output.detach()))
    with torch.no_grad():
        ids = [torch.tensor([trace.token_ids[:max_tokens]]) for trace in traces]
        first = [model(input_ids=text, output_hidden_states=True).hidden_states[1] for text in ids]
    return [torch.cat([values[0] for values in layer]) for layer in (first, last)]


@pytest.mark.parametrize("family", ["tiny_qwen2", "tiny_llama"])
def test_rows_are_those_of_a_plain_forward_pass(tmp_path: Path, family: str, request: pytest.FixtureRequest):
    folder = request.getfixturevalue(family)
    traces = [trace for trace in write_random_traces(tmp_path, PROBLEMS) if trace.split != "train"]
    arguments = extraction_arguments(tmp_path, folder)
    facts = extract_shard(**arguments)
    for manifest, expected in zip(arguments["manifests"], plain_forward(folder, traces), strict=True):
        store = Store([manifest])
        torch.testing.assert_close(store.read(), expected, atol=2e-5, rtol=1e-4)
        assert store.rows["trace"].tolist() == [trace.trace for trace in traces for _ in trace.token_ids]
        assert store.rows["token"].tolist() == [token for trace in traces for token in trace.token_ids]
    assert facts["rows"] == sum(len(trace.token_ids) for trace in traces)
    assert (facts["device"], facts["dtype"], facts["stored_dtype"], facts["resumed_rows"]) == ("cpu", "float32", "float32", 0)
    assert not list(tmp_path.rglob(".partial"))


def test_the_last_layer_is_read_before_the_final_norm(tmp_path: Path, tiny_qwen2: Path):
    write_random_traces(tmp_path, {"test": 2})
    arguments = extraction_arguments(tmp_path, tiny_qwen2, layers=[1])
    extract_shard(**arguments)
    rows = Store(arguments["manifests"]).read()
    assert not torch.allclose(rows.pow(2).mean(dim=1), torch.ones(len(rows)), atol=0.05)  # what an RMS norm would give


@pytest.mark.parametrize("batch_tokens", [1, 50, 5000])
def test_values_do_not_depend_on_batches_and_padding(tmp_path: Path, tiny_qwen2: Path, batch_tokens: int):
    traces = write_random_traces(tmp_path, {"test": 8})
    arguments = extraction_arguments(tmp_path, tiny_qwen2, batch_tokens=batch_tokens)
    extract_shard(**arguments)
    for manifest, expected in zip(arguments["manifests"], plain_forward(tiny_qwen2, traces), strict=True):
        torch.testing.assert_close(Store([manifest]).read(), expected, atol=2e-5, rtol=1e-4)


def test_every_row_is_labelled(tmp_path: Path, tiny_llama: Path):
    trace = write_random_traces(tmp_path, {"test": 1}, samples=1)[0]
    arguments = extraction_arguments(tmp_path, tiny_llama)
    extract_shard(**arguments)
    rows = Store([arguments["manifests"][0]]).rows
    prompt, length = trace.prompt_tokens, len(trace.token_ids)
    assert rows["pos"].tolist() == list(range(length))
    assert rows["step"].tolist() == [-1] * prompt + [0] * 2 + [1] * (length - prompt - 2)
    asked = prompt - 3
    assert rows["role"].tolist() == [TEMPLATE] * 2 + [QUESTION] * asked + [TEMPLATE] + [RESPONSE] * (length - prompt)
    assert rows.iloc[0][["problem", "split", "trace"]].tolist() == [trace.problem, "test", trace.trace]
    dtypes = {name: str(dtype) for name, dtype in rows.dtypes.items()}
    assert dtypes == {
        "problem": "category", "split": "category", "trace": "category", "step": "int16", "pos": "int32", "token": "int32",
        "role": "int8", "norm": "float32",
    }  # fmt: skip


def test_long_texts_are_cut_and_counted(tmp_path: Path, tiny_qwen2: Path):
    traces = write_random_traces(tmp_path, {"test": 6})
    arguments = extraction_arguments(tmp_path, tiny_qwen2, max_tokens=20)
    facts = extract_shard(**arguments)
    lost = [max(0, len(trace.token_ids) - 20) for trace in traces]
    manifest = json.loads(arguments["manifests"][0].read_text())
    assert 0 < manifest["tokens_cut"] == sum(lost)
    assert manifest["traces_cut"] == facts["traces_cut"] == sum(tokens > 0 for tokens in lost)
    expected = plain_forward(tiny_qwen2, traces, max_tokens=20)[0]
    torch.testing.assert_close(Store([arguments["manifests"][0]]).read(), expected, atol=2e-5, rtol=1e-4)


def test_the_manifest_says_what_and_from_what(tmp_path: Path, tiny_qwen2: Path):
    write_random_traces(tmp_path, {"val": 2})
    arguments = extraction_arguments(tmp_path, tiny_qwen2)
    extract_shard(**arguments)
    first, last = (json.loads(path.read_text()) for path in arguments["manifests"])
    assert arguments["where"].items() <= last.items()
    assert (last["layer"], last["hook_point"], last["d_model"], last["problems"], last["traces"]) == (
        1, "blocks.1.hook_resid_post", 64, 2, 4,
    )  # fmt: skip
    assert (last["model_digest"], last["tokenizer_digest"]) == ("m" * 64, "t" * 64)
    assert first["text_digest"] == last["text_digest"]
    assert first["digest"] != last["digest"]


def test_parts_are_blocks_of_ranks_and_shards_are_contiguous_shares(tmp_path: Path, tiny_qwen2: Path):
    traces = write_random_traces(tmp_path, PROBLEMS)
    stored: list[list[str]] = []
    for part, shard in (("hop_0", "000"), ("hop_0", "001"), ("hop_0", "002"), ("hop_1", "000"), ("hop_1", "001")):
        arguments = extraction_arguments(tmp_path, tiny_qwen2, part, shard, shards=3, layers=[0])
        extract_shard(**arguments)
        stored.append(list(dict.fromkeys(Store(arguments["manifests"]).rows["trace"])))
    hops = [[t.trace for t in traces if t.split == "train" and t.rank // 6 == hop] for hop in (0, 1)]
    assert stored[:3] == [hops[0][:4], hops[0][4:8], hops[0][8:]]
    assert stored[3:] == [hops[1][:2], hops[1][2:4]]


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        (
            "hop_2",
            {},
            r"hop_2 must hold train problems of rank 12 to 17; .* few train problems, 9 in .* or lower activations.prompts",
        ),
        ("heldout", {"layers": [1, 2]}, r"design.layers must lie between 0 and 1, .*; got 2\. Correct"),
        ("hop_1", {"shards": 7, "shard": "000"}, r"part hop_1 has 6 traces for activations.shards = 7\. Lower"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, tiny_qwen2: Path, part: str, settings: dict[str, Any], message: str):
    write_random_traces(tmp_path, PROBLEMS)
    with pytest.raises(ConfigError, match=message):
        extract_shard(**extraction_arguments(tmp_path, tiny_qwen2, part, **settings))


def test_heldout_without_val_and_test_is_refused(tmp_path: Path, tiny_qwen2: Path):
    write_random_traces(tmp_path, {"train": 3})
    with pytest.raises(ConfigError, match=r"Part heldout must hold .* has none\. Add one of them to traces.splits"):
        extract_shard(**extraction_arguments(tmp_path, tiny_qwen2))


def test_tokens_that_the_model_lacks_are_refused(tmp_path: Path, tiny_qwen2: Path):
    traces = write_random_traces(tmp_path, {"test": 1}, samples=1)
    publish(tmp_path, [traces[0]._replace(token_ids=[*traces[0].token_ids[:-1], 312])])
    with pytest.raises(ConfigError, match=r"0 to 311; trace p100000000000/base/0 has token 312\. Give all"):
        extract_shard(**extraction_arguments(tmp_path, tiny_qwen2))


def test_traces_other_than_their_manifest_says_are_refused(tmp_path: Path, tiny_qwen2: Path):
    traces = write_random_traces(tmp_path, {"test": 2})
    write_traces(tmp_path / "traces.parquet", traces[:3])
    with pytest.raises(ConfigError, match="must have the digest"):
        extract_shard(**extraction_arguments(tmp_path, tiny_qwen2))


def test_texts_beyond_the_context_are_refused(tmp_path: Path, tiny_qwen2: Path):
    traces = write_random_traces(tmp_path, {"test": 1}, samples=1)
    long = traces[0]._replace(token_ids=[5] * 600, step_ends=[600], logprobs=[-1.0] * (600 - traces[0].prompt_tokens))
    publish(tmp_path, [long])
    with pytest.raises(ConfigError, match=r"512 positions of the model; the longest has 600 tokens.*max_tokens to 512"):
        extract_shard(**extraction_arguments(tmp_path, tiny_qwen2, max_tokens=700))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_stored_formats_round_the_values_once(tmp_path: Path, tiny_qwen2: Path, dtype: str):
    write_random_traces(tmp_path, {"test": 3})
    exact, rounded = (extraction_arguments(tmp_path, tiny_qwen2, layers=[0], dtype=kind) for kind in ("float32", dtype))
    extract_shard(**exact)
    values = Store(exact["manifests"]).read()
    extract_shard(**rounded)
    assert torch.equal(Store(rounded["manifests"]).read(), values.to(getattr(torch, dtype)).float())


def test_an_overflow_names_trace_and_position(tmp_path: Path, tiny_qwen2: Path, monkeypatch: pytest.MonkeyPatch):
    traces = write_random_traces(tmp_path, {"test": 3})
    plain = ResidualReader.read

    def with_a_sink(self: ResidualReader, ids: Tensor) -> list[Tensor]:
        first, last = plain(self, ids)
        sink = (ids[:, 5:6] == traces[3].token_ids[5])[..., None] & (torch.arange(ids.shape[1]) == 5)[None, :, None]
        return [first, torch.where(sink, torch.full_like(last, 1e5), last)]

    monkeypatch.setattr(ResidualReader, "read", with_a_sink)
    with pytest.raises(ConfigError, match=rf"float16; layer 1 at trace {traces[3].trace}, position 5 reaches 100000"):
        extract_shard(**extraction_arguments(tmp_path, tiny_qwen2, dtype="float16"))
    assert not list(tmp_path.rglob("shard_*.json"))


def test_one_pass_reads_all_layers_and_stops_after_the_last(tiny_qwen2: Path):
    model = load_model(tiny_qwen2, torch.device("cpu"), torch.float32)
    passed: list[str] = []
    for name in ("layers.0", "layers.1", "norm"):
        model.model.get_submodule(name).register_forward_hook(lambda *_, name=name: passed.append(name))
    model.lm_head.register_forward_hook(lambda *_: passed.append("lm_head"))
    ids = torch.from_numpy(padded([[5, 6, 7], [8, 9]]))
    with ResidualReader(model, [0]) as reader:
        reader.read(ids)
    assert passed == ["layers.0"]
    passed.clear()
    with ResidualReader(model, [1, 0]) as reader:
        last, first = reader.read(ids)
    assert passed == ["layers.0", "layers.1"]
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert torch.equal(states[1], first)
    assert not torch.equal(states[1], last)
    assert passed[2:] == ["layers.0", "layers.1", "norm", "lm_head"]  # and no hook of ours is left that would stop it


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60), tokens=st.integers(1, 90))
def test_batches_hold_every_text_once_and_keep_to_their_size(lengths: list[int], tokens: int):
    seen: list[int] = []
    for block in blocks(lengths, 3 * tokens):
        assert len(block) == 1 or sum(lengths[text] for text in block) <= 3 * tokens
        for batch in batches(block, lengths, tokens):
            assert len(batch) == 1 or len(batch) * max(lengths[text] for text in batch) <= tokens
            seen += batch
        assert sorted(seen) == list(range(block.stop))
    assert len(seen) == len(lengths)


def test_a_full_disk_is_not_mistaken_for_success(tmp_path: Path, tiny_qwen2: Path, monkeypatch: pytest.MonkeyPatch):
    write_random_traces(tmp_path, {"test": 3})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(partial_shards, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        extract_shard(**extraction_arguments(tmp_path, tiny_qwen2))
    assert not list(tmp_path.rglob("shard_*.json"))
