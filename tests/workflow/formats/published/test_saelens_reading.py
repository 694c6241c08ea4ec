"""Folders of SAELens: what is missing is asked for, what cannot be is refused, nothing is guessed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from published_saes import D_MODEL, D_SAE, all_configs, assert_same, filled, rows
from safetensors.torch import load_file, save_file

from sae_core.config.sae import BatchTopKConfig, ReluConfig, TopKConfig
from workflow.config.section import ConfigError
from workflow.formats.published.saelens_writing import write_saelens
from workflow.formats.published.sniff import read_any

CONFIGS = dict(all_configs())
HOOK = "blocks.3.hook_resid_post"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A topk SAE of SAELens."""
    write_saelens(tmp_path / "sae", filled(CONFIGS["topk_relu-decoder-scale"]), HOOK)
    return tmp_path / "sae"


@pytest.fixture
def standard(tmp_path: Path) -> Path:
    """A standard SAE of SAELens."""
    write_saelens(tmp_path / "sae", filled(CONFIGS["relu-decoder-scale"]), HOOK)
    return tmp_path / "sae"


def change(folder: Path, remove: tuple[str, ...] = (), **changes: Any) -> None:
    cfg = json.loads((folder / "cfg.json").read_text()) | changes
    (folder / "cfg.json").write_text(json.dumps({name: value for name, value in cfg.items() if name not in remove}))


def change_tensors(folder: Path, remove: tuple[str, ...] = (), **changes: torch.Tensor) -> None:
    tensors = load_file(folder / "sae_weights.safetensors") | changes
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if name not in remove}
    save_file(kept, folder / "sae_weights.safetensors")


def test_a_missing_k_is_asked_for_and_never_100(folder: Path) -> None:
    change(folder, remove=("k",))
    with pytest.raises(ConfigError, match=r"must say k, .* it is missing \(SAELens would take 100\)\. Give the k"):
        read_any(folder)
    found = read_any(folder, k=7)
    assert isinstance(found.model.config, TopKConfig)
    assert found.model.config.k == 7
    assert "k: 7 (given)" in found.facts.assumed


def test_what_is_given_may_not_contradict_the_file(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"k must be what .*cfg.json says, 5; got 7"):
        read_any(folder, k=7)
    with pytest.raises(ConfigError, match="apply_b_dec_to_input must be what"):
        read_any(folder, pre_bias="none")
    with pytest.raises(ConfigError, match="hook_point must be what"):
        read_any(folder, hook_point="blocks.4.hook_resid_post")
    assert read_any(folder, k=5, pre_bias="decoder", hook_point=HOOK).facts.assumed == ()


def test_a_k_above_the_latents_is_refused(folder: Path) -> None:
    change(folder, k=21)
    with pytest.raises(ValueError, match="k must be at most d_sae = 20; got 21"):
        read_any(folder)


@pytest.mark.parametrize(
    ("remove", "changes", "message"),
    [
        (("architecture",), {}, "must say architecture, as every file of SAELens 6 does"),
        ((), {"architecture": "transcoder"}, "must be one of standard, topk, .*; got transcoder"),
        ((), {"architecture": "matching_pursuit"}, "got matching_pursuit. Other kinds cannot be read"),
        ((), {"normalize_activations": "covariance_whitening"}, "got covariance_whitening. Save the inference model"),
        ((), {"d_in": 7}, "d_in must be what .* says, 6; got 7"),
        ((), {"d_sae": 21}, "d_sae must be what .* says, 20; got 21"),
        ((), {"metadata": {"sae_lens_version": "six"}}, "must be a version; got 'six'"),
        ((), {"metadata": "six"}, "metadata of .* must be a JSON object; got 'six'"),
        ((), {"k": 2.5}, "k of a topk SAE must be a whole number; got 2.5"),
        (("metadata",), {"activation_fn": "tanh-relu"}, "activation_fn of .* must be relu or topk; got tanh-relu"),
    ],
)
def test_settings_without_an_equal_are_refused(folder: Path, remove: tuple[str, ...], changes: dict, message: str) -> None:
    change(folder, remove, **changes)
    with pytest.raises(ConfigError, match=message):
        read_any(folder)


