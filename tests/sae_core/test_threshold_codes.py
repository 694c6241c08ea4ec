"""Codes under one threshold: as dense as by the SAE's own rule where it was matched, and every latent by itself."""

import pytest
import torch

from sae_core.config.sae import TopKConfig
from sae_core.metrics import threshold
from sae_core.metrics.threshold import matched_threshold, threshold_codes
from sae_core.models.topk import TopKSAE

D, LATENTS, K, ROWS = 12, 40, 5, 300


def sae(keep: str, decoder_norm: bool = False) -> TopKSAE:
    draw = torch.Generator().manual_seed(0)
    shapes = TopKSAE.shapes(config := TopKConfig(d_model=D, d_sae=LATENTS, k=K, keep=keep, decoder_norm=decoder_norm))
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    return TopKSAE(config, tensors | {"scale": torch.tensor(2.0)})


def rows(seed: int = 1) -> torch.Tensor:
    return torch.randn(ROWS, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("keep", ["relu", "signed", "absolute"])
@pytest.mark.parametrize("decoder_norm", [False, True])
@torch.no_grad()
def test_as_many_latents_are_active_as_by_the_own_rule(keep: str, decoder_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = sae(keep, decoder_norm), rows()
    found = matched_threshold(model, x)
    assert int(threshold_codes(model, x, found).active_per_row().sum()) == int(model.encode(x).active_per_row().sum())
    monkeypatch.setattr(threshold, "BLOCK_ROWS", 17)
    torch.testing.assert_close(matched_threshold(model, x), found, rtol=1e-5, atol=0)


@pytest.mark.parametrize("keep", ["relu", "signed", "absolute"])
@torch.no_grad()
def test_codes_are_the_scores_beyond_the_threshold(keep: str) -> None:
    model, x = sae(keep), rows(2)
    z = model.scores(model.centred(model.normalised(x).rows))
    beyond = (z.abs() if keep == "absolute" else z) > 1.5
    assert torch.equal(threshold_codes(model, x, torch.tensor(1.5)).dense(LATENTS), torch.where(beyond, z, 0.0))


@torch.no_grad()
def test_a_latent_that_rises_takes_nothing_from_the_others() -> None:
    model, x, at = sae("relu"), rows(), torch.tensor(1.0)
    before = {rule: encode(model, x) for rule, encode in rules(at).items()}
    model.b_enc[3] += 10
    after = {rule: encode(model, x) for rule, encode in rules(at).items()}
    others = torch.arange(LATENTS) != 3
    assert torch.equal(after["threshold"][:, others], before["threshold"][:, others])
    assert int((after["own"][:, others] != 0).sum()) < int((before["own"][:, others] != 0).sum())


def rules(at: torch.Tensor) -> dict:
    return {
        "own": lambda model, x: model.encode_dense(x),
        "threshold": lambda model, x: threshold_codes(model, x, at).dense(LATENTS),
    }


@torch.no_grad()
def test_a_threshold_is_never_below_0() -> None:
    model = sae("relu")
    model.b_enc -= 100
    assert float(matched_threshold(model, rows())) == 0
