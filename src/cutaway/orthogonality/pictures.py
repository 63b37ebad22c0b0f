"""Pictures of a study: its arms side by side with intervals over seeds, and one run of each arm.

A comparison in, figure out. Intervals are the comparison's own (95 %, Student's over seeds); one
that is much wider than what the means span runs out of its chart. None where there is no data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

from cutaway.base.errors import UserError
from cutaway.dictionaries.pictures.training import training_comparison
from cutaway.figures import look, ticks
from cutaway.figures.curves import legend
from cutaway.figures.direct import End, label_ends
from cutaway.figures.text import label
from cutaway.orthogonality.experiment import BASELINE, arm_of
from cutaway.orthogonality.forest import Row, reach, side_by_side
from cutaway.orthogonality.pair_pictures import pair_cosines, pair_stability
from cutaway.runs import record
from cutaway.runs.foreign import Log, open_log
from cutaway.sweeps.definition import read_definition

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

    from cutaway.orthogonality.comparison import Comparison

Arm = Mapping[str, Any]

# What is drawn of a measure: its name, and which way is better (+1: more, -1: less).
_WORDS = {
    "absorption": ("absorption", -1),
    "explained_variance": ("explained variance", 1),
    "mmcs": ("mean max cosine\nof true features", 1),
    "probing_1": ("probing accuracy, k = 1", 1),
    "decoder_max_cosine": ("mean max cosine of\ndecoder rows", -1),
}
_MOST = 4  # measures side by side
_MARKERS = "osD^v"  # of target L0s
_LEAST_PENALTY = 1e-3  # scaled units: below it nothing was paid that could be divided by


def absorption_against_variance(comparison: Comparison) -> Figure | None:
    """Absorption against explained variance: a mark per arm and target L0, bars over seeds.

    Marks of an arm are joined and have its name. Where absorption is not known (states of a real
    model) the decoder's mean max cosine, else the accuracy of sparse probing, stands in its place.
    """
    for name in ("absorption", "decoder_max_cosine", "probing_1"):
        arms = [arm for arm in comparison.arms if _has(arm, name, "explained_variance")]
        if arms:
            return _against(arms, name, list(dict.fromkeys(arm["arm"] for arm in comparison.arms)))
    return None


def efficiency(comparison: Comparison) -> Figure | None:
    """Absorption removed (baseline − arm, paired by seed) per unit of penalty, and per second.

    A unit of penalty is one of the weighted penalty as it stands in the loss at the end of
    training, in scaled units (the squared error starts at d): what is still being paid for it. Its
    share of the whole loss would say the same, but change with everything else in the loss. An arm
    that pays nothing (below 0.001) has no bar. A second is one of training as a whole, steps × time
    per step: the time that the penalty adds is within what a shared machine varies by, and a
    quotient by it means nothing. Means over seeds are divided; intervals are those of what was
    removed, divided alike.
    """
    seconds = _seconds(comparison)
    rows = []
    for arm in comparison.arms:
        if _has(arm, "absorption_change"):
            removed = -_interval(arm, "absorption_change")[[0, 2, 1]]
            paid = arm.get("orthogonality_loss") or 0.0
            took = seconds.get((arm["arm"], arm["target_l0"]))
            cells = [
                removed,
                removed / paid if paid >= _LEAST_PENALTY else None,
                removed / took if took else None,
            ]
            noise = bool(arm.get("absorption_within_noise", True))
            rows.append(Row(arm["arm"], arm["target_l0"], cells, [noise] * 3))
    if not rows:
        return None
    names = (
        "absorption removed",
        "… per unit of penalty\nin the final loss",
        "… per second\nof training",
    )
    return side_by_side(
        rows, names, (1, 1, 1), bars=True, title="Absorption removed, and its price"
    )


def differences(comparison: Comparison) -> Figure | None:
    """What each arm changed against the baseline on the same seeds, with intervals.

    Absorption, explained variance, and as far as known the mean max cosine of true features, sparse
    probing, and the decoder's mean max cosine. Grey: the interval holds 0, or there is none.
    """
    shown = [
        name for name in _WORDS if any(_has(arm, f"{name}_change") for arm in comparison.arms)
    ][:_MOST]
    rows = []
    for arm in comparison.arms:
        cells = [
            _interval(arm, f"{name}_change") if _has(arm, f"{name}_change") else None
            for name in shown
        ]
        if any(cell is not None for cell in cells):
            noise = [bool(arm.get(f"{name}_within_noise", True)) for name in shown]
            rows.append(Row(arm["arm"], arm["target_l0"], cells, noise))
    if not rows:
        return None
    names = [_WORDS[name][0] for name in shown]
    return side_by_side(
        rows,
        names,
        [_WORDS[name][1] for name in shown],
        bars=False,
        title=f"Change against the arm {BASELINE}",
    )


def study_figures(folder: Path, comparison: Comparison) -> dict[str, Figure]:
    """Every picture of a study by name, those without data left out.

    Those of single runs show each arm's first seed at the first target L0, as far as it came: one
    that failed is there with the steps it did.
    """
    logs, title = _first_logs(folder)
    drawn: dict[str, Callable[[], Figure | None]] = {
        "training_comparison": lambda: training_comparison(logs, title),
        "absorption_against_variance": lambda: absorption_against_variance(comparison),
        "efficiency": lambda: efficiency(comparison),
        "pair_cosines": lambda: pair_cosines(logs, title),
        "pair_stability": lambda: pair_stability(logs, title),
        "differences": lambda: differences(comparison),
    }
    figures = {name: draw() for name, draw in drawn.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}


# -- inside --------------------------------------------------------------------------------------


def _first_logs(folder: Path) -> tuple[list[Log], str]:
    """Logs, called by their arm, of the first run of each arm that the sweep lists, if begun."""
    import pyarrow as pa

    sweep = read_definition(folder)
    firsts: dict[str, Any] = {}
    for run in () if sweep is None else sweep.runs:
        firsts.setdefault(arm_of(run.name), run)
    logs = []
    for arm, run in firsts.items():
        try:
            record.read(folder / run.name)
        except UserError:
            continue  # not begun, or damaged: the table of runs says so
        try:
            logs.append(replace(open_log(folder / run.name), name=arm))
        except UserError:  # it has no history: not one step
            logs.append(
                Log(arm, folder / run.name, pa.table({"step": pa.array([], pa.int64())}), None)
            )
    swept = next((run.swept for run in firsts.values()), {})
    return logs, ", ".join(
        f"{word} {swept[name]:g}"
        for name, word in (("target_l0", "L0"), ("seed", "seed"))
        if name in swept
    )


def _has(arm: Arm, *names: str) -> bool:
    return all(arm.get(name) is not None and np.isfinite(arm[name]) for name in names)


def _interval(arm: Arm, name: str) -> np.ndarray:
    """Mean, low and high; NaN bounds where there is one seed."""
    return np.array([arm.get(key, np.nan) for key in (name, f"{name}_low", f"{name}_high")], float)


def _seconds(comparison: Comparison) -> dict[tuple[str, float], float]:
    """Mean time an arm's matched runs trained at a target L0, s."""
    times: dict[tuple[str, float], list[float]] = {}
    for run in comparison.runs:
        if run["matched"] and _has(run, "ms_per_step"):
            key = (run["arm"], run["target_l0"])
            times.setdefault(key, []).append(run["steps"] * run["ms_per_step"] / 1e3)
    return {key: fmean(values) for key, values in times.items()}