def test_an_average_norm_needs_its_factor(folder: Path) -> None:
    change(folder, normalize_activations="expected_average_only_in")
    with pytest.raises(ConfigError, match=r"Give norm_scaling_factor: .* or 1 for what SAELens computes"):
        read_any(folder)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.5, "has_whitening": false}')
    beside, given = read_any(folder), read_any(folder, norm_scaling_factor=0.5)
    assert_same(beside.model(rows()), given.model(rows()), 0)
    assert "norm_scaling_factor: 0.5 (activation_scaler.json)" in beside.facts.assumed
    with pytest.raises(ConfigError, match=r"norm_scaling_factor must be what activation_scaler.json says, 0.5; got 2"):
        read_any(folder, norm_scaling_factor=2)


def test_a_factor_is_refused_where_it_has_no_part(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"norm_scaling_factor belongs to expected_average_only_in; .* has none"):
        read_any(folder, norm_scaling_factor=2)
    change(folder, normalize_activations="expected_average_only_in")
    with pytest.raises(ConfigError, match="must be above 0 and finite; got -1"):
        read_any(folder, norm_scaling_factor=-1)


def test_missing_and_unknown_tensors_are_named(standard: Path) -> None:
    change_tensors(standard, remove=("b_enc",), threshold=torch.ones(20))
    with pytest.raises(
        ConfigError, match=r"must hold W_enc, b_enc, W_dec, b_dec, .* found b_enc missing and threshold beside them"
    ):
        read_any(standard)


def test_unknown_tensors_can_be_ignored_by_name(standard: Path) -> None:
    before = read_any(standard).model(rows())
    change_tensors(standard, optimiser_state=torch.ones(3))
    with pytest.raises(ConfigError, match="found optimiser_state beside them"):
        read_any(standard)
    assert torch.equal(read_any(standard, ignore=("optimiser_state",)).model(rows()), before)


def test_a_factor_per_latent_is_dropped_only_where_it_is_1(standard: Path) -> None:
    before = read_any(standard).model(rows())
    change_tensors(standard, scaling_factor=torch.ones(20))
    assert torch.equal(read_any(standard).model(rows()), before)
    change_tensors(standard, scaling_factor=torch.full((20,), 2.0))
    with pytest.raises(ConfigError, match="found scaling_factor beside them"):
        read_any(standard)


def test_logarithms_of_thresholds_are_read(tmp_path: Path) -> None:
    sae = filled(CONFIGS["jumprelu-none-scale"], scale=1.0)
    write_saelens(tmp_path, sae, HOOK)
    change_tensors(tmp_path, remove=("threshold",), log_threshold=sae.threshold.detach().log())
    assert_same(read_any(tmp_path).model(rows()), sae(rows()))


def test_a_training_file_with_a_fraction_for_k_is_read(tmp_path: Path) -> None:
    write_saelens(tmp_path, filled(CONFIGS["topk_relu-none-scale"], scale=1.0), HOOK)
    change(tmp_path, architecture="batchtopk", k=5.25, rescale_acts_by_decoder_norm=False)
    change_tensors(tmp_path, topk_threshold=torch.tensor(0.3, dtype=torch.float64))
    found = read_any(tmp_path)
    assert isinstance(found.model.config, BatchTopKConfig)
    assert float(found.model.threshold) == pytest.approx(0.3)
    assert any(line.startswith("k: 5 for 5.25") for line in found.facts.assumed)


def test_selection_in_training_files_is_by_decoder_norm_unless_they_say_otherwise(tmp_path: Path) -> None:
    write_saelens(tmp_path, filled(CONFIGS["topk_relu-none-scale"]), HOOK)
    change_tensors(tmp_path, topk_threshold=torch.tensor(0.3))
    change(tmp_path, remove=("rescale_acts_by_decoder_norm", "normalize_activations"), architecture="batchtopk")
    found = read_any(tmp_path)
    assert isinstance(found.model.config, BatchTopKConfig)
    assert found.model.config.decoder_norm
    assert found.facts.assumed == (
        "rescale_acts_by_decoder_norm: true (SAELens' default)", "normalize_activations: none (SAELens' default)"
    )  # fmt: skip


