"""New latents for what an SAE leaves over of some rows: each points along a residual and fires where that lowers the error."""

from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from sae_core.config.sae import TopKConfig
from sae_core.kernels.codes import Codes
from sae_core.models.sae import SAE
from sae_core.training.parallel import Parallel
from sae_core.training.ranks import Ranks
from sae_core.training.sharded import reconstruct

MARGIN = 1e-3
"""How far a bias stays from those at which another row begins to fire, as a share of the interval between two of them: rounding
must not decide which rows fire."""

ATTEMPTS = 2
"""Directions tried for each latent that is wanted, at most; along some no latent lowers the error."""

EXPLAINED = 1e-8
"""A row of which this share of its square is left over counts as explained: what is left is rounding."""

TOGETHER = 16
"""Directions that are drawn at once."""

LEAST_SEEN = 1e-6
"""A code of this size at an encoder of norm 1 counts as one that no encoder makes large."""


class NewLatents(NamedTuple):
    """Latents in the order in which they were found."""

    encoders: Float[Tensor, "latent d_model"]
    biases: Float[Tensor, " latent"]
    decoders: Float[Tensor, "latent d_model"]
    """Of norm 1."""


class Firing(NamedTuple):
    """When a latent fires."""

    gain: float
    """By how much the squared error falls, summed over the rows."""
    parameter: float
    """Its bias with the other sign; with `absolute`, the norm of its encoder with the other sign."""
    rows: Int[Tensor, " row"]
    """Those on which it fires."""


def find_latents(
    sae: SAE, rows: Float[Tensor, "row d_model"], count: int, least: float, seed: int, parallel: Parallel
) -> NewLatents:
    """At most `count` latents that lower the squared error of these rows one by one, those before them included.

    A row is drawn in proportion to its squared error; a latent along its residual, encoder and decoder alike, gets the bias with
    which the error of all rows falls most, and what it explains is taken off the residuals before the next row is drawn. Of rows
    alike the first takes away what the others would point at. Where latents compete for k places, the error counts what the
    latent that is driven out had explained. If the best bias lowers nothing, there is no such latent.

    Args:
        sae: as it would be without them.
        rows: in original units, the same on all shards, which all find the same latents.
        least: what a code must exceed to count, where that is one number for all rows.

    Source: drawing in proportion to what is left is that of k-means++ (Arthur and Vassilvitskii 2007).
    """
    left, draw = Leftover(sae, rows, count, least, parallel), torch.Generator().manual_seed(seed)
    price = left.price(slice(None))
    directions, parameters, tries = [rows.new_zeros(0, rows.shape[1])], list[float](), ATTEMPTS * count
    while len(parameters) < count and tries > 0 and (possible := int((price > 0).sum())):
        drawn = torch.multinomial(price, min(TOGETHER, possible, tries), generator=draw)
        block = normalize(left.residual[drawn.to(rows.device)], dim=1)
        seen, wanted, units = left.centred @ block.T, left.without @ block.T, sae.unit_of(block)
        touched = set[int]()
        for place, row in enumerate(drawn.tolist()):
            if row in touched or len(parameters) == count:
                continue
            price[row], tries = 0, tries - 1
            unit = 1.0 if units is None else float(units[place])
            firing = left.best_firing(seen[:, place], wanted[:, place], unit)
            if firing.gain > 0:
                left.add(block[place], seen[:, place], firing)
                wanted[firing.rows] = left.without[firing.rows] @ block.T
                hosts = firing.rows.cpu()
                price[hosts] = torch.where(price[hosts] > 0, left.price(firing.rows), 0)
                touched.update(hosts.tolist())
                directions.append(block[place : place + 1])
                parameters.append(firing.parameter)
    decoders, minus = torch.cat(directions), -rows.new_tensor(parameters)
    if left.absolute:
        return NewLatents(decoders * minus.unsqueeze(1), torch.zeros_like(minus), decoders)
    return NewLatents(decoders, minus, decoders)


