"""Chains of SAEs over the stages of a planted world, in memory: trained as a drift study trains them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.config.sae import SAEConfig
from sae_core.config.training import TrainingConfig
from sae_core.kernels.backend import Backend
from sae_core.models.build import build, initial
from sae_core.models.sae import SAE
from sae_core.planted.world import PlantedWorld
from sae_core.training.in_memory import batches_of, quality_on
from sae_core.training.records import EpochRecord, HeldOut
from sae_core.training.trainer import Trainer

REAL, NULL, COLD, REPEAT = "real", "null", "cold", "repeat"
CONTROLS = (NULL, COLD, REPEAT)

SINK_MULTIPLE = 10.0
"""Rows of more than so many times the median norm are sinks."""


@dataclass(frozen=True, kw_only=True)
class ChainSettings:
    """How the SAEs of a world are trained."""

    sae: SAEConfig
    """Kind and shape."""

    training: TrainingConfig
    """Training of the base SAE; its seed is replaced by that of each hop."""

    hop_updates: int
    """Updates of each later hop; a multiple of `training.updates_per_epoch`."""

    validation_prompts: int = 40
    """Prompts, none of them in other parts, on which the best epoch is chosen."""


class Name(NamedTuple):
    """Which SAE of a world."""

    chain: str
    """`real`, `null`, `cold` or `repeat`; base is `real`."""
    stage: int
    """0 is base."""


class PlantedSAE(NamedTuple):
    """An SAE of a chain."""

    model: SAE
    reinitialised: Bool[Tensor, " d_sae"]
    """Re-initialised since its chain began: what happened to a fresh SAE in its own training does not count."""
    history: list[EpochRecord]


def kept_rows(x: Float[Tensor, "row d_model"]) -> Bool[Tensor, " row"]:
    """Rows that are no sinks, by their norm alone."""
    norms = torch.linalg.vector_norm(x, dim=1)
    return norms <= SINK_MULTIPLE * norms.median()


class ChainTrainer:
    """Trains the chains of one world with one SAE seed."""

    def __init__(
        self,
        world: PlantedWorld,
        settings: ChainSettings,
        seed: int,
        backend: Callable[[], Backend | None] = lambda: None,
    ) -> None:
        """Train nothing yet.

        Args:
            seed: of directions, batches and re-initialised latents; not of the world.
            backend: gives each training its backend; plain torch if left out.
        """
        self.world, self.settings, self.seed, self.backend = world, settings, seed, backend

    def train(self, controls: Sequence[str] = CONTROLS, known: Mapping[Name, PlantedSAE] | None = None) -> dict[Name, PlantedSAE]:
        """The base SAE, the chain `real`, and the controls asked for.

        `real` S_t: S_{t−1} on rows of stage t. `null` U_t: the same on base rows of the same prompts. `cold` C_t: fresh, on rows of
        stage t of all prompts that S_t has seen, with as many updates in all. `repeat` R_t: S_t once more on its own rows.

        Args:
            controls: which of the other chains.
            known: SAEs trained before, taken over as they are: base and `null` of another run of the same world.

        Raises:
            ValueError: a control has another name.
        """
        if unknown := set(controls) - set(CONTROLS):
            raise ValueError(
                f"Controls must be among {', '.join(CONTROLS)}; got {', '.join(sorted(unknown))}. Leave out what is none."
            )
        found: dict[Name, PlantedSAE] = {}
        for name in self._names(controls):
            found[name] = known[name] if known and name in known else self._one(name, found)
        return found

    def _names(self, controls: Sequence[str]) -> list[Name]:
        """What is to be trained, ancestors first."""
        later = range(1, self.world.stages)
        return [Name(REAL, 0), *(Name(chain, stage) for stage in later for chain in (REAL, *controls))]

    def _one(self, name: Name, found: Mapping[Name, PlantedSAE]) -> PlantedSAE:
        chain, stage = name
        if stage == 0:
            return self._fresh(0, [0], self.settings.training.updates)
        before = Name(chain if stage > 1 else REAL, stage - 1)
        match chain:
            case "real":
                return self._warm(found[before], stage, stage)
            case "null":
                return self._warm(found[before], stage, 0)
            case "repeat":
                return self._warm(found[Name(REAL, stage)], stage, stage, again=True)
            case _:
                updates = self.settings.training.updates + stage * self.settings.hop_updates
                return self._fresh(stage, range(stage + 1), updates)

    def _fresh(self, stage: int, hops: Sequence[int], updates: int) -> PlantedSAE:
        rows = torch.cat([self._rows(hop, stage) for hop in hops])
        start = initial(self.settings.sae, rows, self.seed)
        trained = self._trained(start, None, rows, stage, updates, 0)
        return trained._replace(reinitialised=torch.zeros_like(trained.reinitialised))

    def _warm(self, before: PlantedSAE, hop: int, stage: int, again: bool = False) -> PlantedSAE:
        start = build(self.settings.sae, before.model.tensors())
        # one stream of batches per hop for all chains, so that real and null differ in their rows alone
        stream = 2 * hop + again
        return self._trained(start, before.reinitialised, self._rows(hop, stage), stage, self.settings.hop_updates, stream)

    def _trained(self, start: SAE, reinitialised: Tensor | None, rows: Tensor, stage: int, updates: int, stream: int) -> PlantedSAE:
        seed = 1000 * self.seed + stream
        config = replace(self.settings.training, updates=updates, seed=seed)
        trainer = Trainer(start, config, reinitialised, self.backend())
        trained = trainer.run(batches_of(rows, config.batch, seed), self._validation(stage))
        return PlantedSAE(build(self.settings.sae, trained.tensors), trained.reinitialised, trainer.history)

    def _rows(self, hop: int, stage: int) -> Tensor:
        x = self.world.rows(f"hop_{hop}", stage).x
        return x[kept_rows(x)]

    def _validation(self, stage: int) -> Callable[[SAE], HeldOut]:
        x = self.world.rows("validation", stage, self.settings.validation_prompts).x
        return quality_on(x[kept_rows(x)])
