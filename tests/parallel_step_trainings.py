"""Short trainings of a step-level SAE by one process or by several. As a program, all processes of one run:

    python parallel_step_trainings.py FOLDER WORLD WAY[,WAY…]

FOLDER/model is the base model; they leave rank_<RANK>.pt in FOLDER.
"""

import multiprocessing
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from small_step_saes import batch, made, micro_batches, settings
from torch import Tensor, distributed

from sae_core.config.step_training import StepLegacy
from sae_core.training.parallel import Parallel
from sae_core.training.ranks import ONE, Ranks
from sae_core.training.sparsity_control import PredictiveControl, SparsityTarget, StepwiseControl
from sae_core.training.step_records import StepQuality, StepUpdate
from sae_core.training.step_sharding import sharded_loss
from sae_core.training.step_trainer import StepTrainer
from workflow.step_saes import backbone_blocks

WAYS: dict[str, dict[str, Any]] = {
    "replicas": {},
    "sharded": {"sharded": True},
    "sharded_phase_2": {"sharded": True, "phase": 2},
    "summed": {"legacy": StepLegacy(sum_accumulation=True, local_controller=True)},
}
UPDATES = 4


class Left(NamedTuple):
    """What one process has at the end."""

    told: list[StepUpdate]
    untrained: StepQuality
    quality: StepQuality
    weights: dict[str, Tensor]
    weight: float
    numbers: int
    """Numbers that it holds of weights and moments."""


def trainer(base: Path, way: str, ranks: Ranks) -> StepTrainer:
    """One training; of one process always whole."""
    given = dict(WAYS[way])
    sharded, phase = given.pop("sharded", False) and ranks.size > 1, given.get("phase", 1)
    model = made(base, prior=phase > 1)
    config = settings(lr=1e-3, grad_clip=0.5, warmup_epochs=0.0, **given)
    aim = SparsityTarget(2.0, start=1e-2)
    control = StepwiseControl(aim, every=2, factor=0.5) if way == "summed" else PredictiveControl(aim)
    loss = sharded_loss(model, config, backbone_blocks(model), torch.device("cpu")) if sharded else None
    return StepTrainer(model, config, control, ranks=ranks, loss=loss)


def left(base: Path, way: str, ranks: Ranks = ONE) -> Left:
    """Two updates, a state, and two more by another trainer from that state; the second updates have fewer micro-batches."""
    told = []
    found = trainer(base, way, ranks)
    untrained = found.evaluate(micro_batches(7, 3))
    for update in range(UPDATES):
        if update == 2:
            state = shared(found.state_dict(), ranks)
            found = trainer(base, way, ranks)
            found.load_state_dict(state)
        told.append(found.advance(micro_batches(7, 2) if update % 2 == 0 else [batch(range(3))]))
    quality = found.evaluate(micro_batches(7, 3))
    weights = shared(found.state_dict(), ranks)["model"]
    local = [getattr(parameter, "_local_tensor", parameter) for parameter in found.trained.values()]
    return Left(told, untrained, quality, weights, found.control.weight, 3 * sum(tensor.numel() for tensor in local))


def shared(state: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The state of the first process, as a file gives it to all."""
    if ranks.size == 1:
        return state
    found = [state]
    distributed.broadcast_object_list(found, src=0)
    return found[0]


def main(folder: Path, rank: int, world: int, ways: list[str]) -> None:
    """The part of one process."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    parallel = Parallel.over_processes()
    found = {way: left(folder / "model", way, parallel.both) for way in ways}
    torch.save({way: one._asdict() for way, one in found.items()}, folder / f"rank_{rank}.pt")
    parallel.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, world, ways = sys.argv[1:]
    start = multiprocessing.get_context("fork").Process
    processes = [start(target=main, args=(Path(where), rank, int(world), ways.split(","))) for rank in range(int(world))]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.stdout.flush()
    os._exit(int(any(process.exitcode for process in processes)))