@look.styled()
def _against(arms: Sequence[Arm], name: str, order: Sequence[str]) -> Figure:
    figure, axes = look.new("page", 3.8)
    targets = sorted({arm["target_l0"] for arm in arms})
    marker = dict(zip(targets, _MARKERS * -(-len(targets) // len(_MARKERS))))
    ends = []
    for index, arm_name in enumerate(order):
        points = [
            (arm["target_l0"], _interval(arm, "explained_variance"), _interval(arm, name))
            for arm in arms
            if arm["arm"] == arm_name
        ]
        if not points:
            continue
        points.sort(key=lambda point: point[1][0])
        color, dash = look.series_color(index), look.series_linestyle(index)
        face = color if index < len(look.PALETTE) else look.PAPER  # a colour's second time round
        x, y = (np.array([point[axis][0] for point in points]) for axis in (1, 2))
        axes.plot(x, y, color=color, linestyle=dash, linewidth=0.8, alpha=0.5, zorder=2.1)
        for target, across, up in points:
            axes.errorbar(
                across[0],
                up[0],
                _arms_of(up),
                _arms_of(across),
                color=color,
                elinewidth=0.7,
                ecolor=(color, 0.5),
                marker=marker[target],
                markersize=4.5,
                markerfacecolor=face,
                zorder=2.3,
            )
        ends.append(End(arm_name, x[-1], y[-1], color))
    for which, key in (("x", "explained_variance"), ("y", name)):
        cells = np.array([_interval(arm, key) for arm in arms])
        limits = reach(cells[:, 0], cells[:, 1:].ravel())
        axes.set_xlim(limits) if which == "x" else axes.set_ylim(limits)
        ticks.plain(axes, which)
    word, better = _WORDS[name]
    axes.set_ylabel(
        label(word.replace("\n", " ")) + f" ({'lower' if better < 0 else 'higher'} is better)"
    )
    axes.set_xlabel("explained variance (higher is better)")
    below: dict[str, Artist] = {}
    if len(targets) > 1:
        for target in targets:
            below[f"target L0 {target:g}"] = Line2D(
                [], [], color=look.SOFT_INK, marker=marker[target], markersize=4.5, linestyle="none"
            )
    if not label_ends(figure, {axes: ends}):
        below |= {end.name: Line2D([], [], color=end.color) for end in ends}
    legend(figure, below)
    return figure


def _arms_of(cell: np.ndarray) -> list[list[float]] | None:
    """Lengths of an error bar's two arms; None without an interval."""
    mean, low, high = cell
    return [[mean - low], [high - mean]] if np.isfinite([low, high]).all() else None
