"""What changes from update to update of a step-level SAE: the learning rate; and the random streams of each."""

import math

import numpy as np
import torch

from sae_core.config.step_training import StepTrainingConfig


def step_learning_rate(update: int, config: StepTrainingConfig) -> float:
    """Learning rate of update 0, 1, …: with t the epoch (or, `schedule_per` update, everything counted in updates),

    lr (t + 1) / (warm-up + 1) below the warm-up, `min_lr` behind the decay, and half a cosine between the two.

    Source: Miaow-Lab/SSAE, once per epoch.
    """
    per_epoch = config.schedule_per == "epoch"
    time, unit = (update // config.updates_per_epoch, 1) if per_epoch else (update, config.updates_per_epoch)
    warmup, decay = config.warmup_epochs * unit, config.decay_epochs * unit
    if time < warmup:
        return config.lr * (time + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.lr
    if time > decay:
        return config.min_lr
    left = 0.5 * (1 + math.cos(math.pi * (time - warmup) / (decay - warmup)))
    return config.min_lr + left * (config.lr - config.min_lr)


def noise_stream(seed: int, *place: int) -> torch.Generator:
    """The generator of everything random at one place of a training, whatever was drawn before and by whom."""
    number = np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(number) >> 1)
