"""What a finished grokking run, or a sweep of them, shows that its owner should know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base.errors import UserError
from cutaway.grokking.config import GrokkingConfig
from cutaway.grokking.histories import config_of, has_failed, history_if_any
from cutaway.grokking.phases import FALL, Phases, phases, was_evaluated, window
from cutaway.studies.presets import presets

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.figures.recorded import Log

_BLIP = 0.05  # a fall of accuracy this far below its best so far, and back, is a blip
_MANY = 3  # blips from which a run counts as unsteady
# Settings that bear on whether and when a run groks, in the order they are told.
_BEARING = (
    *("weight_decay", "train_frac", "warmup_epochs", "optimizer"),
    *("lr", "beta2", "epochs", "p", "model_type"),
)
_RISE = 0.02  # rise of the test accuracy over the last evaluations that calls for more epochs
_OFTEN = 10  # grokking often takes as many times the steps that memorising took (docs: Measured)
_GUESSING = 0.95  # of ln p: a training loss above it is that of guessing
_SHRUNK = 1.0  # lr·weight_decay·epochs from which decay alone shrinks weights by e and more
_MOVED = 0.1  # lr·epochs, what Adam moves a weight by at most, below which nothing can be learnt
_SHORT = 500  # epochs; a shorter run is told to train longer before its rate is judged
_STRONG = 2.0  # weight decay above what grokking is usually trained with
_FEW = 5  # evaluations below which no trend is read off
_SMALL_P = 50  # below it half of the pairs are too few to grok from (docs: Measured, p = 17)
# Settings of a preset that say how long it trains or what is written down, not what is trained.
_LENGTHS = {"name", "epochs", "p", "log_every", "checkpoint_every", "weight_curvature_interval"}


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
    steps = max(history["step"].to_pylist())
    notes = []
    if found.grokked is None and config.warmup_epochs >= max(steps, 1):
        notes.append(
            f"the warm-up never ended: warmup_epochs is {config.warmup_epochs:,} of {steps:,} epochs; "
            "raise epochs or lower warmup_epochs"
        )
    if found.grokked is None and found.unconfirmed is not None:
        notes.append(
            f"the test accuracy was above {found.test_threshold:.0%} from step {found.unconfirmed:,} "
            f"until the run ended, for less than {window(found)}, so it does not count as "
            "grokked yet: train on with --extra-epochs"
        )
    elif found.memorised is None:
        loss = _values(history, "train_loss") if "train_loss" in history.column_names else train[:0]
        notes.append(_not_memorised(steps, train, loss, config))
    elif found.grokked is None and train[-1] < found.train_threshold - FALL:
        notes.append(
            f"the training pairs were memorised at step {found.memorised:,} and lost again (train "
            f"accuracy {train[-1]:.1%} after {steps:,} epochs): " + ", or ".join(_gentler(config))
        )
    elif found.grokked is None:
        notes += _not_grokked(steps, found.memorised, test, config)
    elif found.lost is not None:
        notes.append(_lost(found, train[-1], test[-1], config))
    reached = ((train, found.train_threshold), (test, found.test_threshold))
    notes += _blips(max(_falls(*one) for one in reached), steps, config)
    return notes


def sweep_advice(logs: Sequence[Log], groups: Sequence[str]) -> list[str]:
    """What a sweep's runs show together: how many grokked, and the setting that did soonest; where
    none did, what they had in common.

    A setting is a group; its step of grokking is the median over its runs, not reached being later
    than any, and lost again as good as not reached. Runs that failed or lost it are counted apart.
    """
    came_through = [not has_failed(log) for log in logs]
    tables = [
        history_if_any(log.history) if whole and len(log.history) else None
        for log, whole in zip(logs, came_through)
    ]
    known = [i for i, one in enumerate(tables) if one is not None and was_evaluated(one)]
    if len(known) < 2:
        return []
    failed = came_through.count(False)
    more = f" ({failed} more failed)" if failed else ""
    steps: dict[str, list[float]] = {}
    unconfirmed = lost = 0
    for index in known:
        found = phases(tables[index])
        unconfirmed += found.grokked is None and found.unconfirmed is not None
        lost += found.lost is not None
        reached = float(found.grokked) if found.stayed else math.inf
        steps.setdefault(groups[index], []).append(reached)
    count = sum(math.isfinite(step) for members in steps.values() for step in members)
    notes = []
    if count:
        medians = {group: float(np.median(members)) for group, members in steps.items()}
        best = min(medians, key=medians.__getitem__)
        line = f"{count} of {len(known)} runs grokked{more}"
        if math.isfinite(medians[best]) and len(steps) > 1:
            members = steps[best]
            of = f" (median of {len(members)})" if len(members) > 1 else ""
            line += f"; soonest with {best}: at step {medians[best]:,.0f}{of}"
        notes.append(line)
    else:
        shared = _shared([config_of(logs[index]) for index in known])
        kept = "grokked and kept it" if lost else "grokked"
        notes.append(f"none of {len(known)} runs {kept}{more}; all had {shared}")
    if lost:
        notes.append(
            f"{lost} of {len(known)} runs grokked and lost it again, and {_counts(lost)} not among "
            "those that grokked: `cutaway runs phases` says which, and from which step on"
        )
    if unconfirmed:
        were = "run was" if unconfirmed == 1 else "runs were"
        notes.append(
            f"{unconfirmed} {were} above the threshold when training ended, for too short a time "
            "to count as grokked: train on with --extra-epochs"
        )
    return notes


def _counts(count: int) -> str:
    return "is" if count == 1 else "are"


def _not_memorised(steps: int, train: np.ndarray, loss: np.ndarray, config: GrokkingConfig) -> str:
    """What usually brings memorising, by what was seen: the likeliest remedy first.

    A training loss at ln p is that of guessing. Where weight decay had the time to shrink the
    weights it is what keeps it there; where the learning rate had not the time to move them, that.
    """
    seen = f"the training pairs were not memorised (train accuracy {train[-1]:.1%} after {steps:,} epochs)"
    why = ""
    longer, wider = "train on with --extra-epochs", f"raise hidden_dim (it is {config.hidden_dim})"
    decay = [f"lower weight_decay (it is {config.weight_decay:g})"] if config.weight_decay else []
    faster, slower = (f"{word} lr (it is {config.lr:g})" for word in ("raise", "lower"))
    guess = math.log(config.p)
    if len(loss) and loss[-1] > _GUESSING * guess:
        why = f"; the training loss, {loss[-1]:.2f}, is that of guessing (ln(p) = {guess:.2f})"
        if config.lr * config.weight_decay * steps >= _SHRUNK:
            ways = [*decay, slower, longer]
        elif config.lr * steps < _MOVED:
            ways = [longer, faster, *decay] if steps < _SHORT else [faster, longer, *decay]
        else:
            ways = [slower, longer, *decay]
    elif _rising(train) or len(train) < _FEW or not decay:
        ways = [longer, wider, *decay]
    elif config.weight_decay >= _STRONG:
        ways = [*decay, longer, wider]
    else:
        ways = [longer, wider, *decay]
    return f"{seen}: " + ", or ".join(ways) + why


def _gentler(config: GrokkingConfig) -> list[str]:
    """What keeps a network where it was: smaller steps, and less decay where there is any."""
    ways = [f"lower lr (it is {config.lr:g})"]
    if config.weight_decay >= _STRONG:
        ways.insert(0, f"lower weight_decay (it is {config.weight_decay:g})")
    elif config.weight_decay:
        ways.append(f"lower weight_decay (it is {config.weight_decay:g})")
    if config.beta2 > 0.98:
        ways.append(f"set beta2: 0.98 (it is {config.beta2:g})")
    return ways


def _lost(found: Phases, train: float, test: float, config: GrokkingConfig) -> str:
    """A run that grokked and lost it: with the training pairs, or these alone being kept."""
    seen = f"it grokked at step {found.grokked:,} and lost it"
    if test >= found.test_threshold:
        return (
            f"{seen} at step {found.lost:,}: since then the test accuracy was mostly below "
            f"{found.test_threshold:.0%}; it is {test:.1%} at the end, for less than "
            f"{window(found)}: train on with --extra-epochs, or " + ", or ".join(_gentler(config))
        )
    seen += (
        f": the test accuracy is below {found.test_threshold:.0%} from step {found.lost:,} on, and "
        f"{test:.1%} at the end"
    )
    if train < found.train_threshold - FALL:
        return f"{seen} (train accuracy {train:.1%}): " + ", or ".join(_gentler(config))
    ways = [f"lower lr (it is {config.lr:g})"]
    if config.weight_decay < 1 and config.optimizer == "adamw":
        ways.append(f"raise weight_decay to 1.0-2.0 (it is {config.weight_decay:g})")
    if config.optimizer == "adamw":
        ways.append("try optimizer: orthograd_adamw")
    return f"{seen}, with the training pairs still known: " + ", or ".join(ways)


def _shared(configs: Sequence[Mapping[str, Any]]) -> str:
    """Of the settings that bear on grokking, those with the same value in all runs."""
    same = [
        f"{name} {configs[0][name]}"
        for name in _BEARING
        if name in configs[0] and all(one.get(name) == configs[0][name] for one in configs)
    ]
    return ", ".join(same) if same else "nothing in common that bears on it"


def _not_grokked(steps: int, memorised: int, test: np.ndarray, config: GrokkingConfig) -> list[str]:
    """Memorised but not grokked: what usually brings it, more epochs before anything else."""
    last = float(test[-1])
    if _rising(test):
        return [
            f"no grokking yet, and the test accuracy is still rising ({last:.1%}): more epochs, "
            "with --extra-epochs"
        ]
    asked = _preset_asking_more(config, steps)
    if asked is not None or steps < _OFTEN * memorised:
        why = (
            f"the preset {asked[0]} asks for {asked[1]:,}"
            if asked is not None
            else f"it memorised at {memorised:,}, and grokking often takes {_OFTEN} times as long"
        )
        return [
            f"no grokking yet: memorised, and the test accuracy is {last:.1%} after {steps:,} "
            f"epochs; {why}: more epochs first, with --extra-epochs"
        ]
    ways = []
    if config.weight_decay < 1 and config.optimizer == "adamw":
        ways.append(f"raise weight_decay to 1.0-2.0 (it is {config.weight_decay:g})")
    if config.train_frac < 0.3:
        ways.append(f"raise train_frac to 0.3-0.5 (it is {config.train_frac:g})")
    if config.train_frac > 0.6 and config.p >= _SMALL_P:
        ways.append(f"lower train_frac to 0.3-0.5 (it is {config.train_frac:g})")
    if config.warmup_epochs == 0:
        ways.append("set warmup_epochs to steady the start (it is 0)")
    if config.optimizer == "adamw":
        ways.append("try optimizer: orthograd_adamw")
    return [
        f"no grokking: memorised, but the test accuracy is {last:.1%} after {steps:,} epochs; "
        + ", ".join(ways or ["train longer"])
    ]


def _rising(test: np.ndarray) -> bool:
    """Whether the last fifth of the evaluations, three at least, rises by more than it scatters.

    Judged by the straight line of least squares through them: it must rise by more than `_RISE`
    and by more than twice the standard deviation of what is left.
    """
    last = test[-max(3, len(test) // 5) :]
    if len(last) < 2:
        return False
    at = np.arange(len(last))
    slope, height = np.polyfit(at, last, 1)
    scatter = float(np.std(last - (slope * at + height)))
    rise = float(slope * (len(last) - 1))
    return rise > max(_RISE, 2 * scatter)


def _preset_asking_more(config: GrokkingConfig, steps: int) -> tuple[str, int] | None:
    """A preset of these settings that trains more than twice as long, and how long."""
    mine = config.model_dump()
    for preset in presets():
        asked = preset.values.get("epochs", 0)
        own = {key: value for key, value in preset.values.items() if key not in _LENGTHS}
        alike = preset.study == "grokking" and all(mine.get(k) == v for k, v in own.items())
        if alike and asked > 2 * steps:
            return preset.name, asked
    return None


def _blips(count: int, steps: int, config: GrokkingConfig) -> list[str]:
    """Falls of accuracy after it was learned: the optimiser takes steps that are too large."""
    if count < _MANY:
        return []
    ways = []
    warmup = min(500, steps // 4)
    if config.warmup_epochs < warmup:
        ways.append(f"set warmup_epochs: {warmup} (it is {config.warmup_epochs})")
    if config.beta2 > 0.98:
        ways.append(f"set beta2: 0.98 (it is {config.beta2:g})")
    ways.append(f"lower lr (it is {config.lr:g})")
    return [f"the accuracy fell back {count} times after it was reached: " + ", ".join(ways)]


def _falls(accuracy: np.ndarray, threshold: float) -> int:
    """How often it fell by more than `_BLIP` below its best so far, after having been near it.

    Counted from where it first reached the threshold: on the way there it may waver.
    """
    accuracy = accuracy[np.logical_or.accumulate(accuracy >= threshold)]
    below = accuracy < np.maximum.accumulate(accuracy) - _BLIP
    return int((below[1:] & ~below[:-1]).sum())


def _values(history: pa.Table, column: str) -> np.ndarray:
    values = history[column].drop_null().to_numpy().astype(float)
    return values[np.isfinite(values)]
