"""Short trainings by one process or by several. As a program, all processes of one run:

    python parallel_trainings.py FOLDER WORLD SECONDS LATENT_SHARDS CASE[,CASE…] FATE

They leave rank_<RANK>.pt in FOLDER, and wait SECONDS for each other. FATE is `ends`, or what becomes of the last of them in its
fourth update: `dies` or `hangs`. Printed is how each came to its end, in a line: an exit status, or `stopped`.
"""

import gc
import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from small_saes import configs, fresh, planted_rows, training
from torch import Tensor, distributed

from sae_core.config.sae import SAEConfig
from sae_core.config.training import TrainingConfig
from sae_core.kernels.choice import choose_backend
from sae_core.kernels.torch_backend import TorchBackend
from sae_core.models.build import initial
from sae_core.models.sharding import build_part, shard
from sae_core.training.in_memory import batches_of, quality_on
from sae_core.training.merging import among_largest, merged_batch_topk
from sae_core.training.optimiser import Optimiser
from sae_core.training.parallel import Parallel
from sae_core.training.records import EpochRecord
from sae_core.training.sharded import gathered, reconstruct
from sae_core.training.trainer import Trainer
from sae_core.training.update import backward, step

UPDATES, BATCH, LARGE = 20, 32, 5000
DEAD = torch.tensor([3, 17, 18, 40, 77, 90, 91, 95])


class Case(NamedTuple):
    """One training."""

    config: SAEConfig
    training: TrainingConfig
    dead: Tensor = DEAD[:0]
    dense_from: float = 0.2
    backend: Literal["torch", "auto"] = "torch"


class Left(NamedTuple):
    """What one process has at the end of a training."""

    losses: Tensor
    fired: Tensor
    """[update, latent], of its own latents."""
    tensors: dict[str, Tensor]
    """Of its part."""
    whole: dict[str, Tensor] | None
    """Of the SAE, on the first shard."""
    moments: dict[str, list[Tensor]]
    reconstructed: Tensor
    """Of rows that were not trained on."""
    active_per_row: Tensor


def cases() -> Iterator[tuple[str, Case]]:
    """Every kind, at settings and sizes where processes could come apart."""
    for name, config in configs():
        yield name, Case(config, training())
        if name in ("topk_relu", "relu", "jumprelu", "gated"):
            yield f"{name}_dense", Case(config, training(grad_clip=0.3), dense_from=-1.0)
    # uneven shards, and k above the latents of each
    for name, config in configs(d_sae=97, k=60, pre_bias="decoder"):
        yield f"{name}_odd", Case(config, training(unit_decoder="topk" in name))
    for name, config in configs():
        if name in ("topk_relu", "topk_absolute", "batchtopk", "matryoshka"):
            yield f"{name}_aux", Case(config, training(aux_coef=0.5, aux_k=3), DEAD)
            # the last shard has no dead latents; there are fewer of them than aux_k
            yield f"{name}_aux_input", Case(config, training(aux_coef=0.5, aux_target="input", grad_clip=0.3), DEAD[:3])
    kinds = dict(configs())
    yield "jumprelu_to_target", Case(kinds["jumprelu"], training(target_l0=5.0, sparsity_coef=0.3))
    yield "topk_relu_layer_norm", Case(dict(configs(normalise="layer_norm", pre_bias="none"))["topk_relu"], training())
    # fewer rows in a batch than latents: rows and entries travel instead of matrices
    wide = dict(configs(d_sae=400))
    yield "topk_relu_wide", Case(wide["topk_relu"], training(aux_coef=0.5, aux_k=3), DEAD)
    yield "matryoshka_wide", Case(wide["matryoshka"], training())
    yield "jumprelu_wide", Case(wide["jumprelu"], training(sparsity_coef=0.1), dense_from=2.0)
    # on the fastest backend that is there
    yield "topk_relu_fast", Case(wide["topk_relu"], training(aux_coef=0.5, aux_k=3), DEAD, backend="auto")
    yield "batchtopk_fast", Case(kinds["batchtopk"], training(grad_clip=0.3), backend="auto")


