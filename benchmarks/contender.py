"""What takes part in a benchmark: a TopK SAE with its optimiser, ours or another project's."""

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor

from benchmarks.shapes import Tensors

Precision = Literal["fp32", "bf16"]


class Contender(ABC):
    """One SAE, made from given weights, and the update its own trainer does."""

    name: str
    precision: Precision
    """Of its matrix products."""
    has_aux: bool = True
    """It offers an auxiliary loss on dead latents."""
    note: str = ""
    """What a reader of the table must know."""

    @abstractmethod
    def update(self, rows: Tensor) -> None:
        """One whole update: gradients, whatever its trainer does to them, a step of its optimiser, its upkeep."""

    @abstractmethod
    def gradients(self, rows: Tensor, dead: Tensor | None) -> Tensors:
        """Gradients of its own loss before any clip, latent-major.

        Args:
            dead: latents that its auxiliary loss takes for dead; None leaves that loss out.
        """

    @abstractmethod
    def true_loss(self, p: Tensors, rows: Tensor, dead: Tensor | None, active: Tensor | None) -> Tensor:
        """The loss it means to minimise, by dense operations in the precision of `p`.

        Args:
            active: [row, d_sae], where codes are above 0; None leaves it to the loss itself.
        """

    def active(self, rows: Tensor) -> Tensor | None:
        """[row, d_sae], where its codes are above 0; of those in low precision, which may choose other latents at the border."""
        return None
