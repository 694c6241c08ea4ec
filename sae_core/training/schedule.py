"""What changes from update to update: the learning rate and the price of activity."""

import math

from sae_core.config.training import TrainingConfig


def learning_rate(update: int, config: TrainingConfig) -> float:
    """Learning rate of update 0, 1, …: a linear rise over the warm-up, then the schedule from `lr` down to `lr_floor · lr`.

    Source: Loshchilov and Hutter 2017, eq. 5 (cosine; with restarts of equal length).
    """
    if update < config.warmup_updates:
        return config.lr * (update + 1) / config.warmup_updates
    since = update - config.warmup_updates
    match config.schedule:
        case "constant":
            left = 1.0
        case "linear":
            left = 1 - since / (config.updates - config.warmup_updates)
        case "cosine":
            left = _cosine(since / (config.updates - config.warmup_updates))
        case "restarts":
            left = _cosine(since % config.restart_updates / config.restart_updates)
    return config.lr * (config.lr_floor + (1 - config.lr_floor) * left)


def sparsity_coef(update: int, config: TrainingConfig) -> float:
    """λ of update 0, 1, …: a linear rise from 0 over its warm-up."""
    if update < config.sparsity_warmup_updates:
        return config.sparsity_coef * update / config.sparsity_warmup_updates
    return config.sparsity_coef


def _cosine(done: float) -> float:
    return (1 + math.cos(math.pi * done)) / 2