@final
class Leftover:
    """What an SAE, with the latents added so far, leaves over of some rows; all in units of x'."""

    def __init__(self, sae: SAE, rows: Float[Tensor, "row d_model"], count: int, least: float, parallel: Parallel) -> None:
        """Begin with the SAE as it is; `count` latents may be added."""
        found = [reconstruct(sae, part, parallel) for part in rows.split(1024)]
        scaled, whole = sae.normalised(rows), sae.part.whole
        self.centred = sae.centred(scaled.rows)
        self.residual = (rows - torch.cat([one.rows for one in found])) / scaled.size
        self.without = self.residual
        """[row, d_model]: the residual without the latent that another would drive out; where none is, the same memory."""
        self.cost = rows.new_zeros(len(rows))
        """[row]: by how much the squared error of `without` is larger."""
        self.least = rows.new_full((len(rows),), least)
        """[row]: what a code must exceed to count."""
        self.selects, self.absolute = isinstance(whole, TopKConfig), isinstance(whole, TopKConfig) and whole.keep == "absolute"
        if isinstance(whole, TopKConfig):
            unit = sae.code_unit()
            decoders = parallel.latents.joined(sae.W_dec if unit is None else sae.W_dec / unit.unsqueeze(1))
            self.decoders, self.free = torch.cat([decoders, decoders.new_zeros(count, decoders.shape[1])]), len(decoders)
            pieces = [_table(one.codes, sae.part.first, whole.k, parallel.latents) for one in found]
            self.latents, self.values = (torch.cat([piece[part] for piece in pieces]) for part in (0, 1))
            self.without = self.residual.clone()
            self.smallest = torch.zeros(len(rows), 1, dtype=torch.int64, device=rows.device)
            self._find_smallest(torch.arange(len(rows), device=rows.device))

    def price(self, rows: Int[Tensor, " row"] | slice) -> Float[Tensor, " row"]:
        """Squared error of each row, on the CPU; 0 where nothing but rounding is left."""
        error, square = (one[rows].double().square().sum(1) for one in (self.residual, self.centred))
        return error.masked_fill(error <= EXPLAINED * square, 0).cpu()

    def _find_smallest(self, rows: Int[Tensor, " row"]) -> None:
        values = self.values[rows]
        smallest = (values.abs() if self.absolute else values).argmin(1, keepdim=True)
        value, latent = values.gather(1, smallest), self.latents[rows].gather(1, smallest).squeeze(1)
        self.without[rows] = self.residual[rows] + value * self.decoders[latent]
        self.cost[rows] = self.without[rows].square().sum(1) - self.residual[rows].square().sum(1)
        self.least[rows] = (value.abs() if self.absolute else value).squeeze(1)
        self.smallest[rows] = smallest

    def best_firing(self, seen: Float[Tensor, " row"], wanted: Float[Tensor, " row"], unit: float) -> Firing:
        """When a latent along a direction should fire.

        Args:
            seen: rows less the pre-bias, along it.
            wanted: `without` along it.
            unit: what its codes are multiplied with before they are compared.
        """
        least = self.least / unit
        if self.absolute:
            # codes far below 0 count, too: a bias would make most rows fire, so the norm n of the encoder is chosen, as −n
            ratio = least / seen.abs().clamp_min(LEAST_SEEN)
            return best_parameter(-ratio, torch.zeros_like(seen), -seen, wanted, self.cost)
        return best_parameter(seen - least, seen, torch.full_like(seen, -1.0), wanted, self.cost)

    def add(self, direction: Float[Tensor, " d_model"], seen: Float[Tensor, " row"], firing: Firing) -> None:
        """Let a latent fire so."""
        rows = firing.rows
        codes = (-firing.parameter * seen[rows] if self.absolute else seen[rows] - firing.parameter).unsqueeze(1)
        self.residual[rows] = self.without[rows] - codes * direction
        if self.selects:
            self.decoders[self.free] = direction
            self.values[rows] = self.values[rows].scatter(1, self.smallest[rows], codes)
            self.latents[rows] = self.latents[rows].scatter(1, self.smallest[rows], self.free)
            self.free += 1
            self._find_smallest(rows)


def best_parameter(
    turns: Float[Tensor, " row"],
    offsets: Float[Tensor, " row"],
    slopes: Float[Tensor, " row"],
    wanted: Float[Tensor, " row"],
    cost: Float[Tensor, " row"],
) -> Firing:
    """The number s for which Σ f (2 wanted − f) − cost over the rows with turn > s is largest, f = offset + slope · s.

    Between two turns the sum is a parabola in s, so the best is found among as many parabolas as there are rows.
    """
    order = turns.argsort(descending=True)
    turns, offsets, slopes, wanted, cost = (one[order].double() for one in (turns, offsets, slopes, wanted, cost))
    constant = (offsets * (2 * wanted - offsets) - cost).cumsum(0)
    linear = (slopes * (wanted - offsets)).cumsum(0)
    square = slopes.square().cumsum(0)
    peaks = linear / square.clamp_min(LEAST_SEEN**2)
    low = torch.cat([turns[1:], torch.minimum(turns, peaks)[-1:] - 1])  # on all rows it may fire as strongly as it likes
    room = MARGIN * (turns - low)
    s = torch.minimum(torch.maximum(peaks, low + room), turns - room)
    gains = (constant + s * (2 * linear - s * square)).masked_fill(low >= turns, -torch.inf)
    best = int(gains.argmax())
    return Firing(float(gains[best]), float(s[best]), order[: best + 1])


def _table(codes: Codes, first: int, k: int, shards: Ranks) -> tuple[Int[Tensor, "row k"], Float[Tensor, "row k"]]:
    """Latents, counted over all shards, and values of the k codes of each row, of which each shard holds some."""
    rows, device = codes.rows(), codes.values.device
    latents = torch.full((codes.batch, k), -1, dtype=torch.int64, device=device)
    values = codes.values.new_zeros(codes.batch, k)
    column = torch.arange(len(rows), device=device) - codes.offsets[rows]
    latents[rows, column], values[rows, column] = codes.latents + first, codes.values
    latents, values = (shards.stacked(one).transpose(0, 1).flatten(1) for one in (latents, values))
    kept = (latents >= 0).to(torch.int32).argsort(dim=1, descending=True, stable=True)[:, :k]
    return latents.gather(1, kept), values.gather(1, kept)
