"""Random inputs of triton kernels, on a GPU or, where there is none, for the interpreter."""

import os

import pytest
import torch
from torch import Tensor

from sae_core.kernels.codes import Codes

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def need_triton() -> None:
    """Skip the module that is being collected if kernels can not run."""
    pytest.importorskip("triton", reason="triton is not installed")
    if DEVICE.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("without a GPU, TRITON_INTERPRET=1 must be set before triton is imported", allow_module_level=True)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def uneven(batch: int, d_sae: int, share: float, seed: int = 0) -> Codes:
    """Codes of rows from none, the first, to nearly all latents, the last with a large share."""
    mask = draw(batch, d_sae, seed=seed).abs() < torch.linspace(0, 2 * share, batch, device=DEVICE).unsqueeze(1)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64, device=DEVICE), mask.sum(1).cumsum(0)])
    return Codes(offsets, mask.nonzero()[:, 1], draw(int(offsets[-1]), seed=seed + 1))


def near(found: Tensor, truth: Tensor, rtol: float = 1e-5) -> None:
    """Fail unless float32 results are those of float64 to rounding."""
    scale = float(truth.abs().max()) if truth.numel() else 0.0
    torch.testing.assert_close(found.double(), truth, rtol=rtol, atol=1e-6 * max(scale, 1e-30))


def true_scores(x: Tensor, W: Tensor, b: Tensor, absolute: bool) -> tuple[Tensor, Tensor]:
    """z in float64, and what it is ranked by."""
    z = x.double() @ W.double().T + b.double()
    return z, z.abs() if absolute else z


def check_selection(codes: Codes, z: Tensor, rank: Tensor, k: int, slip: float = 1e-6) -> None:
    """The k latents with the largest ranks, each once, with their z; those within `slip` of each other may change places."""
    latents = codes.latents.view(-1, k)
    assert all(len(set(row)) == k for row in latents.tolist())
    near(codes.values.view(-1, k), z.gather(1, latents))
    kept = rank.gather(1, latents).sort(1, descending=True).values
    torch.testing.assert_close(kept, rank.topk(k, dim=1).values, rtol=slip, atol=slip * float(rank.abs().max()))


def state_of(batch: int, d_model: int, d_sae: int) -> dict[str, Tensor]:
    """A batch and the weights of an SAE."""
    W = torch.nn.functional.normalize(draw(d_sae, d_model, seed=1), dim=1)
    return {"x": draw(batch, d_model), "W_enc": W, "W_dec": W, "b_enc": draw(d_sae, seed=2) / 10, "b_dec": draw(d_model, seed=3)}
