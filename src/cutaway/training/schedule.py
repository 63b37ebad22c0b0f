"""The learning rate of every step: linear warm-up, then half a cosine down to a floor."""

from __future__ import annotations

import math

from cutaway.training.config import LoopConfig


def learning_rate(config: LoopConfig, step: int) -> float:
    """The rate at `step`, a pure function, so that any step can be resumed at.

    Warm-up: rate · (s + 1) / warmup for s < warmup. Then
    floor + (rate - floor) · (1 + cos(π · (s - warmup) / (schedule - warmup))) / 2, and the floor
    from `schedule_steps` on.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if step >= config.schedule_steps:
        return config.min_learning_rate
    share = (step - config.warmup_steps) / (config.schedule_steps - config.warmup_steps)
    fall = (1 + math.cos(math.pi * share)) / 2
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * fall
