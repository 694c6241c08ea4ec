"""SAELens and this project read each other's folders: same codes, same reconstruction, in every kind and convention."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from published_saes import all_configs, assert_same, filled
from published_saes import rows as our_rows

from sae_core.models.batchtopk import BatchTopKSAE, MatryoshkaSAE
from workflow.formats.published.saelens_writing import write_saelens
from workflow.formats.published.sniff import read_any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # SAELens imports what its dependencies have renamed
    pytest.importorskip("sae_lens", reason="sae-lens is not installed: pip install -e '.[peers]'")

import sae_lens_saes as theirs

OURS = dict(all_configs())
HOOK = "blocks.3.hook_resid_post"
AVERAGED = [way for way in theirs.all_conventions() if way.normalize_activations == "expected_average_only_in"]


@pytest.mark.parametrize("conventions", list(theirs.all_conventions()), ids=str)
def test_what_saelens_saves_is_read(tmp_path: Path, conventions: theirs.Conventions) -> None:
    theirs.at_inference(conventions, 3).save_model(tmp_path)
    averaged = conventions.normalize_activations == "expected_average_only_in"
    found, x = read_any(tmp_path, **({"norm_scaling_factor": 1} if averaged else {})), theirs.rows(1)
    codes, reconstruction = theirs.computed(theirs.loaded(tmp_path), x)
    assert_same(found.model.encode_dense(x), codes)
    assert_same(found.model(x), reconstruction)


@pytest.mark.parametrize("conventions", AVERAGED, ids=str)
def test_the_factor_of_an_average_norm_is_folded_as_saelens_does(tmp_path: Path, conventions: theirs.Conventions) -> None:
    sae = theirs.at_inference(conventions, 4)
    sae.save_model(tmp_path)
    sae.fold_activation_norm_scaling_factor(0.6)
    found, x = read_any(tmp_path, norm_scaling_factor=0.6), theirs.rows(1)
    codes, reconstruction = theirs.computed(sae, x)
    assert_same(found.model.encode_dense(x), codes)
    assert_same(found.model(x), reconstruction)


@pytest.mark.parametrize("kind", theirs.TRAINING)
@pytest.mark.parametrize("method", ["save_model", "save_inference_model"])
def test_what_saelens_saves_in_training_is_read(tmp_path: Path, kind: str, method: str) -> None:
    sae = theirs.in_training(kind, 5)
    getattr(sae, method)(tmp_path / "saved")
    sae.save_inference_model(tmp_path / "inference")
    found, x = read_any(tmp_path / "saved"), theirs.rows(1)
    codes, reconstruction = theirs.computed(theirs.loaded(tmp_path / "inference"), x)
    assert_same(found.model.encode_dense(x), codes)
    assert_same(found.model(x), reconstruction)


@pytest.mark.parametrize("by_norm", [False, True])
def test_a_batchtopk_sae_in_training_takes_the_factor_of_an_average_norm(tmp_path: Path, by_norm: bool) -> None:
    sae = theirs.in_training("batchtopk", 6, normalize_activations="expected_average_only_in", rescale_acts_by_decoder_norm=by_norm)
    sae.save_model(tmp_path / "saved")
    sae.fold_activation_norm_scaling_factor(0.6)
    sae.save_inference_model(tmp_path / "inference")
    found, x = read_any(tmp_path / "saved", norm_scaling_factor=0.6), theirs.rows(1)
    assert isinstance(found.model, BatchTopKSAE)
    codes, reconstruction = theirs.computed(theirs.loaded(tmp_path / "inference"), x)
    assert_same(found.model.encode_dense(x), codes)
    assert_same(found.model(x), reconstruction)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_what_is_written_is_read_by_saelens(tmp_path: Path, name: str, scale: float) -> None:
    signed = name.startswith("topk_signed")
    sae, x = filled(OURS[name], 3, scale, offset=12.0 if signed else 0.0), our_rows(1)
    write_saelens(tmp_path, sae, HOOK, rows=x if signed else None)
    codes, reconstruction = theirs.computed(theirs.loaded(tmp_path), x)
    assert_same(sae.encode_dense(x), codes)
    assert_same(sae(x), reconstruction)
    again = read_any(tmp_path)
    assert_same(again.model.encode_dense(x), codes)
    assert_same(again.model(x), reconstruction)


def test_what_is_written_carries_its_metadata_and_sparsity(tmp_path: Path) -> None:
    sae = filled(OURS["matryoshka-own-scale"])
    write_saelens(tmp_path, sae, HOOK, metadata={"model_name": "tiny", "prepend_bos": True}, firing_rate=torch.linspace(0, 1, 20))
    cfg = theirs.loaded(tmp_path).cfg
    assert (cfg.metadata.model_name, cfg.metadata.hook_name, cfg.metadata.prepend_bos) == ("tiny", HOOK, True)
    assert cfg.metadata.training_architecture == "matryoshka_batchtopk"
    assert isinstance(sae, MatryoshkaSAE)
    assert cfg.metadata.training_architecture_details["matryoshka_widths"] == list(sae.config.widths)


@pytest.mark.parametrize(
    "changes",
    [
        {"hook_point": HOOK, "activation_fn_str": "relu", "normalize_activations": True},
        {"hook_point": HOOK, "architecture": "standard", "apply_b_dec_to_input": False},
        {"hook_name": HOOK, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}},
        {"hook_name": HOOK, "architecture": "topk", "activation_fn_kwargs": {"k": 4}, "sae_lens_version": "5.3.0"},
        {"hook_name": "blocks.3.attn.hook_z", "normalize_activations": "layer_norm"},
    ],
)
def test_configurations_of_before_version_6_are_read_as_saelens_reads_them(tmp_path: Path, changes: dict) -> None:
    theirs.at_inference(theirs.Conventions("standard", True, "none"), 7).save_model(tmp_path)
    flat = {"d_in": theirs.D_IN, "d_sae": theirs.D_SAE, "dtype": "torch.float32", "metadata": {"model_name": "is dropped"}}
    (tmp_path / "cfg.json").write_text(json.dumps(flat | changes))
    averaged = changes.get("normalize_activations") is True
    found, x = read_any(tmp_path, **({"norm_scaling_factor": 1} if averaged else {})), theirs.rows(1)
    heads = x.view(len(x), 2, -1) if "hook_z" in changes["hook_name" if "hook_name" in changes else "hook_point"] else x
    codes, reconstruction = theirs.computed(theirs.loaded(tmp_path), heads)
    assert_same(found.model.encode_dense(x), codes)
    assert_same(found.model(x), reconstruction.reshape(x.shape))
