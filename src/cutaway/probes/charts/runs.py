"""Pictures of probes that were trained by steps: loss and balanced accuracy of every layer.

Tables in, figure out: nothing here needs torch. `PICTURES` lists what `cutaway plot all` draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cutaway.figures import histories
from cutaway.figures.curves import Series, curves
from cutaway.figures.recorded import Log, recorded, rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Columns of the history in plain words; any other is shown with its underscores as spaces.
NAMES = {
    "loss": "weighted loss (nats), mean of layers",
    "train_loss": "training loss (nats), mean of layers",
    "val_loss": "validation loss (nats), mean of layers",
    "val_balanced_accuracy": "validation balanced accuracy (even odds)",
    "val_recall": "share found of the positive examples (even odds)",
    "val_specificity": "share left alone of the others (even odds)",
    "seconds": "seconds since the start",
}
_SHARE = (0.0, 1.0)


def loss(log: Log) -> Figure | None:
    """Training and validation loss over the steps, the mean of the layers."""
    if not any(recorded(log.history, name) for name in ("train_loss", "val_loss")):
        return None
    return histories.loss_curves([log], words=NAMES, title=log.name)


def layer_losses(log: Log) -> Figure | None:
    """Validation loss of every layer over the steps."""
    return _by_site(log, "val_loss", "validation loss (nats)")


def balanced_accuracy(log: Log) -> Figure | None:
    """Balanced accuracy on validation of every layer over the steps, chance as a line."""
    label = NAMES["val_balanced_accuracy"]
    return _by_site(log, "val_balanced_accuracy", label, within=_SHARE)


PICTURES: dict[str, Callable[[Log], Figure | None]] = {
    "loss": loss,
    "layer_losses": layer_losses,
    "balanced_accuracy": balanced_accuracy,
}
"""Every picture of a run by name; each draws it, or returns None where the run has nothing for it."""


def sweep_pictures(logs: Sequence[Log], groups: Sequence[str]) -> dict[str, Figure]:
    """Pictures of a sweep by name: balanced accuracy of its runs, the mean of their layers."""
    column = "val_balanced_accuracy"
    shown = [index for index, log in enumerate(logs) if recorded(log.history, column)]
    if not shown:
        return {}
    chosen, names = [logs[index] for index in shown], [groups[index] for index in shown]
    return {
        "balanced_accuracy": histories.group_curves(chosen, column, names, words=NAMES, log_x=False)
    }


def _by_site(
    log: Log, column: str, label: str, within: tuple[float, float] | None = None
) -> Figure | None:
    """A line for each site that recorded `column`, named with its last value."""
    series = []
    for name in log.history.column_names:
        if name.startswith(f"{column}.") and recorded(log.history, name):
            at, values = rows(log.history, name)
            last = values[np.isfinite(values)][-1]
            text = f"{last:.1%}" if within else f"{last:.3f}"
            series.append(Series(f"{name[len(column) + 1 :]} {text}", at, values))
    if not series:
        return None
    return curves(
        series, x_label="step", y_label=label, within=within, title=log.name, width="page"
    )