def trained(case: Case, parallel: Parallel, on_update: Callable[[int], None] = lambda update: None) -> Left:
    """Twenty updates; every process draws all rows and takes its own."""
    part, whole = parallel.part(case.config), fresh(case.config).tensors()
    sae = build_part(part, shard(whole, case.config, parallel.latents.index, parallel.latents.size))
    backend = choose_backend(case.backend, torch.device("cpu"))
    backend.dense_from = case.dense_from
    optimiser = Optimiser(sae, backend, parallel)
    dead = case.dead[(case.dead >= part.first) & (case.dead < part.last)] - part.first
    losses, fired = [], []
    for update in range(UPDATES):
        batch = backward(sae, parallel.mine(planted_rows(BATCH, seed=update)), case.training, optimiser, dead, update)
        step(sae, optimiser, batch, case.training.lr, case.training)
        losses.append(batch.loss)
        fired.append(batch.fired)
        on_update(update)
    found, moments = reconstruct(sae, planted_rows(16, seed=99), parallel), optimiser.state_dict()["moments"]
    both = torch.stack(losses), torch.stack(fired)
    return Left(*both, sae.tensors(), gathered(sae, parallel), moments, found.rows, found.active_per_row)


def all_trained(names: Iterable[str], parallel: Parallel) -> dict[str, Left]:
    """What is left of some cases, by name."""
    there = dict(cases())
    return {name: trained(there[name], parallel) for name in names}


class Finished(NamedTuple):
    """What a trainer leaves on one process."""

    history: list[EpochRecord]
    whole: dict[str, Tensor] | None
    """Of the SAE at the end, on the first shard."""
    reinitialised: Tensor
    """Of its own latents."""
    firing_rate: Tensor


def finished(parallel: Parallel, stop: int = 0) -> list[Finished]:
    """Whole trainings with dead latents, AuxK and re-initialisation; those that stop after some updates go on in a new trainer."""
    left, rows = [], planted_rows(400)
    for kind, rule, rate in (
        ("topk_relu", "worst_quartile", 0.03), ("jumprelu", "squared_loss", 0.15), ("batchtopk", "squared_loss", 0.05),
        ("topk_relu", "residual", 0.03), ("jumprelu", "residual", 0.15), ("batchtopk", "residual", 0.05),
    ):  # fmt: skip
        config = dict(configs())[kind]
        every = {"resample_epochs": 1} if kind == "batchtopk" else {"resample_updates": 7}
        plan = training(
            updates=30, updates_per_epoch=10, dead_rate=rate, resample_from=rule, aux_coef=0.1, aux_k=4, sparsity_coef=0.02, **every
        )
        trainer = _trainer(config, plan, rows, parallel)
        if stop:
            for share in itertools.islice(map(parallel.mine, batches_of(rows, plan.batch, seed=3)), stop):
                trainer.advance(share)
                if trainer.update % plan.updates_per_epoch == 0:
                    trainer.end_epoch(quality_on(rows[:50], parallel)(trainer.sae))
            state, trainer = trainer.state_dict(), _trainer(config, plan, rows + 1, parallel)
            trainer.load_state_dict(state)
        stream = map(parallel.mine, batches_of(rows, plan.batch, seed=3, done=trainer.update))
        best = trainer.run(stream, quality_on(rows[:50], parallel))
        left.append(Finished(trainer.history, gathered(trainer.sae, parallel), best.reinitialised, best.firing_rate))
    return left


def _plain(left: Finished) -> dict[str, Any]:
    return left._asdict() | {"history": [tuple(record) for record in left.history]}


def _trainer(config: SAEConfig, plan: TrainingConfig, rows: Tensor, parallel: Parallel) -> Trainer:
    return Trainer(initial(config, rows, seed=1, threshold=0.5, part=parallel.part(config)), plan, parallel=parallel)


