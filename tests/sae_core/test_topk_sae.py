"""The model: its formulas, where it starts, its settings."""

import subprocess
import sys

import pytest
import torch

from sae_core.config import SAEConfig, TrainingConfig
from sae_core.models.topk import TENSORS, TopKSAE, initial


def rows(count: int = 50) -> torch.Tensor:
    return 7 * torch.randn(count, 12, generator=torch.Generator().manual_seed(0)) + 3


@pytest.mark.parametrize("activation", ["relu", "signed"])
def test_the_forward_pass_is_the_written_formula(activation: str) -> None:
    sae, x = initial(SAEConfig(12, 40, 30, activation), rows(), seed=1), rows()  # type: ignore[arg-type]
    t = sae.tensors()
    z = (x / t["scale"] - t["b_pre"]) @ t["W_enc"].T + t["b_enc"]
    kept, indices = z.topk(30)
    f = torch.zeros_like(z).scatter(1, indices, kept.relu() if activation == "relu" else kept)
    assert bool((kept < 0).any()), "the two activations must differ here"
    torch.testing.assert_close(sae(x), t["scale"] * (f @ t["W_dec"] + t["b_dec"]))
    torch.testing.assert_close(sae.encode_dense(x), f)


def test_a_fresh_sae_is_tied_centred_and_of_unit_rows() -> None:
    sae, x = initial(SAEConfig(12, 40, 4), rows(), seed=1), rows()
    assert torch.equal(sae.W_enc, sae.W_dec)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(40))
    torch.testing.assert_close(sae.b_pre * sae.scale, x.mean(0))
    assert torch.equal(sae.b_pre, sae.b_dec)
    torch.testing.assert_close((x / sae.scale).square().sum(1).mean(), torch.tensor(12.0))


def test_without_normalisation_the_scale_is_one() -> None:
    assert float(initial(SAEConfig(12, 40, 4), rows(), seed=1, normalise="none").scale) == 1


def test_seeds_give_other_directions_and_equal_seeds_equal_ones() -> None:
    one, same, other = (initial(SAEConfig(12, 40, 4), rows(), seed=seed).W_enc for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_scaling_the_rows_scales_the_reconstruction() -> None:
    x = rows()
    small, large = (initial(SAEConfig(12, 40, 4), factor * x, seed=1)(factor * x) for factor in (1, 100))
    torch.testing.assert_close(100 * small, large, rtol=1e-4, atol=1e-2)


def test_tensors_make_the_same_sae_again_and_are_copies() -> None:
    sae = initial(SAEConfig(12, 40, 4), rows(), seed=1)
    tensors = sae.tensors()
    again = TopKSAE(sae.config, tensors)
    assert set(tensors) == set(TENSORS)
    assert torch.equal(again(rows()), sae(rows()))
    tensors["W_dec"].zero_()
    assert torch.equal(again(rows()), sae(rows()))


def test_tensors_of_another_shape_are_refused() -> None:
    tensors = initial(SAEConfig(12, 40, 4), rows(), seed=1).tensors()
    with pytest.raises(ValueError, match=r"W_enc must have the shape \(41, 12\); got \(40, 12\)"):
        TopKSAE(SAEConfig(12, 41, 4), tensors)
    del tensors["b_pre"]
    with pytest.raises(ValueError, match=r"b_pre must have the shape .* got nothing"):
        TopKSAE(SAEConfig(12, 40, 4), tensors)


def test_rows_without_size_are_refused() -> None:
    for bad in (torch.zeros(3, 12), torch.full((3, 12), float("nan"))):
        with pytest.raises(ValueError, match="finite and not all 0"):
            initial(SAEConfig(12, 40, 4), bad, seed=1)


def test_impossible_settings_are_refused_in_three_parts() -> None:
    with pytest.raises(ValueError, match=r"k must be at most d_sae = 40; got 41\. Lower k or raise d_sae\."):
        SAEConfig(12, 40, 41)
    with pytest.raises(ValueError, match="d_sae must be at least 1"):
        SAEConfig(12, 0, 1)
    with pytest.raises(ValueError, match="multiple of updates_per_epoch = 3; got 10"):
        TrainingConfig(lr=1.0, updates=10, updates_per_epoch=3, batch=2)
    with pytest.raises(ValueError, match=r"warmup_updates must be .* below updates = 10; got 10"):
        TrainingConfig(lr=1.0, updates=10, updates_per_epoch=5, batch=2, warmup_updates=10)
    with pytest.raises(ValueError, match="lr must be above 0"):
        TrainingConfig(lr=0.0, updates=10, updates_per_epoch=5, batch=2)


def test_the_core_needs_torch_numpy_and_jaxtyping_alone() -> None:
    code = (
        "import sys, pkgutil, importlib, sae_core\n"
        "for m in pkgutil.walk_packages(sae_core.__path__, 'sae_core.'): importlib.import_module(m.name)\n"
        "heavy = {'transformers', 'zarr', 'pydantic', 'snakemake', 'pandas', 'pyarrow', 'workflow', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