def test_weights_alone_are_standard_and_need_the_pre_bias(standard: Path) -> None:
    before = read_any(standard).model(rows())
    (standard / "cfg.json").unlink()
    with pytest.raises(ConfigError, match=r"apply_b_dec_to_input must be known; .*cfg.json is missing"):
        read_any(standard)
    found = read_any(standard, pre_bias="decoder", hook_point="model.language_model.layers.19")
    assert isinstance(found.model.config, ReluConfig)
    assert torch.equal(found.model(rows()), before)
    assert not torch.equal(read_any(standard, pre_bias="none").model(rows()), before)
    assert (found.facts.side, found.facts.layer) == ("output", 19)
    assert any(line.startswith("architecture: standard") for line in found.facts.assumed)


def test_weights_alone_with_a_k_are_top_k(folder: Path) -> None:
    before = read_any(folder).model(rows())
    (folder / "cfg.json").unlink()
    assert torch.equal(read_any(folder, k=5, pre_bias="decoder").model(rows()), before)


def test_matrices_the_other_way_round_are_turned_by_their_shapes(standard: Path) -> None:
    before, tensors = read_any(standard).model(rows()), load_file(standard / "sae_weights.safetensors")
    change_tensors(standard, W_enc=tensors["W_enc"].T, W_dec=tensors["W_dec"].T)
    found = read_any(standard)
    assert torch.equal(found.model(rows()), before)
    assert any(line.startswith("W_enc: [d_sae, d_model]") for line in found.facts.assumed)


def test_square_matrices_need_cfg_json_or_a_word(tmp_path: Path) -> None:
    sae = filled(ReluConfig(d_model=D_MODEL, d_sae=D_MODEL, pre_bias="decoder"), scale=1.0)
    write_saelens(tmp_path, sae, HOOK)
    assert torch.equal(read_any(tmp_path).model(rows()), sae(rows()))
    (tmp_path / "cfg.json").unlink()
    with pytest.raises(ConfigError, match=r"must have two different lengths .*; got \(6, 6\)\. Say how the encoder is stored"):
        read_any(tmp_path, pre_bias="decoder")
    assert torch.equal(read_any(tmp_path, pre_bias="decoder", encoder="width_first").model(rows()), sae(rows()))
    assert not torch.equal(read_any(tmp_path, pre_bias="decoder", encoder="latent_first").model(rows()), sae(rows()))


def test_shapes_that_fit_no_way_round_are_refused(standard: Path) -> None:
    change_tensors(standard, W_enc=torch.ones(D_MODEL, D_SAE + 1))
    with pytest.raises(ConfigError, match=r"W_enc of .* must have the shape \(20, 6\) or \(6, 20\), .*; got \(6, 21\)"):
        read_any(standard)


def test_numbers_that_are_not_finite_are_refused(standard: Path) -> None:
    change_tensors(standard, b_dec=torch.tensor([1.0, float("nan"), 1, 1, 1, 1]))
    with pytest.raises(ConfigError, match="must hold finite numbers; b_dec has NaN or infinity"):
        read_any(standard)


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "cfg.json"])
def test_a_truncated_file_is_told(standard: Path, name: str) -> None:
    content = (standard / name).read_bytes()
    (standard / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match=rf"{name} must (be a whole safetensors file|hold a JSON object); reading it fails"):
        read_any(standard)


def test_missing_weights_are_told_with_what_is_there(standard: Path) -> None:
    (standard / "sae_weights.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"must hold sae_weights.safetensors beside cfg.json; found cfg.json"):
        read_any(standard)


def test_sparsity_is_read_back_as_shares(tmp_path: Path) -> None:
    shares = torch.tensor([0.0, 1e-6, 0.25, 1.0]).repeat(5)
    write_saelens(tmp_path, filled(CONFIGS["relu-own-scale"]), HOOK, firing_rate=shares)
    found = read_any(tmp_path).firing_rate
    assert found is not None
    torch.testing.assert_close(found, shares, rtol=1e-4, atol=1e-12)
    save_file({"sparsity": torch.ones(3)}, tmp_path / "sparsity.safetensors")
    with pytest.raises(ConfigError, match=r"must hold `sparsity` \[20\]; got \(3,\)"):
        read_any(tmp_path)
