"""Pictures of a sweep of dictionaries. Logs in, figures out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cutaway.dictionaries.pictures.points import against_l0, by_rising_x
from cutaway.dictionaries.pictures.runs import NAMES
from cutaway.figures import histories
from cutaway.figures.curves import Series
from cutaway.figures.recorded import Log, recorded, rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sweep_pictures(logs: Sequence[Log], groups: Sequence[str]) -> dict[str, Figure]:
    """Pictures of a sweep by name: explained variance over the steps, and where it ended against L0."""
    column = "val_explained_variance"
    shown = [index for index, log in enumerate(logs) if recorded(log.history, column)]
    if not shown:
        return {}
    chosen, names = [logs[index] for index in shown], [groups[index] for index in shown]
    figures = {
        "explained_variance": histories.group_curves(
            chosen, column, names, words=NAMES, log_x=False
        )
    }
    ends: dict[str, list[tuple[float, float]]] = {}
    for log, group in zip(chosen, names):
        if recorded(log.history, "val_l0"):
            end = tuple(float(rows(log.history, name)[1][-1]) for name in ("val_l0", column))
            if np.isfinite(end).all():
                ends.setdefault(group, []).append(end)
    if ends:
        series = [Series(name, *by_rising_x(points)) for name, points in ends.items()]
        title = "Explained variance by features per token"
        figures["explained_variance_by_l0"] = against_l0(series, NAMES["l0"], NAMES[column], title)
    return figures
