"""What all runs of a sweep show together: pictures and advice, from its folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.runs import record
from cutaway.runs.folder import Run
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
    """The logs of the runs that have recorded something or failed, in the sweep's order, and their
    groups; of a run that failed before its first row the history has no rows."""
    planned = tuple(run.swept for run in sweep.runs)
    logs, groups = [], []
    for run in sweep.runs:
        log = _log(folder / run.name)
        if log is not None:
            logs.append(replace(log, planned=planned))
            groups.append(run.group)
    return logs, groups


def _log(folder: Path) -> Log | None:
    """None for a run that was not begun or has recorded nothing yet, and for one that cannot be
    read or whose history is none, which is announced."""
    import pyarrow as pa

    from cutaway.tables.tidy import tidy

    try:
        log = open_log(folder)
        if log.history.num_rows:
            tidy(log.history, log.name)
    except UserError as error:
        try:
            run = Run.open(folder)
        except UserError:
            if os.path.lexists(folder / record.FILE):
                notice(f"{error}; skipped")
            return None
        if run.record.status == "failed":
            nothing = pa.table({"step": pa.array([], pa.int64())})
            return Log(folder.name, folder, nothing, None)
        if run.tables():
            notice(f"{error}; skipped")
        return None
    return log if log.history.num_rows else None
