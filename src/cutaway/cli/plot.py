"""`cutaway plot`: pictures of one run or many."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cutaway.base import display
from cutaway.base.errors import UserError

if TYPE_CHECKING:
    from cutaway.runs.foreign import Log

_MANY = ("all", "sweep")  # several pictures, into a folder


def plot(
    what: str,
    *runs: str,
    out: Path,
    labels: Annotated[list[str], Parameter(consume_multiple=True, negative=())] = [],  # noqa: B006
    log_x: bool = False,
    log_y: bool | None = None,
    title: str | None = None,
) -> None:
    """Draw loss curves, any recorded figure, all pictures of a run, or those of a sweep.

    Runs may also be histories recorded by others: JSON lines, CSV, Parquet, training_log.json.
    A run among several that cannot be drawn is named and left out; one that is not there is an error.

    Args:
        what: loss, the name of a column of the history, all, or sweep.
        runs: Runs, histories or logs of others; for `sweep` a sweep's folder.
        out: A PDF, PNG or SVG file; for `all` and `sweep` a folder.
        labels: What to call the runs, in their order.
        log_x: Steps on a logarithmic axis.
        log_y: The figure on a logarithmic axis; losses are by default where they span decades.
        title: A title above the picture.
    """
    from cutaway.figures import histories
    from cutaway.figures.look import format_of, save

    if not runs:
        named = "a sweep's folder" if what == "sweep" else "at least one run, history or log"
        raise UserError(f"plot {what}: name {named}")
    if what in _MANY:
        if len(runs) > 1:
            one = "sweep" if what == "sweep" else "run"
            raise UserError(f"plot {what}: one {one} at a time, {len(runs)} given")
        if labels or log_x or log_y is not None or title:
            raise UserError(
                f"plot {what}: --labels, --log-x, --log-y and --title are for single pictures"
            )
        _require_folder(what, out)
        paths = _sweep(Path(runs[0]), out) if what == "sweep" else _all(_opened(runs[0]), out)
        for path in paths:
            display.notice(f"wrote {path}")
        return
    format_of(out)
    logs, named, refused = _drawable(what, runs, labels or None)
    if not logs:
        raise UserError("; ".join(refused))
    words = _words(logs)
    if what == "loss":
        figure = histories.loss_curves(
            logs, named, words=words, log_x=log_x, log_y=log_y, title=title
        )
    else:
        figure = histories.metric_curves(
            logs, what, named, words=words, log_x=log_x, log_y=bool(log_y), title=title
        )
    for line in refused:
        display.notice(f"not drawn: {line}")
    display.notice(f"wrote {save(figure, out)}")


def _drawable(
    what: str, runs: Sequence[str], labels: Sequence[str] | None
) -> tuple[list[Log], list[str] | None, list[str]]:
    """The logs of the runs that can be drawn, their labels, and why the others cannot."""
    from cutaway.figures import histories

    opened: list[Log | UserError] = []
    for reference in runs:
        try:
            opened += _all_of(reference)
        except UserError as error:
            if not any(os.path.lexists(place) for place in (reference, Path("runs", reference))):
                raise  # mistyped, not odd
            opened.append(error)
    if labels is not None and len(labels) != len(opened):
        raise UserError(
            f"--labels: {len(labels)} given for {len(opened)} runs; expected one for each"
        )
    logs, named, refused = [], [], []
    for index, log in enumerate(opened):
        try:
            if isinstance(log, UserError):
                raise log
            if what == "loss":
                histories.require_losses(log)
            else:
                histories.require_finite(log, what)
        except UserError as error:
            refused.append(str(error))
            continue
        logs.append(log)
        named.append(labels[index] if labels else log.name)
    return logs, named if labels else None, refused


def _opened(reference: str) -> Log:
    """The log of one run, named as failed where it failed, or of others."""
    logs = _all_of(reference)
    if len(logs) > 1:
        raise UserError(
            f"{reference}: holds {len(logs)} runs; `cutaway runs import` makes them runs"
        )
    return logs[0]


def _all_of(reference: str) -> list[Log]:
    """The logs in a file of others, or that of a run, named as failed where it failed."""
    from cutaway.runs.foreign import open_logs

    return [_called(log) for log in open_logs(reference)]


def _called(log: Log) -> Log:
    from cutaway.runs.folder import Run

    if not log.path.is_dir() or Run.open(log.path).record.status != "failed":
        return log
    reason = Run.open(log.path).record.reason
    display.notice(f"{log.name}: this run failed: {reason}; drawn is what it recorded until then")
    return replace(log, name=f"{log.name} (failed)")


def _all(log: Log, out: Path) -> list[Path]:
    """Every picture that a run or history has something for; says which cannot be drawn, and why."""
    from cutaway.figures.look import save
    from cutaway.studies.registry import pictures_of

    paths, refused = [], []
    for name, draw in pictures_of(_study(log)).items():
        try:
            figure = draw(log)
        except UserError as error:  # as of a run that diverged: nothing finite in that column
            refused.append(f"{name}: {error}")
            continue
        if figure is not None:
            paths.append(save(figure, out / f"{name}.png"))
    if not paths and refused:
        raise UserError(f"{log.path}: nothing to draw: {'; '.join(refused)}")
    for line in refused:
        display.notice(f"not drawn: {line}")
    if not paths:
        raise UserError(f"{log.path}: nothing to draw; plot NAME draws a column of its history")
    return paths


def _sweep(folder: Path, out: Path) -> list[Path]:
    from cutaway.sweeps.pictures import draw_sweep

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; plot sweep draws the runs of a sweep's folder")
    return draw_sweep(folder, out)


def _require_folder(what: str, out: Path) -> None:
    from cutaway.figures.look import FORMATS
    from cutaway.runs import places

    if out.suffix.lower().lstrip(".") in FORMATS and not out.is_dir():
        raise UserError(f"{out}: expected a folder; plot {what} draws several pictures into it")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; these pictures go into a folder")
    places.require_output(out, "pictures", suffixes=places.PICTURES)


def _study(log: Log) -> str:
    """The study whose pictures suit a log: its run's own, else what its columns speak of."""
    from cutaway.runs.folder import Run
    from cutaway.studies.registry import STUDIES

    if log.path.is_dir() and (study := Run.open(log.path).record.study) in STUDIES:
        return study
    accuracies = any(name.endswith("_acc") for name in log.history.column_names)
    return "grokking" if accuracies else "language"


def _words(logs: Sequence[Log]) -> Mapping[str, str]:
    """What the columns are called at the axes; nothing that holds for one study only where the
    runs are of several."""
    from cutaway.studies.registry import words_of

    studies = {_study(log) for log in logs}
    return words_of(studies.pop()) if len(studies) == 1 else {"loss": "loss (nats)"}
