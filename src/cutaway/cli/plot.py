"""`cutaway plot`: pictures of one run or many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cutaway.base import display
from cutaway.base.errors import UserError

if TYPE_CHECKING:
    from cutaway.runs.foreign import Log


def plot(
    what: str,
    *runs: str,
    out: Path,
    labels: Annotated[list[str], Parameter(consume_multiple=True, negative=())] = [],  # noqa: B006
    log_x: bool = False,
    log_y: bool = False,
    title: str | None = None,
) -> None:
    """Draw loss curves, any recorded figure, or all pictures of a run.

    Args:
        what: loss, the name of a column of the history, or all.
        runs: Runs, or training_log.json files written by anyone.
        out: A PDF, PNG or SVG file; for `all` a folder.
        labels: What to call the runs, in their order.
        log_x: Steps on a logarithmic axis.
        log_y: The figure on a logarithmic axis.
    """
    from cutaway.figures.look import format_of, save
    from cutaway.language import pictures
    from cutaway.runs.foreign import open_log
    from cutaway.studies.registry import pictures_of

    if not runs:
        raise UserError(f"plot {what}: name at least one run or training_log.json")
    if what != "all":
        format_of(out)
    logs = [open_log(run) for run in runs]
    if what == "all":
        if len(logs) > 1:
            raise UserError(f"plot all: one run at a time, {len(logs)} given")
        if labels or log_x or log_y or title:
            raise UserError(
                "plot all: --labels, --log-x, --log-y and --title are for single pictures"
            )
        for name, draw in pictures_of(_study(logs[0])).items():
            figure = draw(logs[0])
            if figure is not None:
                display.notice(f"wrote {save(figure, out / f'{name}.png')}")
        return
    if what == "loss":
        figure = pictures.loss_curves(logs, labels or None, log_x=log_x, log_y=log_y, title=title)
    else:
        figure = pictures.metric_curves(
            logs, what, labels or None, log_x=log_x, log_y=log_y, title=title
        )
    display.notice(f"wrote {save(figure, out)}")


def _study(log: Log) -> str:
    """The study whose pictures suit a log: its run's own, language for a training_log.json."""
    from cutaway.runs.folder import Run

    return Run.open(log.path).record.study if log.path.is_dir() else "language"
