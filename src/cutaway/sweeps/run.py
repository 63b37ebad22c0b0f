"""A whole sweep in its folder: begun, gone on with, and summed up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutaway.base import files, hardware
from cutaway.base.display import notice
from cutaway.base.doors import door
from cutaway.base.errors import UserError
from cutaway.runs import checksums, places
from cutaway.runs.folder import Run
from cutaway.studies.settled import settings_of
from cutaway.studies.train import require_memory
from cutaway.sweeps import definition
from cutaway.sweeps.board import Board
from cutaway.sweeps.ensembles import require_stackable, units
from cutaway.sweeps.execute import Executed, Job, execute
from cutaway.sweeps.grid import Sweep, SweepRun
from cutaway.sweeps.summary import summarise, write_summary

_WORKER = 200_000_000  # bytes of a process that has loaded the libraries
_LOCK = ".sweep.lock"


@dataclass(frozen=True)
class Swept:
    """The chosen runs' rows (see `summarise`), and the signal that stopped the sweep, if one did."""

    rows: list[dict[str, Any]]
    signal: int | None

    @property
    def unfinished(self) -> list[dict[str, Any]]:
        """Rows of the runs that did not come to their end."""
        return [row for row in self.rows if row["status"] != "done"]


@door
def run_sweep(
    sweep: Sweep,
    out: str | Path,
    *,
    resume: bool = False,
    jobs: int = 1,
    experiment: str | None = None,
    start_from: int = 0,
    ensemble: bool | None = None,
) -> Swept:
    """Train the sweep's runs, each in `out/<its name>`, `jobs` at a time in processes of their own.

    `experiment` chooses one run or group, `start_from` the runs from an index on. `resume` skips
    runs that are done, goes on with those that are not and starts those that never began; without
    it a chosen run that exists is refused, and nothing is touched. The same bits as before need
    the same `jobs`, which share the cores. Raises UserError for a request that cannot work; what
    happens to single runs is in the rows.
    """
    out = Path(out)
    if jobs < 1:
        raise UserError(f"jobs = {jobs}: expected 1 or more")
    chosen = sweep.select(experiment, start_from)
    if ensemble:
        require_stackable(chosen)
    files.require_writable(out)
    places.require_output(out, "a sweep", (definition.FILE,), folders=True)
    whole = definition.joined(sweep, definition.read_definition(out), out)
    _require_resumable(chosen, out, resume)
    todo = [run for run in chosen if not _is_done(out / run.name)]
    _require_memory(todo, jobs)
    work = [[_job(run, out) for run in unit] for unit in units(todo, ensemble, out, jobs)]
    with _held(out):
        definition.write_definition(whole, out)
        if skipped := len(chosen) - len(todo):
            notice(f"{skipped} of {len(chosen)} runs are done already")
        executed = Executed()
        if work:
            board = Board([[job.name for job in unit] for unit in work], jobs)
            executed = execute(work, board, jobs=jobs)
        write_summary(summarise(whole.runs, out, executed.ends), out)
        checksums.finish(out)
        return Swept(summarise(chosen, out, executed.ends), executed.signal)


def _require_memory(todo: Sequence[SweepRun], jobs: int) -> None:
    """Refuse a sweep before its first run where one of its runs, or so many workers, cannot fit."""
    for run in todo:
        try:
            require_memory([run.config])
        except UserError as error:
            raise UserError(f"run {run.name}: {error}") from None
    workers = min(jobs, len(todo))
    need = hardware.Need(_WORKER * workers, "worker processes", {"jobs": jobs})
    if workers > hardware.threads():
        hardware.require_memory([need])


def _require_resumable(chosen: list[SweepRun], out: Path, resume: bool) -> None:
    """Refuse runs that exist, or, in a resume, that were begun with other settings."""
    for run in chosen:
        if not _exists(out / run.name):
            continue
        if not resume:
            raise UserError(
                f"{out}: holds runs of this sweep already ({run.name}); "
                "--resume goes on with them, or choose another --out"
            )
        try:
            before = settings_of(Run.open(out / run.name).record, type(run.config))
        except UserError:  # damaged: its own failure, which does not stop the others
            continue
        definition.require_same(run, before, out)


def _job(run: SweepRun, out: Path) -> Job:
    folder = (out / run.name).absolute()
    config = run.config.model_dump(mode="json")
    return Job(run.name, run.study, config, folder, resume=_exists(folder))


def _exists(folder: Path) -> bool:
    return (folder / "run.json").is_file()


def _is_done(folder: Path) -> bool:
    try:
        return _exists(folder) and Run.open(folder).status == "done"
    except UserError:
        return False


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """This sweep's folder, for one sweep at a time; the system frees it when the process ends."""
    from filelock import FileLock, Timeout

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot write: {error.strerror}") from None
    try:
        with FileLock(out / _LOCK, timeout=0):
            try:
                yield
            finally:  # who waits for it sees that it is gone, and makes a new one
                (out / _LOCK).unlink(missing_ok=True)
    except Timeout:
        raise UserError(f"{out}: another `cutaway sweep` is at work here") from None
