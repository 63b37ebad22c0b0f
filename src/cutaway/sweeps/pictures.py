"""What all runs of a sweep show together: pictures and advice, from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cutaway.base.errors import UserError
from cutaway.runs.foreign import Log, open_log
from cutaway.studies.registry import sweep_advice_of, sweep_pictures_of
from cutaway.sweeps import definition
from cutaway.sweeps.grid import Sweep

FOLDER = "figures"


def draw_sweep(folder: Path, out: Path, ending: str = "png") -> list[Path]:
    """Draw what the runs in a sweep's `folder` have come to, into `out`; returns the files.

    Which pictures there are is the study's to say. Raises UserError for a folder without a sweep,
    or where nothing has been recorded.
    """
    from cutaway.figures.look import save

    sweep = swept(folder)
    logs, groups = recorded_runs(sweep, folder)
    figures = sweep_pictures_of(sweep.study)(logs, groups)
    if not figures:
        raise UserError(f"{folder}: no run of this sweep has recorded anything to draw")
    return [save(figure, out / f"{name}.{ending}") for name, figure in figures.items()]


def advise(sweep: Sweep, folder: Path) -> list[str]:
    """What the study says of the sweep's runs together, from what they recorded."""
    return sweep_advice_of(sweep.study)(*recorded_runs(sweep, folder))


def swept(folder: Path) -> Sweep:
    """The sweep that was begun in `folder`."""
    sweep = definition.read_definition(folder)
    if sweep is None:
        raise UserError(f"{folder}: holds no sweep (no {definition.FILE} there)")
    return sweep


def recorded_runs(sweep: Sweep, folder: Path) -> tuple[Sequence[Log], Sequence[str]]:
    """The logs of the runs that have a history, in the sweep's order, and their groups."""
    logs, groups = [], []
    for run in sweep.runs:
        try:
            log = open_log(folder / run.name)
        except UserError:  # not begun, nothing recorded, or damaged: its row in the summary says
            continue
        if log.history.num_rows:
            logs.append(log)
            groups.append(run.group)
    return logs, groups
