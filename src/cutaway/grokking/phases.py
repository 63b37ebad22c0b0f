"""Phases of a grokking run: memorised, grokked, the plateau after it; each in steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutaway.base.errors import UserError
from cutaway.grokking.histories import History, held_out, history_of

if TYPE_CHECKING:
    import pyarrow as pa

# In recorded runs (p = 97, AdamW, evaluated every 25 steps) a crossing that was a slingshot fell back
# within 50 steps, and the dips of runs that had grokked left 125 steps and more between them: 100
# tells the two apart. Longer windows take such a run's later dips for a failure to grok.
SUSTAIN = 100


@dataclass(frozen=True)
class Phases:
    """When a run memorised, grokked and became steady, and how well it kept what it had found.

    Steps are those of the history; None: not reached. `unconfirmed` is where the last crossing
    began that the end of the history cuts short: above the threshold until then, but not seen for
    `sustain` steps, so not counted as grokked.
    """

    memorised: int | None
    grokked: int | None
    plateau: int | None
    delay: int | None
    share_kept: float | None
    variance_after: float | None
    unconfirmed: int | None
    train_threshold: float
    test_threshold: float
    sustain: int
    plateau_width: float


def phases(
    history: History,
    *,
    train_threshold: float = 0.98,
    test_threshold: float = 0.95,
    sustain: int = SUSTAIN,
    plateau_width: float = 0.01,
) -> Phases:
    """The phases of a run, from its train and test accuracy (validation where there is no test).

    memorised   first step with train_acc ≥ `train_threshold`
    grokked     first step s from which every evaluation has test_acc ≥ `test_threshold`, up to one
                at s + `sustain` or later. A crossing that falls back sooner (a slingshot) does not
                count, nor one the history ends too soon for (`unconfirmed`). 0: any crossing counts
    plateau     first step s ≥ grokked from which, again for `sustain` steps, test_acc stays within
                `plateau_width` of the level reached: the median of the later half of the
                evaluations from grokked on
    delay       grokked − memorised, in steps
    share_kept  of the evaluations after grokked, the share with both accuracies at their thresholds
    variance_after  mean squared deviation of test_acc over the same evaluations

    `sustain` is in steps, so that it means the same however often a run was evaluated; between two
    evaluations nothing is known, and they count as one stretch. A null or NaN accuracy is no
    evaluation. Rows may be unordered or repeat steps, and accuracies may be percentages (see
    `runs.columns.tidy`, which announces what it does). `history` may also be a run or a log.

    Definitions: Power et al. 2022 (arXiv 2201.02177) for the phases; Thilak et al. 2022 (arXiv
    2206.04817) for the slingshots that make the window necessary.
    Raises `UserError` where an accuracy is missing or a threshold is no share.
    """
    _check(train_threshold, test_threshold, sustain, plateau_width)
    table = history_of(history)
    steps, train, test = accuracies(table)
    memorised = next(iter(steps[train >= train_threshold]), None)
    evaluated = np.isfinite(test)
    at, value = steps[evaluated], test[evaluated]
    grokked, unconfirmed = _first_stretch(at, value >= test_threshold, sustain)
    plateau = share_kept = variance_after = None
    if grokked is not None:
        level = _level(value[at >= grokked])
        near = np.abs(value - level) <= plateau_width
        plateau, _ = _first_stretch(at, near & (at >= grokked), sustain)
        both = (steps > grokked) & evaluated & np.isfinite(train)
        if both.any():
            kept = (train[both] >= train_threshold) & (test[both] >= test_threshold)
            share_kept = float(kept.mean())
        later = value[at > grokked]
        variance_after = float(later.var()) if later.size else None
    return Phases(
        memorised=_whole(memorised),
        grokked=_whole(grokked),
        plateau=_whole(plateau),
        delay=None if None in (memorised, grokked) else int(grokked - memorised),
        share_kept=share_kept,
        variance_after=variance_after,
        unconfirmed=_whole(unconfirmed),
        train_threshold=train_threshold,
        test_threshold=test_threshold,
        sustain=sustain,
        plateau_width=plateau_width,
    )


def has_accuracies(table: pa.Table) -> bool:
    """Whether a tidy history has what phases are made of."""
    return {"train_acc", held_out(table, "acc")} <= {*table.column_names}


def accuracies(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, train and held-out accuracy of a tidy history; NaN where one was not evaluated."""
    names = ("train_acc", held_out(table, "acc"))
    if not has_accuracies(table):
        missing = next(name for name in names if name not in table.column_names)
        raise UserError(
            f"history: has no {missing}; phases need train_acc and test_acc "
            f"(it has {', '.join(table.column_names)})"
        )
    train, test = (table[name].to_numpy().astype(np.float64) for name in names)
    return table["step"].to_numpy(), train, test


def _first_stretch(
    steps: Iterable[int], holds: Iterable[bool], sustain: int
) -> tuple[int | None, int | None]:
    """Where the first unbroken stretch of at least `sustain` steps begins, else the open last one."""
    start = None
    for step, held in zip(steps, holds, strict=True):
        if not held:
            start = None
            continue
        start = step if start is None else start
        if step - start >= sustain:
            return start, None
    return None, start


def _level(values: np.ndarray) -> float:
    return float(np.median(values[len(values) // 2 :]))


def _whole(step: int | None) -> int | None:
    return None if step is None else int(step)


def _check(train: float, test: float, sustain: int, width: float) -> None:
    for name, value in (("train_threshold", train), ("test_threshold", test)):
        if not 0 < value <= 1:
            raise UserError(f"{name} = {value}: expected a share above 0 and up to 1")
    if not 0 <= sustain < float("inf"):
        raise UserError(f"sustain = {sustain}: expected a number of steps, 0 or more")
    if not 0 <= width < 1:
        raise UserError(f"plateau_width = {width}: expected a share from 0 to below 1")
