"""The models: their formulas, where they start, what they refuse."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from small_saes import configs, fresh, planted_rows
from torch import Tensor

from sae_core.config.sae import MatryoshkaConfig, SAEConfig, TopKConfig
from sae_core.config.training import TrainingConfig
from sae_core.models.build import build, initial
from sae_core.models.sae import SAE

KINDS = dict(configs())


def rows(count: int = 50) -> Tensor:
    return 7 * torch.randn(count, 12, generator=torch.Generator().manual_seed(0)) + 3


def written_formula(sae: SAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstruction, dense and in double precision, as the docstrings say."""
    t, config = {name: tensor.double() for name, tensor in sae.tensors().items()}, sae.config
    x, offset, size = x.double(), torch.zeros(()), t["scale"]
    if config.normalise == "row_norm":
        size = size * x.norm(dim=1, keepdim=True) / config.d_model**0.5
    elif config.normalise == "layer_norm":
        offset = x.mean(1, keepdim=True)
        size = size * (x.std(1, keepdim=True) + 1e-5)
    scaled = (x - offset) / size
    pre = {"own": t.get("b_pre"), "decoder": t["b_dec"], "none": 0.0}[config.pre_bias]
    u = (scaled - pre) @ t["W_enc"].T
    match type(config).__name__:
        case "TopKConfig":
            z = u + t["b_enc"]
            ranked = z.abs() if config.keep == "absolute" else z
            kept = z * torch.zeros_like(z).scatter(1, ranked.topk(config.k).indices, 1)
            f = kept.relu() if config.keep == "relu" else kept
        case "BatchTopKConfig" | "MatryoshkaConfig":
            z = u + t["b_enc"]
            f = z.relu() * (z > t["threshold"])
        case "ReluConfig":
            f = (u + t["b_enc"]).relu()
        case "JumpReLUConfig":
            z = u + t["b_enc"]
            f = z.relu() * (z > t["threshold"])
        case "GatedConfig":
            f = (u * t["r_mag"].exp() + t["b_mag"]).relu() * (u + t["b_gate"] > 0)
    return f, (f @ t["W_dec"] + t["b_dec"]) * size + offset


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pre_bias", ["own", "decoder", "none"])
@pytest.mark.parametrize("normalise", ["scale", "row_norm", "layer_norm"])
def test_the_forward_pass_is_the_written_formula(kind: str, pre_bias: str, normalise: str) -> None:
    sae, x = fresh(dict(configs(pre_bias=pre_bias, normalise=normalise))[kind]), planted_rows(40, seed=8)
    if "threshold" in sae.fixed():
        sae.threshold.fill_(0.3)
    f, x_hat = written_formula(sae, x)
    torch.testing.assert_close(sae.encode_dense(x).double(), f, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae(x).double(), x_hat, rtol=1e-4, atol=1e-3)
    assert bool((f != 0).any())


@pytest.mark.parametrize("kind", ["topk_relu", "batchtopk", "matryoshka"])
def test_selection_by_decoder_norm_counts_each_latent_at_the_length_of_its_row(kind: str) -> None:
    sae = fresh(replace(KINDS[kind], decoder_norm=True))  # type: ignore[call-arg]  # of kinds that know it
    x, stretch = planted_rows(40), torch.linspace(0.2, 3, sae.config.d_sae).unsqueeze(1)
    if "threshold" in sae.fixed():
        sae.threshold.fill_(0.3)
    before, codes = sae(x), sae.encode_dense(x)
    with torch.no_grad():
        sae.W_dec *= stretch
        for name in ("W_enc", "b_enc"):
            tensor = getattr(sae, name)
            tensor /= stretch if tensor.ndim == 2 else stretch.squeeze(1)
    torch.testing.assert_close(sae(x), before, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(sae.encode_dense(x), codes, rtol=1e-4, atol=1e-4)


def test_a_matryoshka_reconstructs_at_each_of_its_widths() -> None:
    sae, x = fresh(KINDS["matryoshka"]), planted_rows(20)
    assert isinstance(sae.config, MatryoshkaConfig)
    parts = sae.reconstructions(x)
    assert len(parts) == len(sae.config.widths)
    torch.testing.assert_close(parts[-1], sae(x))
    f, width = sae.encode_dense(x), sae.config.widths[0]
    torch.testing.assert_close(parts[0], sae.scale * (f[:, :width] @ sae.W_dec[:width] + sae.b_dec))


@pytest.mark.parametrize("kind", KINDS)
def test_results_do_not_depend_on_the_batch(kind: str) -> None:
    sae, x = fresh(KINDS[kind]), planted_rows(30)
    torch.testing.assert_close(torch.cat([sae(part) for part in x.split(7)]), sae(x))


def test_a_fresh_sae_is_tied_centred_and_of_unit_rows() -> None:
    sae, x = initial(TopKConfig(d_model=12, d_sae=40, k=4), rows(), seed=1), rows()
    assert torch.equal(sae.W_enc, sae.W_dec)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(40))
    torch.testing.assert_close(sae.b_pre * sae.scale, x.mean(0))
    assert torch.equal(sae.b_pre, sae.b_dec)
    torch.testing.assert_close((x / sae.scale).square().sum(1).mean(), torch.tensor(12.0))


