"""Pictures of a run of probes, from its tables: accuracy over layers, reliability, confusion.

Tables are pyarrow's or lists of rows, with the columns that `docs/probes.md` lists; nothing here
needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from matplotlib.lines import Line2D

from cutaway.base.errors import UserError
from cutaway.figures import look, ticks
from cutaway.figures.curves import Series, Style, curves
from cutaway.figures.panels import Panel, panels
from cutaway.figures.text import label as shown
from cutaway.nets.quantised import named
from cutaway.nets.sites import parse_site
from cutaway.probes.charts.confusion import confusion_figure
from cutaway.probes.charts.reliability import reliability_diagram
from cutaway.probes.states.report_rows import (
    Row,
    Rows,
    asked_words,
    best_site,
    interval_words,
    model_words,
    number,
    rows_of,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from cutaway.probes.states.probe import ProbeAbout
    from cutaway.runs.record import RunRecord


class Recorded(Protocol):
    """A run, as far as it is looked at here."""

    def read(self, table: str = ...) -> pa.Table | None: ...


TABLES = ("layers", "controls", "reliability", "confusion")
# Names and places in the palette, in the order of legends.
CONTROLS = {
    "mass_mean": ("difference of means", 2),
    "untrained": ("untrained model", 4),
    "token_type": ("random label per token type", 3),
    "shuffled": ("shuffled labels", 6),
    "model": ("model's own P(target)", 1),
    "current_token": ("current token alone", 5),
}
# Two kinds, so that of two lines at one height both are seen.
_ACROSS: dict[str, Style] = {"model": "dashed", "current_token": "dotted"}
_ACCURACY = "balanced accuracy (even odds)"
_BY_LAYER = "Balanced accuracy by layer"


def probes_figures(
    found: Recorded | Mapping[str, Rows], *, record: RunRecord | None = None
) -> dict[str, Figure]:
    """Every picture of a run, or of its tables by name: `accuracy_by_layer`, `reliability` and
    `confusion` of the layer best on validation. Those whose table is empty are left out.

    Titles name the task and the model where the run's `record` is known (default: the run's own).
    """
    read = found.get if isinstance(found, Mapping) else found.read
    layers, controls, bins, counts = (rows_of(read(name)) for name in TABLES)
    classes = len({row["label"] for row in counts}) or 2
    of = _of_record(record or getattr(found, "record", None))
    figures = {}
    if best_site(layers):
        title = f"{_BY_LAYER}: {of}" if of else None
        figures["accuracy_by_layer"] = accuracy_by_layer(
            layers, controls, classes=classes, title=title
        )
    if bins:
        figures["reliability"] = reliability_diagram(bins, layers, classes=classes, of=of)
    if counts:
        site = best_site(layers) or counts[0]["site"]
        figures["confusion"] = confusion_figure(counts, site, of=of)
    return figures


def probe_title(about: ProbeAbout) -> str:
    """The title of `accuracy_by_layer` for a probe's task and model."""
    asked = asked_words(about.task, about.target, about.classes)
    name = model_words(about.reference.id)
    return f"{_BY_LAYER}: {asked}, {named(name, about.reference.quantisation)}"


def accuracy_by_layer(
    layers: Rows, controls: Rows = None, *, classes: int = 2, title: str | None = None
) -> Figure:
    """Balanced accuracy over layers with its 95 % interval, the controls, and chance, 1/classes.

    Controls that have no layer are broken lines across. Attention's and MLP's outputs, where they
    were probed, have charts of their own. Where every chart would hold one layer, all values stand
    below each other instead. Raises UserError where no probe has a finite balanced accuracy.
    """
    rows = [row for row in rows_of(layers) if math.isfinite(number(row, "balanced_accuracy"))]
    if not rows:
        raise UserError("nothing to draw: no layer has a balanced accuracy")
    others = [row for row in rows_of(controls) if math.isfinite(number(row, "balanced_accuracy"))]
    title = title or _BY_LAYER
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(_kind(row), []).append(row)
    if max(len({row["layer"] for row in those}) for those in kinds.values()) == 1:
        return _below_each_other(rows, others, 1 / classes, title)
    levels = {"chance": 1 / classes}
    charts = {kind: _series(those, others, kind) for kind, those in kinds.items()}
    banded = any(one.low is not None for series in charts.values() for one in series)
    note = f"band: {interval_words(rows)}" if banded else None
    if len(charts) == 1:
        figure = curves(
            *charts.values(),
            x_label=_layers_named(rows),
            y_label=_ACCURACY,
            levels=levels,
            within=(0.0, 1.0),
            title=title,
            note=note,
            width="page",
        )
    else:
        each = [
            Panel(
                series,
                _layers_named(kinds[kind]),
                "" if index else _ACCURACY,
                kind,
                levels=levels,
                within=(0.0, 1.0),
            )
            for index, (kind, series) in enumerate(charts.items())
        ]
        figure = panels(each, columns=len(each), title=title, note=note)
        bounds = [axes.get_ylim() for axes in figure.axes]
        for axes in figure.axes:
            axes.set_ylim(min(low for low, _ in bounds), max(high for _, high in bounds))
    for axes in figure.axes:
        ticks.plain(axes, "x", whole=True)
    for line in figure.findobj(Line2D):
        if line.get_alpha():  # the light ones, of which here are few and each counts
            line.set(linewidth=1.0, alpha=0.8)
    return figure


