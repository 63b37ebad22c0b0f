"""Pictures of a dictionary's training, and of what dictionaries are worth over layers.

Tables and evaluations in, figure out: nothing here needs torch. `PICTURES` lists what
`cutaway plot all` draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cutaway.base.errors import UserError
from cutaway.dictionaries.experiments.pair_pictures import pair_cosines, pair_stability
from cutaway.dictionaries.experiments.training_pictures import training_comparison
from cutaway.dictionaries.loss_picture import LOSS, loss_parts
from cutaway.dictionaries.points import against_l0
from cutaway.figures import histories, ticks
from cutaway.figures.bars import horizontal_bars
from cutaway.figures.curves import Series, curves
from cutaway.figures.panels import Panel, panels
from cutaway.figures.recorded import decades, recorded, rows
from cutaway.nets.quantised import dequantised
from cutaway.nets.sites import parse_site
from cutaway.stats.ties import rank

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from cutaway.dictionaries.evaluation import Evaluation


class Log(Protocol):
    """What a picture needs of a run or of a training log (`cutaway.runs.foreign.Log` has it)."""

    @property
    def name(self) -> str: ...
    @property
    def history(self) -> pa.Table: ...
    @property
    def path(self) -> Path: ...


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
_CODERS = {"pca": "PCA", "random_scaled": "random, scaled", "random": "random"}


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
    "pair_cosines": lambda log: pair_cosines([log]),
    "pair_stability": lambda log: pair_stability([log]),
}
"""Every picture of a run by name; each draws it, or returns None where the run has nothing for it."""


# -- many runs -----------------------------------------------------------------------------------


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
        series = [Series(name, *_columns(points)) for name, points in ends.items()]
        title = "Explained variance by features per token"
        figures["explained_variance_by_l0"] = against_l0(series, NAMES["l0"], NAMES[column], title)
    return figures


def density(evaluations: Sequence[Evaluation]) -> Figure:
    """How many features fire how often: a line per dictionary, of those not dead.

    x: on what share of tokens a feature fires; y: share of the dictionary's features per bin.
    """
    from cutaway.dictionaries.evaluation import DENSITY_EDGES

    if not evaluations:
        raise UserError("nothing to draw: no evaluations given")
    # two bins in one: narrower ones fall between what one and two firings are a share of
    edges = np.log10(DENSITY_EDGES)[::2]
    centres = 10 ** ((edges[1:] + edges[:-1]) / 2)
    counts = np.array([one.density_counts for one in evaluations])
    counts = counts.reshape(len(evaluations), -1, 2).sum(2)
    held = np.flatnonzero(counts.any(0))
    if not len(held):
        raise UserError("nothing to draw: every feature is dead")
    shown = slice(max(0, held[0] - 1), held[-1] + 2)
    series = [
        Series(name, centres[shown], row[shown] / one.d_hidden)
        for name, row, one in zip(_names(evaluations), counts, evaluations)
    ]
    figure = curves(
        series,
        x_label="share of tokens a feature fires on",
        y_label="share of features, per half decade",
        log_x=True,
        title=f"Density of features{_weights(evaluations)}",
        width="page",
    )
    figure.axes[0].xaxis.set_major_formatter(lambda value, place: ticks.scientific(value))
    return figure


def ev_against_l0(evaluations: Sequence[Evaluation]) -> Figure:
    """Explained variance against features per token, a colour per kind, baselines beside it.

    Every point is a dictionary or a baseline of it; those of one site are joined, and named where
    there are several.
    """
    if not evaluations:
        raise UserError("nothing to draw: no evaluations given")
    kinds: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for one in evaluations:
        points = {one.architecture: (one.l0, one.explained_variance)}
        for name, word in _CODERS.items():
            if name in one.baselines:
                found = one.baselines[name]
                points[word] = (found["l0"], found["explained_variance"])
        for kind, point in points.items():
            kinds.setdefault(kind, {}).setdefault(one.site, []).append(point)
    series = []
    for color, (kind, sites) in enumerate(kinds.items()):
        # named once, at its best point
        best = max(sites, key=lambda site: max(rank(ev) for _, ev in sites[site]))
        for site, points in sites.items():
            series.append(Series(kind if site == best else "", *_columns(points), color=color))
    own = {one.site: (one.l0, one.explained_variance) for one in evaluations}
    names = {point: site for site, point in own.items()} if len(own) > 1 else {}
    title = f"Explained variance by features per token{_weights(evaluations)}"
    return against_l0(series, NAMES["l0"], "explained variance", title, names)


def _weights(evaluations: Sequence[Evaluation]) -> str:
    """How the weights of the models were stored, for a title; empty where none was quantised."""
    words = sorted({dequantised(one.quantisation) for one in evaluations if one.quantisation})
    return f" ({', '.join(words)})" if words else ""


def layer_bars(evaluations: Sequence[Evaluation], target: float | None = None) -> Figure:
    """What dictionaries are worth by layer, baselines beside: lines over layers, bars for one site.

    Explained variance, cross-entropy recovered, features per token (from 0, with the `target` they
    were trained for), dead share.
    """
    if not evaluations:
        raise UserError("nothing to draw: no evaluations given")
    if len({one.site for one in evaluations}) == 1 or any(one.ground_truth for one in evaluations):
        return _bars(evaluations)  # one layer, or none: synthetic states
    charts = []
    for key, label in (
        ("explained_variance", "explained variance"),
        ("ce_recovered", "cross-entropy recovered"),
        ("l0", "features per token"),
        ("dead_share", "share of dead features"),
    ):
        lines: dict[str, list[tuple[float, float]]] = {}
        for one in evaluations:
            site = parse_site(one.site)
            kind = (
                one.architecture
                if site.kind in ("residual", "embed")
                else f"{one.architecture}, {site.kind}"
            )
            lines.setdefault(kind, []).append((site.layer, getattr(one, key)))
            # below 0 a baseline is worse than none, and would press the rest together
            for name in ("pca", "random_scaled") if key not in ("l0", "dead_share") else ():
                if name in one.baselines:
                    word = _CODERS[name] + kind.removeprefix(one.architecture)
                    lines.setdefault(word, []).append((site.layer, one.baselines[name][key]))
        series = [
            Series(name, *_columns(points))
            for name, points in lines.items()
            if np.isfinite([value for _, value in points]).any()
        ]
        if series:
            within = _SHARE if key == "dead_share" else None
            levels = {f"target {target:.3g}": target} if key == "l0" and target else {}
            charts.append(
                Panel(
                    series,
                    "layer (-1: embeddings)" if _embedded(evaluations) else "layer",
                    label,
                    within=within,
                    levels=levels,
                )
            )
    figure = panels(charts, title=f"Dictionaries by layer{_weights(evaluations)}")
    for axes, chart in zip(figure.axes, charts, strict=True):
        ticks.plain(axes, "x", whole=True)
        if chart.y_label == NAMES["l0"]:  # names are in the legend, so that limits may move
            axes.set_ylim(0, 1.15 * max([target or 0.0, *(one.l0 for one in evaluations)]))
    return figure


def _bars(evaluations: Sequence[Evaluation]) -> Figure:
    labels, values = [], []
    sites = list(dict.fromkeys(one.site for one in evaluations))
    for one, name in zip(evaluations, _names(evaluations)):
        own = name.removeprefix(one.site).strip() or one.architecture
        labels.append(own if len(sites) == 1 else f"{one.site}: {own}")
        values.append(one.explained_variance)
        for key, word in _CODERS.items():
            if key in one.baselines:
                labels.append(f"{word}, L0 {one.baselines[key]['l0']:.3g}")
                values.append(one.baselines[key]["explained_variance"])
    return horizontal_bars(
        labels,
        values,
        x_label="explained variance",
        title=", ".join(sites) + _weights(evaluations),
        width="page",
    )


# -- inside --------------------------------------------------------------------------------------


def _columns(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Points as x and y, by rising x."""
    x, y = np.array(sorted(points)).T
    return x, y


def _names(evaluations: Sequence[Evaluation]) -> list[str]:
    """Sites, with what else tells dictionaries of one site apart."""
    names = [one.site for one in evaluations]
    for more in ("architecture", "d_hidden", "l0"):
        if len(set(names)) == len(names):
            break
        values = [getattr(one, more) for one in evaluations]
        if len(set(values)) > 1:
            words = [f"L0 {value:.3g}" if more == "l0" else str(value) for value in values]
            names = [f"{name} {word}" for name, word in zip(names, words)]
    return names


def _embedded(evaluations: Sequence[Evaluation]) -> bool:
    return any(one.site == "embed" for one in evaluations)


def _setting(log: Log, name: str) -> Any:
    """A resolved setting of the run whose log this is; None where it is no run of ours."""
    from cutaway.runs import record

    path = getattr(log, "path", None)
    if path is None or not (Path(path) / record.FILE).is_file():
        return None
    return record.read(Path(path)).resolved.get("settings", {}).get(name)
