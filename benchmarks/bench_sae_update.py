"""Time of one SAE update: dense autograd as most trainers do it, beside sae_core's sparse update.

Both run in one process on the same batches, one update each in turn, so that a busy machine slows both alike; the clock is the
thread's own CPU time. Speed counts only beside right gradients: each variant's are first compared with dense float64 autograd.

    python benchmarks/bench_sae_update.py --seconds 30
"""

import argparse
import csv
import logging
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sae_core.config import SAEConfig, TrainingConfig
from sae_core.kernels import reference
from sae_core.models.topk import PARAMETERS, TopKSAE, initial
from sae_core.training.update import backward, make_optimiser, step

log = logging.getLogger("bench_sae_update")
RESULTS = Path(__file__).with_name("results") / "sae_update_cpu.csv"


class Shape(NamedTuple):
    name: str
    batch: int
    d_model: int
    d_sae: int
    k: int


SHAPES = [Shape("S576", 512, 576, 4608, 32), Shape("S1", 512, 896, 7168, 64)]
TRAINING = TrainingConfig(lr=1e-4, updates=10_000, updates_per_epoch=10_000, batch=512, aux_coef=0)
NO_DEAD = torch.zeros(0, dtype=torch.int64)


def rows_of(shape: Shape, batches: int = 6) -> list[Tensor]:
    """Sparse sums of unit directions that fire by a power law (exponent 0.8), with an offset and noise 0.05."""
    draw = torch.Generator().manual_seed(0)
    directions = functional.normalize(torch.randn(shape.d_sae, shape.d_model, generator=draw), dim=1)
    rate = 1 / torch.arange(1, shape.d_sae + 1).float() ** 0.8
    size = (shape.batch, shape.k)
    found = []
    for _ in range(batches):
        latents = torch.multinomial(rate, size[0] * size[1], replacement=True, generator=draw).view(size)
        amplitudes = torch.rand(size, generator=draw) + 0.5
        rows = functional.embedding_bag(latents, directions, per_sample_weights=amplitudes, mode="sum")
        found.append(rows + 0.3 + 0.05 * torch.randn(rows.shape, generator=draw))
    return found


class DenseSAE(nn.Module):
    """The update's structure in OhhMoo SAE-RL: linear layers, scatter of the top k, decoder stored [d_model, d_sae]."""

    def __init__(self, start: TopKSAE) -> None:
        super().__init__()
        self.k = start.config.k
        self.encoder = nn.Linear(start.config.d_model, start.config.d_sae)
        self.decoder = nn.Linear(start.config.d_sae, start.config.d_model)
        tensors = start.tensors()
        self.b_pre = nn.Parameter(tensors["b_pre"])
        with torch.no_grad():
            self.encoder.weight.copy_(tensors["W_enc"])
            self.encoder.bias.copy_(tensors["b_enc"])
            self.decoder.weight.copy_(tensors["W_dec"].T)
            self.decoder.bias.copy_(tensors["b_dec"])

    def loss(self, rows: Tensor) -> Tensor:
        values, indices = torch.topk(self.encoder(rows - self.b_pre), self.k, dim=-1)
        codes = torch.zeros(len(rows), self.encoder.out_features).scatter(1, indices, values.relu())
        return functional.mse_loss(self.decoder(codes), rows)

    def gradients(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Gradients in the order of PARAMETERS."""
        self.zero_grad()
        self.loss(rows).backward()
        found = (
            self.encoder.weight.grad,
            self.decoder.weight.grad.T,
            self.encoder.bias.grad,
            self.decoder.bias.grad,
            self.b_pre.grad,
        )
        return tuple(gradient.clone() for gradient in found)


def dense_update(model: DenseSAE) -> Callable[[Tensor], None]:
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)

    def update(rows: Tensor) -> None:
        optimiser.zero_grad()
        model.loss(rows).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.decoder.weight.div_(model.decoder.weight.norm(dim=0, keepdim=True).clamp_min(1e-12))

    return update


def sparse_update(sae: TopKSAE) -> Callable[[Tensor], None]:
    optimiser = make_optimiser(sae, TRAINING)

    def update(rows: Tensor) -> None:
        backward(sae, rows, TRAINING, NO_DEAD)
        step(sae, optimiser, 1e-4, 1.0)

    return update


def sparse_gradients(sae: TopKSAE, rows: Tensor) -> tuple[Tensor, ...]:
    """Gradients in the order of PARAMETERS."""
    backward(sae, rows, TRAINING, NO_DEAD)
    return tuple(getattr(sae, name).grad.clone() for name in PARAMETERS)


def true_gradients(sae: TopKSAE, rows: Tensor) -> tuple[Tensor, ...]:
    """Gradients by dense float64 autograd, in the order of PARAMETERS."""
    parameters = {name: getattr(sae, name).detach().double().requires_grad_() for name in PARAMETERS}
    codes = reference.codes(rows.double(), parameters["W_enc"], parameters["b_enc"], parameters["b_pre"], sae.config.k, sae.relu)
    loss = (reference.reconstruction(codes, parameters["W_dec"], parameters["b_dec"]) - rows.double()).square().mean()
    return torch.autograd.grad(loss, [parameters[name] for name in PARAMETERS])


def agree(found: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> bool:
    """Whether every gradient is within 1e-4 of the truth in relative norm: fp32 rounding passes, a wrong term does not."""
    return all(float((a - b).norm() / b.norm()) < 1e-4 for a, b in zip(found, truth, strict=True))


def measure(shape: Shape, seconds: float) -> list[dict[str, str | int | float | bool]]:
    """One line per variant: the median over updates taken in turn."""
    rows = rows_of(shape)
    config = SAEConfig(shape.d_model, shape.d_sae, shape.k)
    start = initial(config, torch.cat(rows), seed=1, normalise="none")
    truth = true_gradients(start, rows[0])
    dense, sparse = DenseSAE(start), TopKSAE(config, start.tensors())
    right = {
        "naive": agree(dense.gradients(rows[0]), truth),
        "sparse": agree(sparse_gradients(sparse, rows[0]), truth),
    }
    updates = {"naive": dense_update(dense), "sparse": sparse_update(sparse)}
    times: dict[str, list[float]] = {name: [] for name in updates}
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() < end or turn < 6:
        for name, update in updates.items():
            before = time.thread_time()
            update(rows[turn % len(rows)])
            times[name].append(time.thread_time() - before)
        turn += 1
    median = {name: 1e3 * statistics.median(spent[2:]) for name, spent in times.items()}
    return [
        {"shape": shape.name, "variant": name, "precision": "float32", "threads": 1, "ms": round(median[name], 1),
         "ratio_to_naive": round(median["naive"] / median[name], 2), "gradient_ok": right[name]}
        for name in updates
    ]  # fmt: skip


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--seconds", type=float, default=30, help="per shape")
    arguments.add_argument("--out", type=Path, default=RESULTS)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    lines = [line for shape in SHAPES for line in measure(shape, given.seconds)]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with open(given.out, "w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, lines[0], lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
    for line in lines:
        log.info("%s", line)


if __name__ == "__main__":
    main()
