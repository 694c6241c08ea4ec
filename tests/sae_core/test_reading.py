"""SAEs that are read by a backend: the codes of `encode`, for every kind and backend, whatever the number of rows."""

import pytest
import torch

from sae_core.config.sae import BatchTopKConfig, JumpReLUConfig, SAEConfig, TopKConfig
from sae_core.kernels.backend import Backend
from sae_core.kernels.native.backend import NativeBackend
from sae_core.kernels.native.library import unavailable
from sae_core.kernels.torch_backend import TorchBackend
from sae_core.models.build import initial
from sae_core.models.reading import Reader
from sae_core.models.sae import SAE

D, LATENTS, K = 20, 120, 7
SHAPE = {"d_model": D, "d_sae": LATENTS}
CONFIGS: dict[str, SAEConfig] = {
    "relu": TopKConfig(**SHAPE, k=K),
    "signed": TopKConfig(**SHAPE, k=K, keep="signed", pre_bias="decoder"),
    "absolute": TopKConfig(**SHAPE, k=K, keep="absolute", normalise="layer_norm"),
    "weighed": TopKConfig(**SHAPE, k=K, decoder_norm=True),
    "batchtopk": BatchTopKConfig(**SHAPE, k=K),
    "jumprelu": JumpReLUConfig(**SHAPE),
}
NATIVE = pytest.mark.skipif(unavailable("portable") is not None, reason="no compiled library")


@pytest.fixture(params=["torch", pytest.param("native", marks=NATIVE), pytest.param("candidates", marks=NATIVE)])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "torch":
        return TorchBackend(torch.device("cpu"))
    return NativeBackend(int8=request.param == "candidates")


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(count)) * 3 + 1


def sae(name: str) -> SAE:
    model = initial(CONFIGS[name], rows(500), seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (model.get_parameter("b_enc"), model.W_dec):
            tensor += 0.3 * torch.randn(tensor.shape, generator=draw)
    return model


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("count", [1, 3, 700])
@torch.inference_mode()
def test_codes_are_those_of_the_sae(backend: Backend, name: str, count: int) -> None:
    model, x = sae(name), rows(count)
    found, wanted = Reader(model, backend).encode(x), model.encode(x)
    assert 0 < int(wanted.active_per_row().sum()) < count * LATENTS
    assert torch.equal(found.active_per_row(), wanted.active_per_row())
    torch.testing.assert_close(found.dense(LATENTS), wanted.dense(LATENTS), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_an_encoder_holds_no_moments(backend: Backend) -> None:
    weights = torch.randn(LATENTS, D)
    encoder = backend.encoder(weights)
    assert encoder.weights.data_ptr() == weights.data_ptr()
    assert encoder.exp_avg.numel() == encoder.exp_avg_sq.numel() == 0
