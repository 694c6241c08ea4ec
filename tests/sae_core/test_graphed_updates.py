"""Updates that read their rates from the device: those of a plain training, to the bit wherever it was stopped."""

import io
from collections.abc import Iterator

import pytest
import torch
from small_saes import configs, fresh, planted_rows, training
from torch import Tensor

from sae_core.kernels.choice import choose_backend
from sae_core.models.sae import SAE
from sae_core.training.records import HeldOut
from sae_core.training.trainer import Trainer

KINDS = dict(configs())
TOPK = ("topk_relu", "topk_signed", "topk_absolute")


def batches(start: int = 0, device: str = "cpu") -> Iterator[Tensor]:
    update = start
    while True:
        yield planted_rows(32, seed=update).to(device)
        update += 1


def quality(sae: SAE) -> HeldOut:
    with torch.no_grad():
        rows = planted_rows(64, seed=999).to(sae.W_enc.device)
        return HeldOut(float((sae(rows) - rows).square().mean()), 6.0)


def trainer(name: str, graphed: bool, device: str = "cpu") -> Trainer:
    plan = training(updates=30, updates_per_epoch=10, aux_coef=0.1, aux_k=8, dead_rate=0.02, resample_epochs=2, warmup_updates=5)
    place = torch.device(device)
    return Trainer(fresh(KINDS[name]).to(place), plan, backend=choose_backend("auto", place), graphed=graphed)


@pytest.mark.parametrize("name", TOPK)
def test_rates_on_the_device_change_rounding_only(name: str) -> None:
    plain, graphed = trainer(name, False), trainer(name, True)
    expected, found = plain.run(batches(), quality), graphed.run(batches(), quality)
    assert sum(record.resampled for record in plain.history) > 0, "the test must cover another choice of dead latents"
    assert graphed.optimiser.count == 30
    for tensor in expected.tensors:
        torch.testing.assert_close(found.tensors[tensor], expected.tensors[tensor], rtol=1e-4, atol=1e-5)


def test_a_stop_at_any_update_changes_no_bit() -> None:
    whole, states = trainer("topk_relu", True), []

    def save(_: int) -> None:
        buffer = io.BytesIO()
        torch.save(whole.state_dict(), buffer)
        states.append(buffer.getvalue())

    expected = whole.run(batches(), quality, on_update=save)
    for state in states[::4]:
        again = trainer("topk_relu", True)
        again.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        found = again.run(batches(again.update), quality)
        assert all(torch.equal(found.tensors[name], expected.tensors[name]) for name in expected.tensors)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in TOPK])
def test_kinds_whose_batches_choose_their_shapes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be those of an SAE with k latents per row in one process"):
        trainer(name, True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", TOPK)
def test_a_gpu_replays_the_updates_that_it_launched(name: str) -> None:
    plain, graphed = trainer(name, False, "cuda"), trainer(name, True, "cuda")
    expected, found = plain.run(batches(0, "cuda"), quality), graphed.run(batches(0, "cuda"), quality)
    for tensor in expected.tensors:
        torch.testing.assert_close(found.tensors[tensor], expected.tensors[tensor], rtol=1e-3, atol=1e-4)
