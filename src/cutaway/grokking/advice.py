"""What a finished grokking run shows that its owner should know, each with the field to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutaway.base.errors import UserError
from cutaway.grokking.config import GrokkingConfig
from cutaway.grokking.phases import phases

if TYPE_CHECKING:
    import pyarrow as pa

_BLIP = 0.05  # a fall of accuracy this far below its best so far, and back, is a blip
_MANY = 3  # blips from which a run counts as unsteady
_STILL_RISING = 0.05  # rise of the test accuracy over the last tenth that calls for more epochs


def advice(history: pa.Table, config: GrokkingConfig) -> list[str]:
    """One line for each thing worth knowing; empty where all is well.

    history: the run's rows (step, train_acc, test_acc).
    """
    if not {"train_acc", "test_acc"} <= set(history.column_names):
        return []
    try:
        found = phases(history)
    except UserError:  # too little was recorded to tell phases
        return []
    train, test = (_values(history, name) for name in ("train_acc", "test_acc"))
    if not len(test):
        return []
    notes = []
    if found.memorised is None:
        notes.append(
            f"the training pairs were not memorised (train accuracy {train[-1]:.1%}): raise epochs "
            f"(it is {config.epochs}) or hidden_dim ({config.hidden_dim}), or lower weight_decay "
            f"({config.weight_decay:g})"
        )
    elif found.grokked is None:
        notes += _not_grokked(float(test[-1]), test, config)
    notes += _blips(train, test, found.memorised is not None, config)
    return notes


def _not_grokked(last: float, test: np.ndarray, config: GrokkingConfig) -> list[str]:
    """Memorised but not grokked: what usually brings it."""
    tenth = test[-max(2, len(test) // 10) :]
    if tenth[-1] - tenth[0] > _STILL_RISING:
        return [
            f"no grokking yet, and the test accuracy is still rising ({last:.1%}): train on with "
            "--extra-epochs"
        ]
    ways = []
    if config.optimizer == "adamw" and config.weight_decay < 1:
        ways.append(f"raise weight_decay to 1.0-2.0 (it is {config.weight_decay:g})")
    if config.train_frac < 0.3:
        ways.append(f"raise train_frac to 0.3-0.5 (it is {config.train_frac:g})")
    if config.train_frac > 0.6:
        ways.append(f"lower train_frac to 0.3-0.5 (it is {config.train_frac:g})")
    if config.warmup_epochs == 0:
        ways.append("set warmup_epochs to steady the start (it is 0)")
    if config.optimizer == "adamw":
        ways.append("try optimizer: orthograd_adamw")
    return [
        f"no grokking: memorised, but the test accuracy is {last:.1%} after {config.epochs} epochs; "
        + ", ".join(ways or ["train longer"])
    ]


def _blips(
    train: np.ndarray, test: np.ndarray, memorised: bool, config: GrokkingConfig
) -> list[str]:
    """Falls of accuracy after it was learned: the optimiser takes steps that are too large."""
    if not memorised:
        return []
    count = max(_falls(train), _falls(test))
    if count < _MANY:
        return []
    ways = []
    if config.warmup_epochs < 500:
        ways.append(f"set warmup_epochs: 500 (it is {config.warmup_epochs})")
    if config.beta2 > 0.98:
        ways.append(f"set beta2: 0.98 (it is {config.beta2:g})")
    ways.append(f"lower lr (it is {config.lr:g})")
    return [f"the accuracy fell back {count} times after it was reached: " + ", ".join(ways)]


def _falls(accuracy: np.ndarray) -> int:
    """How often it fell by more than `_BLIP` below its best so far, after having been near it."""
    below = accuracy < np.maximum.accumulate(accuracy) - _BLIP
    return int((below[1:] & ~below[:-1]).sum())


def _values(history: pa.Table, column: str) -> np.ndarray:
    values = history[column].drop_null().to_numpy().astype(float)
    return values[np.isfinite(values)]
