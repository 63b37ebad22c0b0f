"""Pictures of a grokking run from its history: curves with phases, norms, dynamics.

Tables in, figure out: nothing here needs torch. `PICTURES` lists what `cutaway plot all` draws;
pictures of weights and routing are in `inside`, of many runs in `sweep_pictures`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cutaway.base.errors import UserError
from cutaway.figures.curves import Series
from cutaway.figures.panels import Panel, panels
from cutaway.figures.recorded import Log, decades, over_blocks, recorded, rows, spread_steps
from cutaway.figures.spans import Span
from cutaway.grokking import inside

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

# Columns of the history in plain words (loss: the axis of both losses).
NAMES = {
    "loss": "loss (nats per pair)",
    "train_acc": "training accuracy",
    "test_acc": "test accuracy",
    "val_acc": "validation accuracy",
    "train_loss": "training loss (nats per pair)",
    "test_loss": "test loss (nats per pair)",
    "val_loss": "validation loss (nats per pair)",
    "train_task_loss": "training loss without penalties (nats per pair)",
    "weight_norm": "L2 norm of all weights",
    "gradient_norm": "L2 norm of the gradient",
    "weight_hessian_trace": "trace of the loss's Hessian",
    "fisher_trace": "trace of the empirical Fisher",
    "hessian_trace": "trace of the input Hessian",
    "jacobian_norm": "norm of ∂ logits / ∂ input",
    "seconds": "seconds since the start",
}
# The charts of `dynamics` in their order, by title; columns in one row share a chart.
DYNAMICS: tuple[tuple[str, dict[str, str]], ...] = (
    ("trace of the loss's Hessian", {"weight_hessian_trace": ""}),
    ("trace of the empirical Fisher", {"fisher_trace": ""}),
    ("L2 norm of the gradient", {"gradient_norm": ""}),
    ("norm of ∂ logits / ∂ input", {"jacobian_norm": ""}),
    ("trace of the input Hessian", {"hessian_trace": ""}),
    ("norm of the representation", {"representation_norm": ""}),
    ("spectral smoothness", {"spectral_smoothness": ""}),
    ("Gini of the spectra", {"spectral_concentration": "output table", "embedding_gini": "embedding"}),
    ("logit scale", {"logit_scale": ""}),
    ("effective learning rate", {"effective_lr_mean": "mean", "effective_lr_max": "max"}),
    ("Adam's signal / noise", {"adam_ratio_mean": "mean", "adam_ratio_max": "max"}),
    ("Adam's update / decay", {"update_decay_ratio": ""}),
    (
        "entropy of routing / ln n",
        {"routing_entropy": "of each input", "routing_entropy_of_mean": "of the mean"},
    ),
    ("share of heads used", {"routing_utilisation": ""}),
)  # fmt: skip
_SHARES = {  # between 0 and 1: always on a linear axis
    *("spectral_smoothness", "spectral_concentration", "embedding_gini"),
    *("routing_entropy", "routing_utilisation"),
}
_CURVES = [f"{split}_{what}" for split in ("train", "test", "val") for what in ("acc", "loss")]
_COMPONENTS = 12  # more weight norms than this are summed over blocks
_WEIGHT_NORMS = ("weight_norm.", "wn_")  # the second as in histories recorded by others


def training_curves(
    history: pa.Table, *, log_x: bool | None = None, title: str | None = None
) -> Figure:
    """Accuracy above, loss below, training and test (validation where there is no test), over the
    steps, with the phases shaded and named by their steps (`grokking.phases`, default thresholds).

    `log_x` None: steps are logarithmic, where step 0 has no place, if accuracies or losses were
    recorded at eight steps above 0 or more. Raises UserError where neither was recorded.
    """
    from cutaway.grokking.histories import held_out

    if log_x is None:
        log_x = spread_steps(history, _CURVES)
    shaded = phase_spans(history)
    charts = []
    for metric, words in (("acc", "accuracy"), ("loss", NAMES["loss"])):
        columns = {f"train_{metric}": "training"}
        other = held_out(history, metric)
        columns[other] = "test" if other.startswith("test") else "validation"
        series = _lines(history, columns, log_x)
        if series:
            # the upper chart names the phases for both
            spans = shaded if not charts else [_unnamed(span) for span in shaded]
            log_y = metric == "loss"
            bounds = (0.0, 1.0) if metric == "acc" else None
            panel = Panel(series, "step", words, log_x=log_x, log_y=log_y, spans=spans)
            charts.append(replace(panel, within=bounds))
    if not charts:
        raise UserError("nothing to draw: no accuracy and no loss in this history")
    return panels(charts, columns=1, title=title, height=2.1 * len(charts) + 0.4)


def phase_spans(history: pa.Table) -> list[Span]:
    """The phases of a history as shaded stretches, named with the steps where one ends.

    Empty where the history has no accuracies to tell them by.
    """
    from cutaway.grokking.phases import phases, was_evaluated

    try:
        found, tested = phases(history), was_evaluated(history)
    except UserError:
        return []
    memorised, grokked = found.memorised, found.grokked
    if memorised is None and grokked is None:
        return [Span("not memorised", color=0)]
    last = f"grokked from {grokked:,}" if grokked is not None else ""
    turn, end = grokked, found.lost
    after = [] if end is None else [Span(f"lost from {end:,}", end, None, 3)]
    if turn is None and found.unconfirmed is not None:
        turn, last = found.unconfirmed, f"high from {found.unconfirmed:,}, unconfirmed"
    if turn is None:
        return [
            Span(f"memorising to {memorised:,}", None, memorised, 0),
            Span("memorised, not grokked" if tested else "memorised", memorised, None, 1),
        ]
    if memorised is None or memorised >= turn:
        return [Span(f"learning to {turn:,}", None, turn, 0), Span(last, turn, end, 2), *after]
    return [
        Span(f"memorising to {memorised:,}", None, memorised, 0),
        Span(f"circuit formation to {turn:,}", memorised, turn, 1),
        Span(last, turn, end, 2),
        *after,
    ]


def weight_norms(
    history: pa.Table, *, log_x: bool | None = None, title: str | None = None
) -> Figure:
    """L2 norm of each component's weights over the steps, and of all of them, phases shaded.

    With more than twelve components the same part of all blocks is one line, √(Σ norm²). Raises
    UserError where no weight norms were recorded.
    """
    if log_x is None:
        log_x = spread_steps(history, [n for n in history.column_names if _is_weight_norm(n)])
    lines = _components(history, log_x)
    if not lines:
        raise UserError("nothing to draw: no weight_norm.<component> in this history")
    series = [Series(name, *line) for name, line in lines.items()]
    both = np.concatenate([norms for _, norms in lines.values()])
    chart = Panel(
        series,
        "step",
        "L2 norm of the weights",
        log_x=log_x,
        log_y=decades(both) > 1.5,
        spans=phase_spans(history),
    )
    return panels([chart], columns=1, title=title, height=max(3.0, 0.17 * len(series) + 1.2))


def dynamics(history: pa.Table, *, log_x: bool | None = None, title: str | None = None) -> Figure:
    """Each measure of training that was recorded, over the steps, with its standard error as a
    band (`<name>_se`), phases shaded. Raises UserError where none was.

    Effective learning rates are lr / (√v̂ + ε): larger is a larger step.
    """
    if log_x is None:
        log_x = spread_steps(history, [name for _, lines in DYNAMICS for name in lines])
    spans = phase_spans(history)
    charts = []
    for words, columns in DYNAMICS:
        series = _lines(history, columns, log_x)
        if not series:
            continue
        values = np.concatenate([one.y for one in series])
        values = values[np.isfinite(values)]
        wide = bool((values > 0).all()) and decades(values) > 1.5
        log_y = wide and not _SHARES & columns.keys()
        chart = Panel(series, "", "", words, log_x=log_x, log_y=log_y, spans=spans)
        charts.append(replace(chart, within=(0.0, 1.0) if _SHARES & columns.keys() else None))
    if not charts:
        raise UserError("nothing to draw: no measure of training in this history")
    across = min(3, len(charts))
    down = -(-len(charts) // across)
    lowest = [replace(chart, x_label="step") for chart in charts[-across:]]
    return panels(
        charts[:-across] + lowest,
        columns=across,
        title=title,
        spans_in_legend=True,
        own_names=True,
        height=1.5 * down + 0.3,
    )


def _lines(history: pa.Table, columns: dict[str, str], log_x: bool) -> list[Series]:
    """A line for each column that was recorded, with a band where its standard error was."""
    series = []
    for color, (column, words) in enumerate(columns.items()):
        if not recorded(history, column):
            continue
        steps, values = rows(history, column)
        low = high = None
        if recorded(history, f"{column}_se"):
            at, errors = rows(history, f"{column}_se")
            error = dict(zip(at.tolist(), errors.tolist()))
            spread = np.array([error.get(step, np.nan) for step in steps.tolist()])
            spread[~(np.isfinite(values) & np.isfinite(spread))] = np.nan
            low, high = values - spread, values + spread
        shown = steps > 0 if log_x else np.ones(len(steps), dtype=bool)
        if not np.isfinite(values[shown]).any():
            continue
        band = {"low": low[shown], "high": high[shown]} if low is not None else {}
        series.append(Series(words, steps[shown], values[shown], color=color, **band))
    return series


def _components(history: pa.Table, log_x: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    lines = {}
    for prefix in _WEIGHT_NORMS:
        for name in history.column_names:
            if name.startswith(prefix) and recorded(history, name):
                steps, norms = rows(history, name)
                shown = steps > 0 if log_x else np.ones(len(steps), dtype=bool)
                if np.isfinite(norms[shown]).any():
                    lines[name.removeprefix(prefix)] = (steps[shown], norms[shown])
    return over_blocks(lines, _COMPONENTS)


def _is_weight_norm(column: str) -> bool:
    return column.startswith(_WEIGHT_NORMS)


def _unnamed(span: Span) -> Span:
    return Span("", span.start, span.end, span.color)


def _curves(log: Log) -> Figure | None:
    if not _lines(log.history, dict.fromkeys(_CURVES, ""), True):
        return None
    return training_curves(log.history, title=log.name)


def _norms(log: Log) -> Figure | None:
    return weight_norms(log.history, title=log.name) if _components(log.history, True) else None


def _dynamics(log: Log) -> Figure | None:
    columns = {name: words for _, lines in DYNAMICS for name, words in lines.items()}
    if not _lines(log.history, columns, True):
        return None
    return dynamics(log.history, title=log.name)


PICTURES: dict[str, Callable[[Log], Figure | None]] = {
    "curves": _curves,
    "progress": inside.progress,
    "embedding_spectrum": inside.embedding_spectrum,
    "output_spectrum": inside.output_spectrum,
    "routing": inside.routing,
    "norms": _norms,
    "dynamics": _dynamics,
}
"""Every picture of a run by name; each draws it, or returns None where the run has nothing for it."""
