"""The loss of a dictionary's training and its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutaway.figures.curves import Series, Style
from cutaway.figures.panels import Panel, panels
from cutaway.figures.recorded import Log, decades, recorded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSS = "loss (scaled units)"
_PENALTIES = {
    "sparsity_loss": "sparsity",
    "auxiliary_loss": "dead features",
    "gate_loss": "gate",
    "orthogonality_loss": "orthogonality",
}


def loss_parts(log: Log) -> Figure | None:
    """The loss and its parts over the steps: squared error on the left, penalties on the right.

    A part that is not in every step's loss, as that for dead features, has gaps; where it comes and
    goes the whole loss is drawn without it.
    """
    parts = {name: _part(log, name) for name in ("train_loss", "reconstruction_loss", *_PENALTIES)}
    (at, whole), revived = parts["train_loss"], parts["auxiliary_loss"][1]
    word, there = "whole loss", np.isfinite(revived)
    if there.any() and not there[there.argmax() :].all() and len(revived) == len(whole):
        word = "whole loss, no AuxK"
        parts["train_loss"] = at, whole - np.where(there, revived, 0.0)
    left = {word: "train_loss", "squared error": "reconstruction_loss"}
    right = {word: name for name, word in _PENALTIES.items()}
    charts = [
        _parts({word: parts[name] for word, name in left.items()}, LOSS),
        _parts({word: parts[name] for word, name in right.items()}, "penalties"),
    ]
    found = [chart for chart in charts if chart is not None]
    return panels(found, title=log.name, height=2.6) if found else None


def _part(log: Log, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps whose loss was recorded and a part of it there, NaN where it has none; or nothing."""
    import pyarrow.compute as pc

    if not recorded(log.history, column):
        return np.empty(0), np.empty(0)
    table = log.history
    if recorded(table, "train_loss"):
        table = table.filter(pc.is_valid(table["train_loss"]))
    return table["step"].to_numpy(), table[column].to_numpy().astype(float)


def _parts(columns: dict[str, tuple[np.ndarray, np.ndarray]], label: str) -> Panel | None:
    series = []
    for name, (at, values) in columns.items():
        if np.nan_to_num(values).any():
            style: Style = "light" if name.startswith("whole") else "strong"
            series.append(Series(name, at, values, color=len(series), style=style))
    if not series:
        return None
    values = np.concatenate([one.y for one in series])
    wide = (values[np.isfinite(values)] > 0).all() and decades(values) > 1
    return Panel(series, "step", label, log_y=wide)
