"""What dictionaries are worth over layers, and beside baselines. Evaluations in, figure out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cutaway.base.errors import UserError
from cutaway.dictionaries.pictures.points import against_l0, by_rising_x
from cutaway.dictionaries.pictures.runs import NAMES
from cutaway.evaluations.evaluate import DENSITY_EDGES
from cutaway.figures import ticks
from cutaway.figures.bars import horizontal_bars
from cutaway.figures.curves import Series, curves
from cutaway.figures.panels import Panel, panels
from cutaway.nets.quantised import dequantised
from cutaway.nets.sites import parse_site
from cutaway.stats.ties import rank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cutaway.evaluations.evaluate import Evaluation

_SHARE = (0.0, 1.0)
_CODERS = {"pca": "PCA", "random_scaled": "random, scaled", "random": "random"}


def density(evaluations: Sequence[Evaluation]) -> Figure:
    """How many features fire how often: a line per dictionary, of those not dead.

    x: on what share of tokens a feature fires; y: share of the dictionary's features per bin.
    """
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
            series.append(Series(kind if site == best else "", *by_rising_x(points), color=color))
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
            Series(name, *by_rising_x(points))
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
