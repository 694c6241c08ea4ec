"""Training over several processes: replicas that share the rows of a batch, and shards that share the latents of an SAE.

Of R · L processes, those that hold the same latents are `rows`, R replicas with an R-th of the batch each; those that see the same
rows are `latents`, L shards of one SAE. b_dec, b_pre, scale and the threshold of BatchTopK are held by all, equal to the bit.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from sae_core.config.part import Part, Whole, part_of
from sae_core.models.sae import SAE
from sae_core.models.sharding import per_latent
from sae_core.training.ranks import ONE, Ranks

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for another before it gives up."""


@final
@dataclass(frozen=True)
class Parallel:
    """Where this process stands among those that train one SAE."""

    rows: Ranks = ONE
    """Replicas: the same latents, other rows."""
    latents: Ranks = ONE
    """Shards: the same rows, other latents."""
    both: Ranks = ONE
    """All processes."""

    @classmethod
    def from_environment(cls, latent_shards: int = 1, timeout: timedelta = TIMEOUT) -> "Parallel":
        """Join the processes that `torchrun` started, over NCCL where there are GPUs, else over gloo; alone without torchrun.

        With GPUs, that of LOCAL_RANK becomes the current device of this process.

        Args:
            latent_shards: processes among which the latents of an SAE are shared; neighbours in rank, so put them on one node.
            timeout: how long to wait for another process before giving up.

        Raises:
            ValueError: the processes do not divide into shards, or there are more of them than GPUs.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
            if torch.cuda.is_available():
                _take_gpu(int(os.environ["LOCAL_RANK"]), torch.cuda.device_count())
            # with GPUs, numbers on the host go over gloo, so that no device is waited for
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(backend, timeout=timeout)
        return cls.over_processes(latent_shards, timeout)

    @classmethod
    def over_processes(cls, latent_shards: int = 1, timeout: timedelta = TIMEOUT) -> "Parallel":
        """As `from_environment`, over torch's default process group, which must be able to send tensors of the CPU, too."""
        joined = distributed.is_available() and distributed.is_initialized()
        world, rank = (distributed.get_world_size(), distributed.get_rank()) if joined else (1, 0)
        if latent_shards < 1 or world % latent_shards:
            raise ValueError(
                f"latent_shards must divide the number of processes = {world}; got {latent_shards}. Start a multiple of it with "
                "torchrun, or use fewer shards."
            )
        if world == 1:
            return ALONE
        everyone = list(range(world))
        by_row = [everyone[first : first + latent_shards] for first in range(0, world, latent_shards)]
        by_latent = [everyone[first::latent_shards] for first in range(latent_shards)]
        shards, replicas = _mine(by_row, rank, timeout), _mine(by_latent, rank, timeout)
        return cls(replicas, shards, Ranks(rank, world, distributed.group.WORLD))

    def part(self, whole: Whole) -> Part[Whole]:
        """The latents that this process holds of an SAE.

        Raises:
            ValueError: there are more shards than latents.
        """
        return part_of(whole, self.latents.index, self.latents.size)

    def mine(self, rows: Float[Tensor, "batch d_model"]) -> Float[Tensor, "share d_model"]:
        """The rows of a batch that this process trains on.

        Raises:
            ValueError: the batch does not divide.
        """
        if len(rows) % self.rows.size:
            raise ValueError(
                f"The rows of a batch must be a multiple of the replicas = {self.rows.size}; got {len(rows)}. Choose another "
                "batch, or more latent shards."
            )
        share = len(rows) // self.rows.size
        return rows[self.rows.index * share : (self.rows.index + 1) * share]

    @torch.no_grad()
    def adopt(self, sae: SAE) -> None:
        """Give all processes what the first one of them holds: replicas the latents, everyone the rest.

        Raises:
            ValueError: the SAE is not the part that this process must hold.
        """
        if sae.part != self.part(sae.part.whole):
            must = self.part(sae.part.whole)
            raise ValueError(
                f"Shard {self.latents.index} of {self.latents.size} must hold the latents from {must.first} to below {must.last}; "
                f"the SAE holds those from {sae.part.first} to below {sae.part.last}. Build it from `parallel.part(config)`."
            )
        own = per_latent(sae.config)
        for name in sae.shapes(sae.config):
            tensor = getattr(sae, name).detach()
            self.rows.from_first_(tensor if name in own else self.latents.from_first_(tensor))

    def close(self) -> None:
        """Leave the process group; all processes must come here."""
        if self.both.size > 1:
            distributed.destroy_process_group()


ALONE = Parallel()
"""A process that trains an SAE by itself and sends nothing."""


def _mine(groups: list[list[int]], rank: int, timeout: timedelta) -> Ranks:
    """The one of several groups of processes to which this one belongs."""
    found = ONE
    for members in groups:
        if len(members) > 1:
            # all processes take part in making every group, in one order
            group = distributed.new_group(members, timeout=timeout)
            if rank in members:
                found = Ranks(members.index(rank), len(members), group)  # type: ignore[arg-type]  # a group, as it is a member
    return found


def _take_gpu(wanted: int, there: int) -> None:
    if wanted >= there:
        raise ValueError(
            f"Each process of a node must have a GPU of its own; process {wanted + 1} found {there}. Start fewer processes per "
            "node, or hide all GPUs with CUDA_VISIBLE_DEVICES=''."
        )
    torch.cuda.set_device(wanted)
