"""Which latents of an SAE a process holds where several share it."""

from dataclasses import dataclass, replace
from typing import Generic, TypeVar, final

from sae_core.config.sae import BatchTopKConfig, MatryoshkaConfig, SAEConfig, TopKConfig

Whole = TypeVar("Whole", bound=SAEConfig)


@final
@dataclass(frozen=True)
class Part(Generic[Whole]):
    """Latents `first` … `last` − 1 of an SAE."""

    whole: Whole
    """The SAE of which this is a part."""
    first: int
    last: int

    @property
    def config(self) -> SAEConfig:
        """The part as an SAE: k at most its latents, of widths those that end within it."""
        latents = self.last - self.first
        match self.whole:
            case TopKConfig() | BatchTopKConfig():
                return replace(self.whole, d_sae=latents, k=min(self.whole.k, latents))
            case MatryoshkaConfig():
                widths = tuple(width - self.first for width in self.whole.widths if self.first < width < self.last)
                return replace(self.whole, d_sae=latents, k=min(self.whole.k, latents), widths=(*widths, latents))
            case _:
                return replace(self.whole, d_sae=latents)


def part_of(config: Whole, index: int, count: int) -> Part[Whole]:
    """Part `index` of `count` parts in the order of latents, whose sizes differ by at most one.

    Raises:
        ValueError: there are more parts than latents.
    """
    if not 1 <= count <= config.d_sae:
        raise ValueError(
            f"The parts of an SAE must be at least 1 and at most d_sae = {config.d_sae}; got {count}. Use fewer latent shards."
        )
    assert 0 <= index < count, "parts are counted from 0"
    return Part(config, index * config.d_sae // count, (index + 1) * config.d_sae // count)
