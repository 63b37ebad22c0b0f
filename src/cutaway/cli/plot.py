"""`cutaway plot`: pictures of one run or many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cutaway.base import display
from cutaway.base.errors import UserError


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
    from cutaway.figures.look import save
    from cutaway.language import pictures
    from cutaway.runs.foreign import open_log

    if not runs:
        raise UserError(f"plot {what}: name at least one run or training_log.json")
    logs = [open_log(run) for run in runs]
    if what == "all":
        if len(logs) > 1:
            raise UserError(f"plot all: one run at a time, {len(logs)} given")
        for name, draw in pictures.PICTURES.items():
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
