"""Rows of a planted world: any part of it at any stage, always the same."""

from functools import cached_property
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.planted.config import WorldConfig
from sae_core.planted.dictionary import Dictionary, plant, stream
from sae_core.planted.events import Redraw

TRUTH_PROMPTS = 200
"""Prompts over which the KL proxy is averaged."""


class Rows(NamedTuple):
    """Rows of one part at one stage, prompt by prompt."""

    x: Float[Tensor, "row d_model"]
    prompt: Int[Tensor, " row"]
    """Prompt of each row, from 0."""
    sink: Bool[Tensor, " row"]
    """Whether it is a sink."""


class Text(NamedTuple):
    """What a stage reads, before it is known what its directions look like."""

    chance: np.ndarray
    """[row, direction], uniform: a direction is active where it is below its rate on the prompt."""
    multipliers: np.ndarray
    """[prompt, direction], mean 1."""
    amplitudes: np.ndarray
    """[row, direction]: activation of each direction, should it be active."""
    half: np.ndarray
    """[row, direction], bool: which half speaks where a direction is two."""


@final
class PlantedWorld:
    """A world with known drift.

    A *part* is a set of prompts with a name: the prompts of two names have nothing in common. Two stages of one part are paired row
    by row, unless the configuration says otherwise.

    Source: the planted sparse sums of toy models of superposition (Elhage et al. 2022), here over stages, with prompts that cluster
    activity and rates that fall with rank.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.dictionary: Dictionary = plant(config)
        self._redrawn = [place for place, event in enumerate(self.dictionary.events) if isinstance(event, Redraw)]

    @property
    def stages(self) -> int:
        """Stages, base included."""
        return self.config.hops + 1

    def rows(self, part: str, stage: int, prompts: int | None = None) -> Rows:
        """The rows of a part at a stage.

        Args:
            part: name of a set of prompts.
            stage: 0 is base.
            prompts: how many, `config.prompts` if left out; parts of two sizes are two parts.
        """
        prompts = prompts or self.config.prompts
        x = self._signal(part, stage, prompts)
        place = self._place(stage)
        noise = stream(self.config, part, prompts, "noise", place).standard_normal(x.shape, dtype=np.float32)
        x += self.config.noise * noise
        sink = np.zeros(len(x), dtype=bool)
        if self.config.sink_every:
            sink = stream(self.config, part, prompts, "sinks").random(len(x)) < 1 / self.config.sink_every
            x[sink] = self.dictionary.sink * self.config.sink_multiple * self._typical_norm + self.config.noise * noise[sink]
        prompt = np.repeat(np.arange(prompts), self.config.rows_per_prompt)
        return Rows(torch.from_numpy(x), torch.from_numpy(prompt), torch.from_numpy(sink))

    @cached_property
    def kl(self) -> list[float]:
        """A proxy of KL(π_t‖π_0) per stage, E‖x_t − x_0‖²/(2τ²) over rows without noise and redrawing; 0 at base.

        Source: the KL divergence between two Gaussians of covariance τ²I whose means are the rows.
        """
        base = self._signal("truth", 0, TRUTH_PROMPTS, still=True)
        moved = [self._signal("truth", stage, TRUTH_PROMPTS, still=True) - base for stage in range(self.stages)]
        return [float(np.square(change, dtype=np.float64).sum(1).mean() / (2 * self.config.kl_noise**2)) for change in moved]

    @property
    def _typical_norm(self) -> float:
        low, high = self.config.amplitudes
        signal = self.config.active * (low * low + low * high + high * high) / 3
        return (signal + self.config.d_model * (self.config.offset**2 + self.config.noise**2)) ** 0.5

    def _place(self, stage: int) -> tuple[int, int]:
        """What tells random streams of stages apart: all runs share base."""
        return (stage, self.config.run if stage else 0)

    def _signal(self, part: str, stage: int, prompts: int, still: bool = False) -> np.ndarray:
        """Rows without noise and sinks, float32 [row, d_model].

        Args:
            still: as if all stages read the same text and nothing were redrawn.
        """
        truth = self.dictionary.stages[stage]
        text = self._text(part, stage, prompts, still)
        rates = np.repeat(text.multipliers * truth.rates, self.config.rows_per_prompt, axis=0)
        codes = np.where(text.chance < rates, text.amplitudes * truth.magnitudes, 0).astype(np.float32)
        vectors = truth.vectors.astype(np.float32)
        x = codes @ vectors[:, 0]
        if (double := truth.double).any():
            x += (codes * text.half)[:, double] @ (vectors[:, 1] - vectors[:, 0])[double]
        x += np.float32(self.config.offset) + np.float32(self.config.mean_shift * stage) * self.dictionary.shift.astype(np.float32)
        if self.config.hidden_dims:
            x += self._hidden(part, stage, prompts, still)
        return x

    def _hidden(self, part: str, stage: int, prompts: int, still: bool) -> np.ndarray:
        whole, other = np.split(self.dictionary.hidden, 2)
        angle = self.config.hidden_angle * stage
        key = () if still or self.config.paired else self._place(stage)
        size = (prompts * self.config.rows_per_prompt, len(whole))
        signal = self.config.hidden_size * stream(self.config, part, prompts, "hidden", *key).standard_normal(size)
        return (signal @ (np.cos(angle) * whole + np.sin(angle) * other)).astype(np.float32)

    def _text(self, part: str, stage: int, prompts: int, still: bool) -> Text:
        if not (still or self.config.paired):
            return self._drawn(part, prompts, self._place(stage))
        text = self._drawn(part, prompts, ())
        if self._redrawn and stage and not still:
            fresh = self._drawn(part, prompts, self._place(stage))
            for old, new in zip(text, fresh, strict=True):
                old[:, self._redrawn] = new[:, self._redrawn]
        return text

    def _drawn(self, part: str, prompts: int, key: tuple[int, ...]) -> Text:
        draw = stream(self.config, part, prompts, "text", *key)
        size = (prompts * self.config.rows_per_prompt, self.config.directions)
        low, high = self.config.amplitudes
        shape = self.config.clustering
        multipliers = np.ones((prompts, size[1])) if shape is None else draw.gamma(shape, 1 / shape, (prompts, size[1]))
        chance, amplitudes, half = (draw.random(size, dtype=np.float32) for _ in range(3))
        return Text(chance, multipliers, low + (high - low) * amplitudes, half < 0.5)
