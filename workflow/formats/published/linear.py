"""Two nn.Linear with bias, `encoder` and `decoder`: how several projects store an SAE."""

import torch
from torch import Tensor

from workflow.formats.published.facts import Given
from workflow.formats.published.tensors import Stored, oriented

LINEAR_PAIR = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


def linear_pair(stored: Stored, given: Given) -> dict[str, Tensor]:
    """Our tensors, in float32, from those of the pair.

    Raises:
        ConfigError: shapes do not fit, or do not tell which way round the matrices are stored.
    """
    found = stored.tensors
    shape = (len(found["encoder.bias"]), len(found["decoder.bias"]))
    first = None if given.encoder is None else given.encoder == "latent_first"
    return {
        "W_enc": oriented(stored, "encoder.weight", shape, first).float(),
        "W_dec": oriented(stored, "decoder.weight", shape, None if first is None else not first).float(),
        "b_enc": found["encoder.bias"].float(),
        "b_dec": found["decoder.bias"].float(),
        "scale": torch.ones(()),
    }
