"""The perceptron that the SSAE paper puts on the code of a reasoning step."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn


class StepClassifier(nn.Module):
    """Linear, LayerNorm, ReLU, Dropout, twice, then Linear: width → hidden → hidden / 2 → outputs; keys `net.{0,1,4,5,8}.*`.

    Source: Miaow-Lab/SSAE, classifier (arXiv 2603.03031), where it is called a linear probe.
    """

    def __init__(self, width: int, hidden: int = 1024, outputs: int = 1, dropout: float = 0.1) -> None:
        """
        Args:
            width: features of a step.
            hidden: units of the first hidden layer, even; the second has half of them.
            outputs: 1 for a yes/no label or a number, else classes.
            dropout: share of hidden units left out in training.
        """
        super().__init__()
        half = hidden // 2
        self.net = nn.Sequential(
            nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, half), nn.LayerNorm(half), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(half, outputs),
        )  # fmt: skip

    def forward(self, rows: Float[Tensor, "row width"]) -> Float[Tensor, "row outputs"]:
        """Log odds, numbers, or logits of classes."""
        return self.net(rows)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "StepClassifier":
        """One with these weights, whose sizes it takes from them; keys may begin with `module.` or `_orig_mod.`.

        Raises:
            ValueError: the keys are not those of such a perceptron.
        """
        plain = {name.removeprefix("_orig_mod.").removeprefix("module."): tensor for name, tensor in state.items()}
        expected = sorted(f"net.{at}.{part}" for at in (0, 1, 4, 5, 8) for part in ("weight", "bias"))
        if sorted(plain) != expected:
            raise ValueError(
                f"The weights of a step classifier must have the keys {', '.join(expected)}; got "
                f"{', '.join(sorted(plain)) or 'none'}. Give the entry `model` of a classifier's file."
            )
        hidden, width = plain["net.0.weight"].shape
        model = cls(width, hidden, plain["net.8.weight"].shape[0])
        model.load_state_dict(plain)
        return model