def largest_tensor(parallel: Parallel) -> int:
    """Numbers in the largest tensor alive after the first update of an SAE that nobody ever held as a whole."""
    config = dict(configs(d_sae=LARGE))["topk_relu"]
    rows, plan = planted_rows(8), training()
    sae = initial(config, rows, seed=0, part=parallel.part(config))
    optimiser = Optimiser(sae, TorchBackend(torch.device("cpu")), parallel)
    step(sae, optimiser, backward(sae, parallel.mine(rows), plan, optimiser, DEAD[:0]), 1e-3, plan)
    gc.collect()
    return max(one.numel() for one in gc.get_objects() if issubclass(type(one), Tensor))


def adopted(parallel: Parallel) -> dict[str, Tensor]:
    """The weights with which an optimiser begins when every process has drawn others."""
    config = dict(configs())["batchtopk"]
    part, index = parallel.part(config), parallel.latents.index
    sae = build_part(part, shard(fresh(config, seed=10 + parallel.both.index).tensors(), config, index, parallel.latents.size))
    Optimiser(sae, TorchBackend(torch.device("cpu")), parallel)
    return sae.tensors()


def tied_values() -> Tensor:
    """[row, latent] with few different values, infinities and numbers that are none."""
    z = torch.randint(-3, 4, (8, 12), generator=torch.Generator().manual_seed(1)).float()
    z[1, 2], z[6, 9], z[3, 3], z[4, 10] = torch.inf, -torch.inf, torch.nan, torch.nan
    return z


def selected(parallel: Parallel) -> tuple[list[Tensor], list[Tensor]]:
    """Which of this process' tied values are kept, of a row by shards and of the batch by all, for several k."""
    shards, z = parallel.latents, parallel.mine(tied_values())
    width = z.shape[1] // shards.size
    own = z[:, shards.index * width : (shards.index + 1) * width].contiguous()
    by_row = []
    for k in (1, 4, 12):
        values, places = own.topk(min(k, width), dim=1)
        by_row.append(torch.zeros_like(own, dtype=torch.bool).scatter_(1, places, among_largest(values, k, shards)))
    backend = TorchBackend(torch.device("cpu"))
    by_batch = [merged_batch_topk(own, total, parallel.both, backend) for total in (1, 2, 20, 49, 95)]
    return by_row, [torch.stack([codes.rows(), codes.latents]) for codes in by_batch]


def _meet(fate: str) -> Callable[[int], None]:
    def at(update: int) -> None:
        if update == 3:
            os.kill(os.getpid(), {"dies": signal.SIGKILL, "hangs": signal.SIGSTOP}[fate])

    return at


def main(folder: Path, rank: int, world: int, seconds: float, latent_shards: int, names: list[str], fate: str) -> None:
    """The part of one process."""
    timeout, meeting = timedelta(seconds=seconds), f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=timeout)
    parallel = Parallel.over_processes(latent_shards, timeout)
    if fate != "ends":
        trained(dict(cases())[names[0]], parallel, _meet(fate) if rank == world - 1 else lambda update: None)
    found = {name: left._asdict() for name, left in all_trained(names, parallel).items()}
    rest = {"largest": largest_tensor(parallel), "adopted": adopted(parallel), "selected": selected(parallel)}
    stops = (0, 16) if world == 2 else (0,)
    rest["finished"] = [[_plain(one) for one in finished(parallel, stop)] for stop in stops]
    torch.save({"cases": found, **rest}, folder / f"rank_{rank}.pt")
    parallel.close()


def end_of(process: BaseProcess) -> str:
    """How a process ended, once it has; one that was stopped is ended here."""
    assert process.pid is not None
    status = os.waitpid(process.pid, os.WUNTRACED)[1]
    if not os.WIFSTOPPED(status):
        return str(os.waitstatus_to_exitcode(status))
    os.kill(process.pid, signal.SIGKILL)
    return "stopped"


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, world, seconds, shards, names, fate = sys.argv[1:]
    # copies of this process start at once, where new ones would each load torch
    start = multiprocessing.get_context("fork").Process
    rest = (int(world), float(seconds), int(shards), names.split(","), fate)
    processes = [start(target=main, args=(Path(where), rank, *rest)) for rank in range(int(world))]
    for process in processes:
        process.start()
    sys.stdout.write("\n".join(end_of(process) for process in processes))
    sys.stdout.flush()
    os._exit(0)
