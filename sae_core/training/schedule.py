"""The learning rate of each update."""

import math

from sae_core.config import TrainingConfig


def learning_rate(update: int, config: TrainingConfig) -> float:
    """Learning rate of update 0, 1, …: a linear rise over the warm-up, then half a cosine from `lr` down to `lr_floor · lr`.

    Source: Loshchilov and Hutter 2017, eq. 5, without restarts.
    """
    if update < config.warmup_updates:
        return config.lr * (update + 1) / config.warmup_updates
    done = (update - config.warmup_updates) / (config.updates - config.warmup_updates)
    return config.lr * (config.lr_floor + (1 - config.lr_floor) * (1 + math.cos(math.pi * done)) / 2)