def test_without_normalisation_the_scale_is_one() -> None:
    assert float(initial(TopKConfig(d_model=12, d_sae=40, k=4), rows(), seed=1, normalise="none").scale) == 1


def test_seeds_give_other_directions_and_equal_seeds_equal_ones() -> None:
    one, same, other = (initial(TopKConfig(d_model=12, d_sae=40, k=4), rows(), seed=seed).W_enc for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_scaling_the_rows_scales_the_reconstruction() -> None:
    config = TopKConfig(d_model=12, d_sae=40, k=4)
    small, large = (initial(config, factor * rows(), seed=1)(factor * rows()) for factor in (1, 100))
    torch.testing.assert_close(100 * small, large, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("normalise", ["row_norm", "layer_norm"])
def test_rows_normalised_by_themselves_must_be_there_to_be_decoded(normalise: str) -> None:
    sae, x = fresh(dict(configs(normalise=normalise))["topk_relu"]), planted_rows(5)
    with pytest.raises(ValueError, match=f"normalises by {normalise} must be given the rows it decodes"):
        sae.decode(sae.encode(x))


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_make_the_same_sae_again_and_are_copies(kind: str) -> None:
    sae, x = fresh(KINDS[kind]), planted_rows(10)
    tensors = sae.tensors()
    again = build(sae.config, tensors)
    assert torch.equal(again(x), sae(x))
    tensors["W_dec"].zero_()
    assert torch.equal(again(x), sae(x))


def test_tensors_of_another_shape_are_refused() -> None:
    tensors = initial(TopKConfig(d_model=12, d_sae=40, k=4), rows(), seed=1).tensors()
    with pytest.raises(ValueError, match=r"W_enc must have the shape \(41, 12\); got \(40, 12\)"):
        build(TopKConfig(d_model=12, d_sae=41, k=4), tensors)
    del tensors["b_pre"]
    with pytest.raises(ValueError, match=r"b_pre must have the shape .* got nothing"):
        build(TopKConfig(d_model=12, d_sae=40, k=4), tensors)


def test_rows_without_size_are_refused() -> None:
    for bad in (torch.zeros(3, 12), torch.full((3, 12), float("nan"))):
        with pytest.raises(ValueError, match="finite and not all 0"):
            initial(TopKConfig(d_model=12, d_sae=40, k=4), bad, seed=1)


def test_impossible_settings_are_refused_in_three_parts() -> None:
    with pytest.raises(ValueError, match=r"k must be at most d_sae = 40; got 41\. Lower k or raise d_sae\."):
        TopKConfig(d_model=12, d_sae=40, k=41)
    with pytest.raises(ValueError, match="d_sae must be at least 1"):
        TopKConfig(d_model=12, d_sae=0, k=1)
    with pytest.raises(ValueError, match=r"widths must rise .* d_sae = 40; got \(20, 10, 40\)"):
        MatryoshkaConfig(d_model=12, d_sae=40, k=1, widths=(20, 10, 40))
    with pytest.raises(ValueError, match="multiple of updates_per_epoch = 3; got 10"):
        TrainingConfig(lr=1.0, updates=10, updates_per_epoch=3, batch=2)
    with pytest.raises(ValueError, match=r"warmup_updates must be .* below updates = 10; got 10"):
        TrainingConfig(lr=1.0, updates=10, updates_per_epoch=5, batch=2, warmup_updates=10)
    with pytest.raises(ValueError, match="lr must be above 0"):
        TrainingConfig(lr=0.0, updates=10, updates_per_epoch=5, batch=2)


def test_every_kind_of_configuration_has_a_model() -> None:
    assert {type(fresh(config)).__name__ for config in KINDS.values()} == {
        "TopKSAE", "BatchTopKSAE", "MatryoshkaSAE", "ReluSAE", "JumpReLUSAE", "GatedSAE",
    }  # fmt: skip
    with pytest.raises(TypeError, match="must be one of a kind"):
        build(SAEConfig(d_model=1, d_sae=1), {})


def test_the_core_needs_torch_numpy_and_jaxtyping_alone() -> None:
    code = (
        "import sys, pkgutil, importlib, sae_core\n"
        "for m in pkgutil.walk_packages(sae_core.__path__, 'sae_core.'):\n"
        "    if not m.name.startswith('sae_core.kernels.triton') and '.libsae_' not in m.name: importlib.import_module(m.name)\n"
        "heavy = {'transformers', 'zarr', 'pydantic', 'snakemake', 'pandas', 'pyarrow', 'workflow', 'safetensors', 'triton'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
