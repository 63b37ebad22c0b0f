"""Sizes of a study that trains over epochs: examples in a step, steps, and what is due how often."""

from __future__ import annotations

from typing import Protocol


class OverEpochs(Protocol):
    """The settings that say how long a run trains; None is a default that hangs on the data."""

    epochs: float
    max_steps: int | None
    batch_size: int | None
    eval_every: int | None
    checkpoint_every: int | None


def sized_steps(
    config: OverEpochs, rows: int, *, smallest: int, largest: int, fewest_steps: int
) -> dict[str, int]:
    """`batch_size`, `max_steps`, `eval_every` and `checkpoint_every` for `rows` training examples.

    What is given stays. A batch is the largest power of two from `smallest` to `largest` that leaves
    `fewest_steps` steps (`largest` where `max_steps` is given), and no larger than `rows`; the steps
    are those of the epochs; evaluations and checkpoints are a twentieth of the steps apart.
    """
    size = largest
    while (
        size > smallest and config.max_steps is None and config.epochs * rows / size < fewest_steps
    ):
        size //= 2
    size = config.batch_size or min(size, max(1, rows))
    steps = config.max_steps or max(1, round(config.epochs * rows / size))
    return {
        "batch_size": size,
        "max_steps": steps,
        "eval_every": config.eval_every or max(1, steps // 20),
        "checkpoint_every": config.checkpoint_every or max(1, steps // 20),
    }