def _layers_named(rows: Sequence[Row]) -> str:
    return "layer (−1: embeddings)" if any(row["layer"] < 0 for row in rows) else "layer"


def _series(rows: Sequence[Row], controls: Sequence[Row], kind: str) -> list[Series]:
    """The lines of one chart: the probe, controls by layer, controls without."""
    methods = {str(row.get("method") or "probe") for row in rows}
    drawn = [_line(rows, _probe_name(methods), 0, "strong", band=True)]
    ends = [min(row["layer"] for row in rows), max(row["layer"] for row in rows)]
    for name, (words, color) in CONTROLS.items():
        those = [row for row in controls if row["control"] == name]
        layered = [row for row in those if row["site"] is not None and _kind(row) == kind]
        if layered:
            drawn.append(_line(layered, words, color, "light", band=name == "shuffled"))
        drawn += [
            Series(
                words,
                ends,
                [row["balanced_accuracy"]] * 2,
                color=color,
                style=_ACROSS.get(name, "dashed"),
            )
            for row in those
            if row["site"] is None
        ]
    return drawn


def _line(rows: Sequence[Row], name: str, color: int, style: Style, band: bool) -> Series:
    rows = sorted(rows, key=lambda row: row["layer"])
    names = ("balanced_accuracy", "low", "high")
    y, low, high = (np.array([number(row, one) for row in rows]) for one in names)
    banded = band and bool(np.isfinite(low).any())
    at = [row["layer"] for row in rows]
    bounds = {"low": low, "high": high} if banded else {}
    return Series(name, at, y, color=color, style=style, **bounds)


def _of_record(record: RunRecord | None) -> str:
    """Task and model of a run, as far as its record tells."""
    if record is None:
        return ""
    known = record.resolved
    said = []
    if known.get("task") and known.get("classes"):
        said.append(asked_words(known["task"], known.get("target"), known["classes"]))
    if record.parents and record.parents[0].get("id"):
        of = record.parents[0]
        said.append(named(model_words(of["id"]), of.get("quantisation")))
    return ", ".join(said)


@look.styled()
def _below_each_other(
    rows: Sequence[Row], controls: Sequence[Row], chance: float, title: str
) -> Figure:
    """A dot with its interval for each value: one layer has no line."""
    several = len(rows) > 1
    entries = []
    for row in rows:
        name = _probe_name({str(row.get("method") or "probe")})
        entries.append((f"{name}, {row['site']}" if several else name, 0, row))
        for control, (words, color) in CONTROLS.items():
            entries += [
                (f"{words}, {row['site']}" if several else words, color, one)
                for one in controls
                if one["control"] == control and one["site"] == row["site"]
            ]
    for control, (words, color) in CONTROLS.items():
        entries += [
            (words, color, one)
            for one in controls
            if one["control"] == control and one["site"] is None
        ]
    height = 0.2 * len(entries) + 0.75
    figure, axes = look.new("page", max(height, 1.2))
    for place, (_, color, row) in enumerate(entries):
        value, low, high = (number(row, one) for one in ("balanced_accuracy", "low", "high"))
        tint = look.series_color(color)
        if math.isfinite(low) and math.isfinite(high):
            axes.plot([low, high], [place, place], color=tint, linewidth=3, alpha=0.3)
        axes.plot([value], [place], "o", color=tint, markersize=4.5)
        right = high if math.isfinite(high) else value
        axes.annotate(
            f"{value:.3f}",
            (max(value, right), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.set_yticks(range(len(entries)), [shown(name, 200, 7) for name, *_ in entries])
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.axvline(chance, color=look.SOFT_INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(
        "chance", (chance, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
        textcoords="offset points", ha="center", fontsize=7, color=look.SOFT_INK,
    )  # fmt: skip
    axes.margins(x=0.1)
    ticks.plain(axes, "x")
    axes.set_xlabel(_ACCURACY)
    site = "" if several else f", {rows[0]['site']}"
    axes.set_title(shown(title.replace(" by layer", site), 400, 8.5), pad=14)
    if any(math.isfinite(number(row, "low")) for *_, row in entries):
        look.add_note(figure, f"bar: {interval_words(rows)}")
    return figure


def _kind(row: Row) -> str:
    """Which chart a site belongs to; embeddings are where the residual stream begins."""
    kind = parse_site(row["site"]).kind
    return "residual" if kind == "embed" else kind


def _probe_name(methods: Iterable[str]) -> str:
    return "MLP probe" if set(methods) == {"mlp"} else "probe"
