"""Pictures of a dictionary's training. Tables in, figure out: nothing here needs torch.

`PICTURES` lists what `cutaway plot all` draws.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base.named import fetch
from cutaway.dictionaries.pictures.loss import LOSS, loss_parts
from cutaway.dictionaries.pictures.training import training_comparison
from cutaway.figures.curves import Series, curves
from cutaway.figures.panels import Panel, panels
from cutaway.figures.recorded import Log, decades, recorded, rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Columns of the history in plain words; any other is shown with its underscores as spaces.
NAMES = {
    "loss": LOSS,
    "train_loss": "training loss (scaled units)",
    "reconstruction_loss": "squared error (scaled units)",
    "sparsity_loss": "sparsity penalty",
    "auxiliary_loss": "loss that revives dead features",
    "gate_loss": "squared error of the gate alone",
    "l0": "features per token",
    "normalised_mse": "normalised MSE",
    "dead_share": "share of dead features",
    "sparsity_weight": "weight of the sparsity penalty",
    "threshold": "mean threshold (scaled units)",
    "val_loss": "held-out squared error (raw units)",
    "val_score": "held-out score",
    "val_explained_variance": "held-out explained variance",
    "val_normalised_mse": "held-out normalised MSE",
    "val_cosine": "held-out cosine",
    "val_l0": "held-out features per token",
    "val_dead_share": "share of features silent on held-out tokens",
    "orthogonality_loss": "orthogonality penalty",
    "tau": "τ (a higher τ is looser)",
    "pair_cosine_mean": "mean |cosine| of selected pairs",
    "pair_cosine_std": "standard deviation of selected pairs' |cosine|",
    "pair_overlap": "overlap of selected pairs with the step before",
    "pair_half_life": "half-life of selected pairs, steps",
    "decoder_max_cosine": "mean max cosine of decoder rows",
    "mmcs": "mean max cosine of true features",
    "matched_f1": "F1 of matched features",
    "absorption": "share of parents' tokens absorbed",
    "parents_missing": "share of parents' tokens missing",
    "seconds": "seconds since the start",
}
_SHARE = (0.0, 1.0)
_PAIRS = "cutaway.orthogonality.pair_pictures"


# -- one run -------------------------------------------------------------------------------------


def l0(log: Log) -> Figure | None:
    """Features per token over the steps, in training and held out, with the target where known."""
    series = []
    for column, name, style in (("l0", "training", "light"), ("val_l0", "held out", "strong")):
        if recorded(log.history, column):
            series.append(Series(name, *rows(log.history, column), color=0, style=style))
    if not series:
        return None
    target = _setting(log, "target_l0")
    levels = {} if not target else {f"target {target:.3g}": float(target)}
    wide = (
        all((one.y > 0).all() for one in series)
        and decades(np.concatenate([o.y for o in series])) > 1
    )
    return curves(
        series, x_label="step", y_label=NAMES["l0"], log_y=wide, levels=levels, title=log.name
    )


def threshold(log: Log) -> Figure | None:
    """The mean threshold and the price of a feature over the steps."""
    charts = []
    for column in ("threshold", "sparsity_weight"):
        if recorded(log.history, column):
            at, values = rows(log.history, column)
            if column == "threshold" or np.ptp(values) > 0:  # a price that never moved says nothing
                wide = (values > 0).all() and decades(values) > 1.5
                charts.append(
                    Panel([Series("", at, values, color=0)], "step", NAMES[column], log_y=wide)
                )
    return panels(charts, title=log.name, height=2.5) if charts else None


def dead_share(log: Log) -> Figure | None:
    """Share of dead features over the steps, by training's count and on held-out tokens."""
    names = (("dead_share", "silent for long in training", 0), ("val_dead_share", "held out", 1))
    series = [
        Series(name, *rows(log.history, column), color=color)
        for column, name, color in names
        if recorded(log.history, column)
    ]
    if not series:
        return None
    label = NAMES["dead_share"]
    return curves(
        series,
        x_label="step",
        y_label=label,
        within=_SHARE,
        title=log.name,
        width="page",
        height=2.6,
    )


def held_out(log: Log) -> Figure | None:
    """Explained variance and normalised MSE of held-out tokens over the steps."""
    charts = [
        Panel([Series("", *rows(log.history, name), color=0)], "step", NAMES[name], within=within)
        for name, within in (("val_explained_variance", None), ("val_normalised_mse", None))
        if recorded(log.history, name)
    ]
    return panels(charts, title=log.name, height=2.5) if charts else None


PICTURES: dict[str, Callable[[Log], Figure | None]] = {
    "loss": loss_parts,
    "l0": l0,
    "threshold": threshold,
    "dead_share": dead_share,
    "held_out": held_out,
    "training_comparison": lambda log: training_comparison([log]),
    "pair_cosines": lambda log: fetch(f"{_PAIRS}:pair_cosines")([log]),
    "pair_stability": lambda log: fetch(f"{_PAIRS}:pair_stability")([log]),
}
"""Every picture of a run by name; each draws it, or returns None where the run has nothing for it."""


# -- inside --------------------------------------------------------------------------------------


def _setting(log: Log, name: str) -> Any:
    """A resolved setting of the run whose log this is; None where it is no run of ours."""
    from cutaway.runs import record

    path = getattr(log, "path", None)
    if path is None or not (Path(path) / record.FILE).is_file():
        return None
    return record.read(Path(path)).resolved.get("settings", {}).get(name)
