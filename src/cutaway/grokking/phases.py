"""Phases of a grokking run: memorised, grokked, the plateau after it, lost; each in steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cutaway.base.doors import door
from cutaway.base.errors import UserError
from cutaway.grokking.histories import History, held_out, history_of

if TYPE_CHECKING:
    import pyarrow as pa

# In recorded runs (p = 97, AdamW, evaluated every 25 steps) a crossing that was a slingshot fell back
# within 50 steps, and the dips of runs that had grokked left 125 steps and more between them: 100
# tells the two apart. Longer windows take such a run's later dips for a failure to grok.
SUSTAIN = 100
# Of a run evaluated every 100 steps or less often, two evaluations fill that window, and a slingshot
# can reach both.
EVALUATIONS = 3
FALL = 0.05  # how far below the threshold a run that ends there has lost it, however shortly


@dataclass(frozen=True)
class Phases:
    """When a run memorised, grokked and became steady, and whether it kept what it had found.

    Steps are those of the history; None: not reached. `unconfirmed` is where the last crossing
    began that the end of the history cuts short: above the threshold until then, but not seen for
    the window, so not counted as grokked. `lost` is where a run that had grokked fell below the
    threshold for good, as far as was recorded; `stayed` says that it grokked and did not.
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
    evaluations: int = EVALUATIONS
    lost: int | None = None

    @property
    def stayed(self) -> bool:
        """Whether it grokked and had not lost it when the history ended."""
        return self.grokked is not None and self.lost is None


@door
def phases(
    history: History,
    *,
    train_threshold: float = 0.98,
    test_threshold: float = 0.95,
    sustain: int | None = None,
    evaluations: int | None = None,
    plateau_width: float = 0.01,
) -> Phases:
    """The phases of a run, from its train and test accuracy (validation where there is no test).

    memorised   first step with train_acc ≥ `train_threshold`
    grokked     first step s from which every evaluation has test_acc ≥ `test_threshold`, up to one
                at s + `sustain` or later, `evaluations` of them at least. A crossing that falls
                back sooner (a slingshot) does not count, nor one the history ends too soon for
                (`unconfirmed`)
    plateau     first step s ≥ grokked from which, again for that window, test_acc stays within
                `plateau_width` of the level reached: the median of the later half of the
                evaluations from grokked on, up to where it was lost
    lost        the first evaluation below `test_threshold` after the last such stretch at it, where
                what follows fills a window and half of it or more is below, or ends more than 0.05 below.
                None where it did not grok, kept it, or came back for a window
    delay       grokked − memorised, in steps
    share_kept  of the evaluations after grokked, the share with both accuracies at their thresholds
    variance_after  mean squared deviation of test_acc over the same evaluations

    The window is 100 steps and 3 evaluations at least. A `sustain` that is given counts steps only,
    so that it means the same however often a run was evaluated, unless `evaluations` is given too;
    0 counts any crossing. Between two evaluations nothing is known, and they count as one stretch.
    A null or NaN accuracy is no
    evaluation. Rows may be unordered or repeat steps, and accuracies may be percentages (see
    `tables.tidy.tidy`, which announces what it does). `history` may also be a run or a log.

    Definitions: Power et al. 2022 (arXiv 2201.02177) for the phases; Thilak et al. 2022 (arXiv
    2206.04817) for the slingshots that make the window necessary.
    Raises `UserError` where an accuracy is missing or a threshold is no share.
    """
    if evaluations is None:
        evaluations = EVALUATIONS if sustain is None else 1
    sustain = SUSTAIN if sustain is None else sustain
    _check(train_threshold, test_threshold, sustain, plateau_width)
    if evaluations < 1:
        raise UserError(f"evaluations = {evaluations}: expected 1 or more")
    stretch = _Window(sustain, evaluations)
    table = history_of(history)
    steps, train, test = accuracies(table)
    memorised = next(iter(steps[train >= train_threshold]), None)
    evaluated = np.isfinite(test)
    at, value = steps[evaluated], test[evaluated]
    grokked, unconfirmed = _first_stretch(at, value >= test_threshold, stretch)
    plateau = lost = share_kept = variance_after = None
    if grokked is not None:
        lost = _lost(at, value, test_threshold, stretch)
        high = (at >= grokked) & (at < (np.inf if lost is None else lost))
        near = np.abs(value - _level(value[high])) <= plateau_width
        plateau, _ = _first_stretch(at, near & high, stretch)
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
        evaluations=evaluations,
        lost=_whole(lost),
    )


def window(found: Phases) -> str:
    """How long a crossing had to stay, in words."""
    more = f" and {found.evaluations} evaluations" if found.evaluations > 1 else ""
    return f"{found.sustain} steps{more}"


def has_accuracies(table: pa.Table) -> bool:
    """Whether a tidy history has what phases are made of."""
    return {"train_acc", held_out(table, "acc")} <= {*table.column_names}


def was_evaluated(table: pa.Table) -> bool:
    """Whether a tidy history says if the run grokked: it has accuracies, and one held out was measured."""
    return has_accuracies(table) and bool(np.isfinite(accuracies(table)[2]).any())


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


class _Window(NamedTuple):
    """How long a stretch must be."""

    steps: int
    evaluations: int

    def filled(self, begin: int, end: int, count: int) -> bool:
        return end - begin >= self.steps and count >= self.evaluations


def _first_stretch(
    steps: Iterable[int], holds: Iterable[bool], window: _Window
) -> tuple[int | None, int | None]:
    """Where the first unbroken stretch that fills the window begins, else the open last one."""
    start, count = None, 0
    for step, held in zip(steps, holds, strict=True):
        if not held:
            start, count = None, 0
            continue
        start, count = (step if start is None else start), count + 1
        if window.filled(start, step, count):
            return start, None
    return None, start


def _lost(steps: np.ndarray, test: np.ndarray, threshold: float, window: _Window) -> int | None:
    """Where a run that had grokked fell below the threshold for good; None where it did not."""
    end, start, count = -1, 0, 0  # `end`: the last evaluation of the last stretch above
    for index, high in enumerate(test >= threshold):
        if not high:
            count = 0
            continue
        start, count = (index if count == 0 else start), count + 1
        if window.filled(steps[start], steps[index], count):
            end = index
    rest, times = test[end + 1 :], steps[end + 1 :]
    if not rest.size:
        return None
    long = window.filled(times[0], times[-1], len(times)) and (rest < threshold).mean() >= 0.5
    return int(times[0]) if long or rest[-1] < threshold - FALL else None


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
