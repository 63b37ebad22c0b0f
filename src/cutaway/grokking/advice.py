"""What a finished grokking run, or a sweep of them, shows that its owner should know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base.errors import UserError
from cutaway.grokking.config import GrokkingConfig
from cutaway.grokking.histories import config_of, history_if_any
from cutaway.grokking.phases import has_accuracies, phases

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.grokking.pictures import Log

_BLIP = 0.05  # a fall of accuracy this far below its best so far, and back, is a blip
_MANY = 3  # blips from which a run counts as unsteady
# Settings that bear on whether and when a run groks, in the order they are told.
_BEARING = (
    *("weight_decay", "train_frac", "warmup_epochs", "optimizer"),
    *("lr", "beta2", "epochs", "p", "model_type"),
)
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
    if found.grokked is None and found.unconfirmed is not None:
        notes.append(
            f"the test accuracy was above {found.test_threshold:.0%} from step {found.unconfirmed:,} "
            f"until the run ended, for less than {found.sustain} steps, so it does not count as "
            "grokked yet: train on with --extra-epochs"
        )
    elif found.memorised is None:
        notes.append(
            f"the training pairs were not memorised (train accuracy {train[-1]:.1%}): raise epochs "
            f"(it is {config.epochs}) or hidden_dim ({config.hidden_dim})"
            + (f", or lower weight_decay ({config.weight_decay:g})" if config.weight_decay else "")
        )
    elif found.grokked is None:
        steps = max(history["step"].to_pylist())
        notes += _not_grokked(steps, test, config)
    notes += _blips(train, test, found.memorised is not None, config)
    return notes


def sweep_advice(logs: Sequence[Log], groups: Sequence[str]) -> list[str]:
    """What a sweep's runs show together: how many grokked, and the setting that did soonest; where
    none did, what they had in common.

    A setting is a group; its step of grokking is the median over its runs, not reached being later
    than any.
    """
    tables = [history_if_any(log.history) for log in logs]
    known = [i for i, one in enumerate(tables) if one is not None and has_accuracies(one)]
    if len(known) < 2:
        return []
    steps: dict[str, list[float]] = {}
    unconfirmed = 0
    for index in known:
        found = phases(tables[index])
        unconfirmed += found.grokked is None and found.unconfirmed is not None
        reached = math.inf if found.grokked is None else float(found.grokked)
        steps.setdefault(groups[index], []).append(reached)
    count = sum(math.isfinite(step) for members in steps.values() for step in members)
    notes = []
    if count:
        medians = {group: float(np.median(members)) for group, members in steps.items()}
        best = min(medians, key=medians.__getitem__)
        line = f"{count} of {len(known)} runs grokked"
        if math.isfinite(medians[best]) and len(steps) > 1:
            members = steps[best]
            of = f" (median of {len(members)})" if len(members) > 1 else ""
            line += f"; soonest with {best}: at step {medians[best]:,.0f}{of}"
        notes.append(line)
    else:
        shared = _shared([config_of(logs[index]) for index in known])
        notes.append(f"none of {len(known)} runs grokked; all had {shared}")
    if unconfirmed:
        were = "run was" if unconfirmed == 1 else "runs were"
        notes.append(
            f"{unconfirmed} {were} above the threshold when training ended, for too short a time "
            "to count as grokked: train on with --extra-epochs"
        )
    return notes


def _shared(configs: Sequence[Mapping[str, Any]]) -> str:
    """Of the settings that bear on grokking, those with the same value in all runs."""
    same = [
        f"{name} {configs[0][name]}"
        for name in _BEARING
        if name in configs[0] and all(one.get(name) == configs[0][name] for one in configs)
    ]
    return ", ".join(same) if same else "nothing in common that bears on it"


def _not_grokked(steps: int, test: np.ndarray, config: GrokkingConfig) -> list[str]:
    """Memorised but not grokked: what usually brings it."""
    last = float(test[-1])
    tenth = test[-max(2, len(test) // 10) :]
    if tenth[-1] - tenth[0] > _STILL_RISING:
        return [
            f"no grokking yet, and the test accuracy is still rising ({last:.1%}): train on with "
            "--extra-epochs"
        ]
    ways = []
    if config.weight_decay < 1 and config.optimizer == "adamw":
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
        f"no grokking: memorised, but the test accuracy is {last:.1%} after {steps:,} epochs; "
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
