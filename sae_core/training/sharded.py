"""An SAE whose latents lie on several processes, used as one: codes, reconstructions, and all its tensors in one place."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.config.sae import TopKConfig
from sae_core.kernels.codes import Codes
from sae_core.kernels.sparse import decode
from sae_core.models.sae import SAE
from sae_core.models.sharding import per_latent
from sae_core.training.merging import merged_topk
from sae_core.training.parallel import Parallel


class Reconstructed(NamedTuple):
    """What an SAE makes of rows."""

    rows: Float[Tensor, "batch d_model"]
    """Reconstructions in original units, the same on all shards."""
    codes: Codes
    """Codes of the latents that this process holds, numbered from its first."""
    active_per_row: Int[Tensor, " batch"]
    """Active latents of each row on all shards."""


@torch.no_grad()
def reconstruct(sae: SAE, x: Float[Tensor, "batch d_model"], parallel: Parallel) -> Reconstructed:
    """Rows in original units by way of all shards; each shard must give the same rows, replicas may give others."""
    scaled, shards = sae.normalised(x), parallel.latents
    codes = sae.select(sae.centred(scaled.rows))
    if isinstance(sae.part.whole, TopKConfig):
        codes = merged_topk(codes, sae.part.whole.k, sae.part.whole.keep == "absolute", shards)
    unit = sae.code_unit()
    values = codes.values if unit is None else codes.values / unit[codes.latents]
    found = shards.sum_(decode(codes._replace(values=values), sae.W_dec)) + sae.b_dec
    return Reconstructed(scaled.undone(found), codes, shards.sum_(codes.active_per_row()))


@torch.no_grad()
def gathered(sae: SAE, parallel: Parallel) -> dict[str, Tensor] | None:
    """All tensors of the whole SAE, on the CPU of the first shard; None on the others. `sae.tensors()` are those of the part."""
    own = per_latent(sae.config)
    found = {name: parallel.latents.at_first(tensor) if name in own else tensor for name, tensor in sae.tensors().items()}
    whole = {name: tensor for name, tensor in found.items() if tensor is not None}
    return whole if len(whole) == len(found) else None
