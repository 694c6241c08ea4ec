"""Folders for SAELens: the same codes and reconstruction by its written-down forward pass, nothing approximate without a word."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from published_saes import all_configs, assert_same, filled, rows
from saelens_forward import forward
from safetensors.torch import load_file

from sae_core.models.batchtopk import UNSET
from sae_core.models.build import build
from workflow.config.section import ConfigError
from workflow.formats.published.saelens_writing import write_saelens
from workflow.formats.published.sniff import read_any

CONFIGS = dict(all_configs())
SIGNED = CONFIGS["topk_signed-own-scale"]
HOOK = "model.layers.12"
FOLDED = ("topk_signed", "batchtopk", "matryoshka")
UNFOLDED = [name for name in CONFIGS if not name.startswith(FOLDED) and "-own-" not in name]


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "cfg.json").read_text())


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_computes_the_same(tmp_path: Path, name: str) -> None:
    signed = name.startswith("topk_signed")
    sae, x = filled(CONFIGS[name], 5, offset=12.0 if signed else 0.0), rows(3)
    write_saelens(tmp_path, sae, HOOK, rows=x if signed else None)
    codes, reconstruction = forward(tmp_path, x)
    assert_same(sae.encode_dense(x), codes)
    assert_same(sae(x), reconstruction)
    found = read_any(tmp_path)
    assert_same(found.model(x), reconstruction)
    assert (found.facts.hook_point, found.facts.side, found.facts.layer) == (HOOK, "output", 12)


@pytest.mark.parametrize("name", UNFOLDED)
def test_where_nothing_is_folded_the_tensors_are_the_same_to_the_bit(tmp_path: Path, name: str) -> None:
    sae = filled(CONFIGS[name], scale=1.0)
    write_saelens(tmp_path, sae, HOOK)
    again = read_any(tmp_path).model
    assert again.config == sae.config
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in sae.tensors().items())


def test_a_row_of_zeros_in_the_decoder_does_no_harm(tmp_path: Path) -> None:
    sae = filled(CONFIGS["batchtopk-own-scale-by_norm"])
    tensors = sae.tensors()
    tensors["W_dec"][4] = 0
    write_saelens(tmp_path, build(sae.config, tensors), HOOK)
    _, reconstruction = forward(tmp_path, rows())
    assert torch.isfinite(reconstruction).all()


def test_a_threshold_that_was_never_moved_lets_all_positive_latents_pass(tmp_path: Path) -> None:
    sae = filled(CONFIGS["batchtopk-none-scale"])
    sae.threshold.fill_(UNSET)
    write_saelens(tmp_path, sae, HOOK)
    assert (load_file(tmp_path / "sae_weights.safetensors")["threshold"] == 0).all()
    assert_same(forward(tmp_path, rows())[0], sae.encode_dense(rows()))


def test_signed_top_k_needs_rows_or_a_word(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs rows to check that no selected value is negative, .*; got none\. Give rows"):
        write_saelens(tmp_path, filled(SIGNED), HOOK)
    assert not list(tmp_path.iterdir())


def test_signed_top_k_with_negative_values_is_refused_with_their_share(tmp_path: Path) -> None:
    sae, x = filled(SIGNED, offset=-1.0), rows(count=50)
    codes = sae.encode(x).values
    count = int((codes < 0).sum())
    assert 0 < count < len(codes) == 250
    with pytest.raises(
        ConfigError, match=rf"No selected value may be negative .*; {count} of 250 \({count / 250:.3%}\) on 50 rows"
    ):
        write_saelens(tmp_path, sae, HOOK, rows=x)
    write_saelens(tmp_path, sae, HOOK, rows=x, approximate=True)
    assert written(tmp_path)["metadata"]["signed_topk"] == {"negative_share": count / 250, "rows": 50}
    torch.testing.assert_close(forward(tmp_path, x)[0], sae.encode_dense(x).relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [torch.ones(4, 7), torch.ones(0, 6), torch.ones(6), torch.full((4, 6), float("nan"))])
def test_rows_that_are_none_of_the_sae_prove_nothing(tmp_path: Path, wrong: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"Rows must be finite and \[row, 6\], as the SAE takes them; got"):
        write_saelens(tmp_path, filled(SIGNED), HOOK, rows=wrong, approximate=True)


def test_an_unchecked_signed_top_k_says_so(tmp_path: Path) -> None:
    write_saelens(tmp_path, filled(SIGNED), HOOK, approximate=True)
    assert written(tmp_path)["metadata"]["signed_topk"] == {"negative_share": None, "rows": 0}


def test_the_version_is_there_whatever_the_metadata_say(tmp_path: Path) -> None:
    write_saelens(tmp_path, filled(CONFIGS["relu-own-scale"]), HOOK, metadata={"sae_lens_version": "5.0.0", "context_size": 128})
    metadata = written(tmp_path)["metadata"]
    assert int(metadata["sae_lens_version"].split(".")[0]) >= 6
    assert metadata["context_size"] == 128


def test_batch_kinds_say_how_they_were_trained(tmp_path: Path) -> None:
    write_saelens(tmp_path / "b", filled(CONFIGS["batchtopk-own-scale"]), HOOK)
    write_saelens(tmp_path / "m", filled(CONFIGS["matryoshka-own-scale"]), HOOK)
    assert written(tmp_path / "b")["architecture"] == written(tmp_path / "m")["architecture"] == "jumprelu"
    assert written(tmp_path / "b")["metadata"]["training_architecture"] == "batchtopk"
    assert written(tmp_path / "m")["metadata"]["training_architecture_details"] == {"k": 5, "matryoshka_widths": [2, 10, 20]}


def test_an_sae_is_replaced_only_by_force_and_then_whole(tmp_path: Path) -> None:
    first, second = filled(CONFIGS["relu-own-scale"], 1), filled(CONFIGS["gated-none-row_norm"], 2)
    write_saelens(tmp_path, first, HOOK, firing_rate=torch.ones(20))
    with pytest.raises(
        ConfigError, match=r"must not hold an SAE yet; found cfg.json, sae_weights.safetensors, sparsity.safetensors"
    ):
        write_saelens(tmp_path, second, HOOK)
    assert_same(read_any(tmp_path).model(rows()), first(rows()))
    (tmp_path / "README.md").write_text("mine")
    write_saelens(tmp_path, second, HOOK, force=True)
    assert_same(read_any(tmp_path).model(rows()), second(rows()))
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "cfg.json", "sae_weights.safetensors"}


def test_equal_saes_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_saelens(tmp_path / name, filled(CONFIGS["topk_relu-own-scale"]), HOOK, firing_rate=torch.full((20,), 0.1))
    for name in ("cfg.json", "sae_weights.safetensors", "sparsity.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
