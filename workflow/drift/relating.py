"""What ties the latents of an SAE behind base to those of base: firing together, and explaining each other's contributions.

Only alive latents are related, and they are known once all stores have been counted, hence a second pass: X_0 and X_t side by
side, rows that every policy read alike paired position by position.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sae_core.kernels.codes import Codes
from sae_core.metrics.coactivation import CoactivationSums, coactivation_sums, correlations
from sae_core.metrics.latent_scaling import ScalingSums, scaling, scaling_sums
from sae_core.models.sae import SAE
from workflow.formats.activations import Store
from workflow.formats.masks import StageRows


class CodesInOrder(Protocol):
    """Codes of the kept rows of a store, in their order."""

    def take(self, rows: int) -> Codes:
        """Those of the next rows."""
        ...


class Side(NamedTuple):
    """The rows of one stage."""

    store: Store
    rows: StageRows
    mean: Tensor
    """Of its kept rows, float64 [d_model]."""
    frozen: CodesInOrder
    """Their codes by S_0."""
    codes: Mapping[str, CodesInOrder]
    """Their codes by the SAE of the later stage, by chain; on X_t of chains alone whose rows these are."""


class Rows(NamedTuple):
    """Some kept rows of a stage with their codes, see `Side`."""

    x: Tensor
    frozen: Codes
    by_frozen: Tensor
    """Their reconstruction by S_0."""
    codes: dict[str, Codes]


class Related(NamedTuple):
    """An SAE behind base beside S_0."""

    sae: SAE
    alive: Tensor
    """bool [d_sae]: its latents that are alive."""
    pairs: Tensor
    """int64 [pair, 2]: a latent of it and one of S_0 whose directions are alike."""
    on_base: bool
    """Its chain trains on rows of base, so these are its own."""


class Relation(NamedTuple):
    """What was found; ν is the share of a contribution f·d that another SAE does not explain, NaN if the latent never fires."""

    correlation: Tensor
    """float64 [pair]: of the activations of each pair."""
    unexplained: Tensor
    """float64 [d_sae]: ν of its latents, on its own rows, by S_0."""
    ancestor_unexplained: Tensor
    """float64 [d_sae]: ν of the latents of S_0, on X_0, by those latents of it that are alive.

    A warm start forgets nothing: a latent that no row needs any more keeps its place, and would still explain its ancestor on
    old rows. So the whole SAE would explain nearly every death away; the alive part explains those that others took over.
    """


class _Sums:
    """The running sums of one SAE."""

    def __init__(self) -> None:
        self.together: CoactivationSums | None = None
        self.born: ScalingSums | None = None
        self.died: ScalingSums | None = None

    def add(self, **found: CoactivationSums | ScalingSums) -> None:
        for name, sums in found.items():
            before = getattr(self, name)
            setattr(self, name, sums if before is None else before + sums)


@torch.inference_mode()
def relate(
    *,
    base: Side,
    stage: Side,
    paired: bool,
    frozen: SAE,
    related: Mapping[str, Related],
    batch_rows: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda rows: None,
) -> dict[str, Relation]:
    """The relations of the SAEs of one stage, by chain, on kept rows.

    Activations are correlated between S_0 on X_0 and S_t on X_t where both hold the same tokens. Otherwise, and in chains that
    train on rows of base, both SAEs read the rows of the later one.

    Args:
        base: X_0.
        stage: X_t.
        paired: they hold the same tokens in the same order.
        frozen: S_0, on `device`.
        related: by chain, on `device`.
        batch_rows: rows decoded together.
        device: where the tensors live.
        advance: told of finished rows.
    """
    sums, centres = {chain: _Sums() for chain in related}, (base.mean.to(device), stage.mean.to(device))
    sides = (_kept(side, frozen, batch_rows, device) for side in (base, stage))
    for old, new in zip_longest(*sides):
        assert not paired or len(old.x) == len(new.x), "paired stores have one mask"
        if old is not None:
            for chain, one in related.items():
                _on_base(sums[chain], one, frozen, old, old.codes[chain], centres[0])
            advance(len(old.x))
        if new is not None:
            beside = old.frozen if paired and old is not None else new.frozen
            for chain, one in related.items():
                if not one.on_base:
                    _on_stage(sums[chain], one, frozen, new, new.codes[chain], beside, centres[1])
            advance(len(new.x))
    return {chain: _relation(sums[chain], one, frozen) for chain, one in related.items()}


def _kept(side: Side, frozen: SAE, batch_rows: int, device: torch.device) -> Iterator[Rows]:
    """Kept rows, batch by batch; a batch may be empty."""
    keep = torch.from_numpy(side.rows.keep)
    for batch, where in side.store.sequential(batch_rows):
        x = batch[keep[where]].to(device)
        codes = side.frozen.take(len(x))
        yield Rows(x, codes, frozen.decode(codes, x), {chain: reader.take(len(x)) for chain, reader in side.codes.items()})


def _on_base(sums: _Sums, one: Related, frozen: SAE, rows: Rows, mine: Codes, mean: Tensor) -> None:
    """Rows of X_0: what became of the latents of S_0, and all of an SAE whose own rows these are."""
    alive = mine.only(one.alive[mine.latents])
    sums.add(died=scaling_sums(rows.frozen, frozen.W_dec, rows.x, one.sae.decode(alive, rows.x), mean))
    if one.on_base:
        _on_stage(sums, one, frozen, rows, mine, rows.frozen, mean)


def _on_stage(sums: _Sums, one: Related, frozen: SAE, rows: Rows, mine: Codes, beside: Codes, mean: Tensor) -> None:
    """Rows that an SAE trains on; `beside` are the codes of S_0 with which its own are correlated."""
    sums.add(
        born=scaling_sums(mine, one.sae.W_dec, rows.x, rows.by_frozen, mean),
        together=coactivation_sums(mine, beside, one.pairs, len(one.sae.W_dec), len(frozen.W_dec)),
    )


def _relation(sums: _Sums, one: Related, frozen: SAE) -> Relation:
    assert sums.together is not None
    assert sums.born is not None
    assert sums.died is not None
    born, died = scaling(sums.born, one.sae.W_dec), scaling(sums.died, frozen.W_dec)
    return Relation(correlations(sums.together, one.pairs).cpu(), born.unexplained.cpu(), died.unexplained.cpu())
