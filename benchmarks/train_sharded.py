"""One SAE trained by several processes: time of an update, and bytes of weights and moments that each process holds.

    python benchmarks/train_sharded.py
    python -m torch.distributed.run --standalone --nproc_per_node 2 benchmarks/train_sharded.py --latent-shards 2

Of all processes, `--latent-shards` share the latents of the SAE; the others repeat it and share the rows of a batch.
"""

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sae_core.config.sae import TopKConfig
from sae_core.config.training import TrainingConfig
from sae_core.kernels.torch_backend import TorchBackend
from sae_core.models.build import initial
from sae_core.training.optimiser import Optimiser
from sae_core.training.parallel import Parallel
from sae_core.training.update import backward, step

log = logging.getLogger("train_sharded")


def batches(d_model: int, batch: int, device: torch.device) -> Iterator[Tensor]:
    """Sparse sums of unit directions; every process draws the same."""
    draw = torch.Generator().manual_seed(0)
    directions = functional.normalize(torch.randn(4 * d_model, d_model, generator=draw), dim=1)
    while True:
        latents = torch.randint(len(directions), (batch, 8), generator=draw)
        amplitudes = torch.rand(batch, 8, generator=draw) + 0.5
        yield functional.embedding_bag(latents, directions, per_sample_weights=amplitudes, mode="sum").to(device)


def train(config: TopKConfig, training: TrainingConfig, parallel: Parallel, device: torch.device) -> tuple[list[float], float, int]:
    """Milliseconds of each update, the last loss, and bytes of weights and moments in this process."""
    rows = batches(config.d_model, training.batch, device)
    sae = initial(config, next(rows).cpu(), seed=0, part=parallel.part(config)).to(device)
    optimiser = Optimiser(sae, TorchBackend(device), parallel)
    dead, took, loss = torch.zeros(0, dtype=torch.int64, device=device), [], 0.0
    for update in range(training.updates):
        mine = parallel.mine(next(rows))
        started = time.perf_counter()
        found = backward(sae, mine, training, optimiser, dead, update)
        step(sae, optimiser, found, training.lr, training)
        loss = float(found.loss)
        took.append(1e3 * (time.perf_counter() - started))
    moments = sum(tensor.nbytes for pair in optimiser.state_dict()["moments"].values() for tensor in pair)
    return took, loss, moments + sum(tensor.nbytes for tensor in sae.tensors().values())


def main() -> None:
    """Train, and let the first process tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("d-model", 256), ("d-sae", 4096), ("k", 32), ("batch", 256), ("updates", 20), ("latent-shards", 1)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    told = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parallel = Parallel.from_environment(told.latent_shards)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    config = TopKConfig(d_model=told.d_model, d_sae=told.d_sae, k=told.k)
    training = TrainingConfig(lr=1e-3, updates=told.updates, updates_per_epoch=told.updates, batch=told.batch)
    took, loss, held = train(config, training, parallel, device)
    if parallel.both.index == 0:
        log.info(
            "%d replicas of %d shards: %.2f ms per update, loss %.6f, %d bytes of weights and moments in each process",
            *(parallel.rows.size, parallel.latents.size, statistics.median(took), loss, held),
        )
    parallel.close()


if __name__ == "__main__":
    main()
