"""Files and folders are told by the names in them; those that cannot be read are refused by name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from workflow.config.section import ConfigError
from workflow.formats.published.facts import hook_point
from workflow.formats.published.sniff import read_any


def ones(*names: str) -> dict[str, Tensor]:
    return {name: torch.ones(3) for name in names}


@pytest.mark.parametrize(
    ("project", "names"),
    [
        ("OpenMOSS", ("W_E", "W_D", "b_E", "b_D")),
        ("OpenMOSS", ("encoder.weight", "activation_function.log_jumprelu_threshold")),
        ("OpenAI", ("pre_bias", "latent_bias", "encoder.weight", "decoder.weight")),
        ("Goodfire", ("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias")),
        ("dictionary_learning", ("encoder.weight", "gate_bias", "mag_bias", "r_mag", "decoder.weight", "decoder_bias")),
        ("dictionary_learning", ("encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k", "threshold")),
        ("dictionary_learning", ("W_enc", "W_dec", "b_enc", "b_dec", "k", "threshold", "group_sizes")),
        ("dictionary_learning", ("bias", "encoder.weight", "encoder.bias", "decoder.weight")),
        ("sparsify", ("encoder.weight", "encoder.bias", "W_dec", "b_dec")),
        ("Llama Scope R1", ("encoder.weight", "decoder.weight", "log_jumprelu_threshold")),
        ("Gemma Scope", ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")),
        ("a transcoder with a skip connection", ("W_enc", "W_dec", "b_enc", "b_dec", "W_skip")),
        ("a cross-layer transcoder", ("W_enc_0", "W_dec_0")),
        (r"SAELens \(matching pursuit\)", ("W_dec", "b_dec")),
        ("SSAE", ("autoencoder.latent_bias", "projection_mlp.0.weight")),
    ],
)
def test_formats_that_cannot_be_read_are_named(tmp_path: Path, project: str, names: tuple[str, ...]) -> None:
    torch.save(ones(*names), tmp_path / "sae.pt")
    with pytest.raises(ConfigError, match=rf"must be in a format that can be read: saelens, ohhmoo, qresearch; .* is of {project}"):
        read_any(tmp_path / "sae.pt")


@pytest.mark.parametrize(
    ("project", "files"),
    [
        ("sparsify", ("cfg.json", "sae.safetensors")),
        ("dictionary_learning", ("config.json", "ae.pt")),
        ("OpenMOSS of 2024", ("hyperparams.json", "lm_config.json")),
        ("Gemma Scope", ("params.npz",)),
        ("an SAE of saedrift itself", ("manifest.json", "sae.safetensors")),
    ],
)
def test_folders_that_cannot_be_read_are_named(tmp_path: Path, project: str, files: tuple[str, ...]) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=f"is of {project}"):
        read_any(tmp_path)


def test_two_linear_layers_of_other_projects_are_told_by_what_lies_beside(tmp_path: Path) -> None:
    pair = ones("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
    (tmp_path / "scope" / "checkpoints").mkdir(parents=True)
    save_file(pair, tmp_path / "scope" / "checkpoints" / "final.safetensors")
    (tmp_path / "scope" / "hyperparams.json").write_text("{}")
    with pytest.raises(ConfigError, match="is of OpenMOSS of 2024"):
        read_any(tmp_path / "scope" / "checkpoints" / "final.safetensors")
    (tmp_path / "dl").mkdir()
    torch.save(pair, tmp_path / "dl" / "ae_100.pt")
    (tmp_path / "dl" / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderNew"}}))
    with pytest.raises(ConfigError, match="is of dictionary_learning"):
        read_any(tmp_path / "dl" / "ae_100.pt")


def test_unknown_tensors_are_listed(tmp_path: Path) -> None:
    torch.save(ones("alpha", "beta"), tmp_path / "sae.pt")
    with pytest.raises(ConfigError, match="no format known here has alpha, beta"):
        read_any(tmp_path / "sae.pt")


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a file or folder with an SAE; there is nothing of that name"):
        read_any(tmp_path / "missing")
    with pytest.raises(ConfigError, match=r"must hold one SAE: sae_weights.safetensors, or a single file .*; found nothing"):
        read_any(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"must end in .safetensors, .pt, .pth, .bin, .ckpt; got .*notes.txt"):
        read_any(tmp_path / "notes.txt")


def test_a_folder_of_several_saes_asks_for_one(tmp_path: Path) -> None:
    for name in ("layer_19", "layer_21"):
        (tmp_path / name).mkdir()
        save_file(ones("a"), tmp_path / name / "sae_weights.safetensors")
    with pytest.raises(ConfigError, match="Name one: layer_19, layer_21 have weights"):
        read_any(tmp_path)
    for name in ("a.pt", "b.pt"):
        torch.save(ones("a"), tmp_path / name)
    with pytest.raises(ConfigError, match=r"found a.pt, b.pt. Name one: layer_19"):
        read_any(tmp_path)


def test_an_unknown_word_from_the_caller_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="kk"):
        read_any(tmp_path, kk=3)
    with pytest.raises(ConfigError, match="pre_bias must be one of decoder, none; got 'b_dec'"):
        read_any(tmp_path, pre_bias="b_dec")
    with pytest.raises(ConfigError, match="format must be one of saelens, ohhmoo, qresearch; got 'sparsify'"):
        read_any(tmp_path, format="sparsify")


@pytest.mark.parametrize(
    ("name", "side", "block", "layer"),
    [
        ("blocks.8.hook_resid_post", "output", 8, 8),
        ("blocks.9.hook_resid_pre", "input", 9, 8),
        ("blocks.0.hook_resid_pre", "input", 0, None),
        ("blocks.4.hook_out", "output", 4, 4),
        ("model.layers.18", "output", 18, 18),
        ("model.language_model.layers.19", "output", 19, 19),
        ("transformer.h.3", "output", 3, 3),
        ("blocks.5.hook_mlp_out", None, None, None),
        ("blocks.5.attn.hook_z", None, None, None),
        ("model.layers.18.mlp", None, None, None),
    ],
)
def test_hook_points_are_taken_apart(name: str, side: str | None, block: int | None, layer: int | None) -> None:
    found = hook_point(name)
    assert (found.name, found.side, found.block, found.layer) == (name, side, block, layer)
