"""Weights of a step-level SAE in shards over processes, for models that one device does not hold."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sae_core.config.step_training import StepTrainingConfig
from sae_core.models.step_sae import StepSAE
from sae_core.training.ranks import Ranks
from sae_core.training.step_loss import StepLoss


def sharded_loss(model: StepSAE, config: StepTrainingConfig, blocks: Sequence[nn.Module], device: torch.device) -> StepLoss:
    """The loss of a model whose weights, gradients and moments are shared among all processes of the default group.

    One transformer block at a time is whole on each process, in the forward and the backward pass; embeddings and bottleneck
    are whole while a micro-batch lasts.

    Source: Zhao et al. 2023 (PyTorch FSDP, arXiv 2304.11277); torch.distributed.fsdp.fully_shard.

    Args:
        blocks: the transformer blocks of all its language models.
    """
    model.train_phase(config.phase, embeddings=config.train_embeddings)
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    loss = StepLoss(model, config)
    for module in (*blocks, loss):
        fully_shard(module, mesh=mesh)
    for module in loss.modules():
        if isinstance(module, FSDPModule):
            # every micro-batch counts by its own share of the update, so gradients are added up, not averaged
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return loss


def is_sharded(loss: StepLoss) -> bool:
    """Whether processes share its weights."""
    return isinstance(loss, FSDPModule)


def put_away(loss: StepLoss) -> None:
    """Give up what a forward pass without a backward pass has left whole."""
    if isinstance(loss, FSDPModule):
        loss.reshard()


def gathered_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of whole tensors on the CPU, detached; of sharded ones, on the first process alone, others get empty tensors."""
    return {name: _whole(tensor.detach()) for name, tensor in tensors.items()}


def load_gathered(into: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
    """Write whole tensors, which every process has, into those of the same names; of a sharded one its part."""
    for name, tensor in into.items():
        given = whole[name]
        if isinstance(tensor, DTensor):
            given = distribute_tensor(given.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
        tensor.copy_(given)


def local_states(state: Any, ranks: Ranks) -> list[Any]:
    """The plain values of every process, in their order."""
    if ranks.size == 1:
        return [state]
    found: list[Any] = [None] * ranks.size
    distributed.all_gather_object(found, state, group=ranks.group)
    return found


def _whole(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return tensor.to("cpu", copy=True)
    whole = tensor.full_tensor()
    return whole.cpu() if tensor.device_mesh.get_rank() == 0 else whole.new_empty(0)
