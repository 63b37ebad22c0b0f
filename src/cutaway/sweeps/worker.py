"""A sweep's worker: a process that trains one unit of runs after the other, as told through a pipe.

It imports torch once, tells of progress and notices at most so often that the pipe stays idle, and
ends when the pipe does: a sweep that was killed leaves no worker that starts further runs.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from cutaway.base import display, progress, signals
from cutaway.base.errors import CutawayError, Interrupted, RunFailed, UserError

if TYPE_CHECKING:
    from cutaway.runs.folder import Run
    from cutaway.runs.record import RunRecord

_EVERY = 0.25  # seconds between two messages of progress
_RELEASE = 30.0  # seconds in which a killed sweep's worker lets go of a run
_ORPHAN = 60.0  # seconds after which a worker whose sweep is gone no longer waits for its step


class Worker:
    """Reads units from `connection` and answers with messages, all of them JSON.

    In: `{"unit": [job, ...]}`, a job being `{"study", "config", "out", "resume"}`.
    Out: `{"progress": {...}}`, `{"notice": text}`, `{"ended": [[status, reason], ...]}`.
    """

    def __init__(self, connection: Connection):
        self.connection = connection
        self.units: queue.SimpleQueue[list[dict[str, Any]] | None] = queue.SimpleQueue()
        self.stopping = False
        self.interruptible = False
        self.told = 0.0

    def serve(self) -> None:
        """Train what comes until the pipe ends or a signal asks to stop."""
        for number in signals.stopping():
            signal.signal(number, self._asked)
        display.notices_to.set(lambda text: self.send("notice", text))
        progress.progress_to.set(self._progress)
        threading.Thread(target=self._read, name="units", daemon=True).start()
        while not self.stopping and (unit := self.units.get()) is not None:
            self.told = 0.0
            self.send("ended", self._train(unit))
            _free_memory()

    def send(self, kind: str, content: Any) -> None:
        """One message; a sweep that is gone hears nothing."""
        before, self.interruptible = self.interruptible, False  # never half a message
        try:
            self.connection.send_bytes(json.dumps({kind: content}).encode())
        except OSError:
            pass
        finally:
            self.interruptible = before
        if before and self.stopping:
            raise KeyboardInterrupt

    def _asked(self, number: int, frame: FrameType | None) -> None:
        """A signal before a run's first step; while it trains the loop has its own handler."""
        self.stopping = True
        if self.interruptible:
            raise KeyboardInterrupt
        self.units.put(None)

    def _read(self) -> None:
        try:
            while True:
                self.units.put(json.loads(self.connection.recv_bytes())["unit"])
        except (EOFError, OSError):
            self.units.put(None)
        # The sweep is gone, or is done with this worker: a run at work is stopped in order.
        self.stopping = True
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ORPHAN)
        os.kill(os.getpid(), signal.SIGKILL)

    def _train(self, unit: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None]]:
        before = [_record(job) for job in unit]
        try:
            self.interruptible = True
            if self.stopping:  # asked between two units
                raise KeyboardInterrupt
            return _train(unit)
        except Interrupted as error:
            self.stopping = True
            status, reason = "interrupted", error.name
        except KeyboardInterrupt:
            self.stopping = True
            status, reason = "interrupted", "stopped before its first step"
        except RunFailed as error:
            where = "" if error.step is None else f"step {error.step}: "
            status, reason = "failed", where + error.reason
        except CutawayError as error:
            status, reason = "failed", str(error)
        except Exception as error:
            status, reason = "failed", f"{type(error).__name__}: {error}"
        finally:
            self.interruptible = False
        return [_unless_ended(job, was, status, reason) for job, was in zip(unit, before)]

    def _progress(self, bar: progress.Progress) -> None:
        now = time.monotonic()
        if now - self.told >= _EVERY:
            self.told = now
            told = {"title": bar.title, "done": bar.done, "total": bar.total, "unit": bar.unit}
            self.send("progress", told | {"rate": bar.rate(now), "figures": dict(bar.figures)})


def _train(unit: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None]]:
    from cutaway.studies.registry import config_of
    from cutaway.studies.settings import resolve
    from cutaway.studies.together import train_together
    from cutaway.studies.train import train

    study, outs = unit[0]["study"], [Path(job["out"]) for job in unit]
    for out in outs:
        _await_release(out)
    resume = any(job["resume"] for job in unit)
    configs = [resolve(config_of(study), job["config"]) for job in unit]
    if len(unit) == 1:
        runs: list[Run | UserError] = [train(study, configs[0], outs[0], resume=resume)]
    else:
        runs = train_together(study, configs, outs, resume=resume)
    return [_end(run) for run in runs]


def _end(run: Run | UserError) -> tuple[str, str | None]:
    """How a run ended, or that it could not start."""
    if isinstance(run, UserError):
        return "failed", str(run)
    written = _record({"out": run.path})
    said = "no record" if written is None else written.status
    if said != run.record.status:
        return "failed", f"it ended as {run.record.status}, but on the disk it is {said}"
    return run.record.status, run.record.reason


def _record(job: Mapping[str, Any]) -> RunRecord | None:
    """A run's record as it is on the disk; None where there is none that can be read."""
    from cutaway.runs.folder import Run

    try:
        return Run.open(job["out"]).record
    except UserError:
        return None


def _unless_ended(
    job: Mapping[str, Any], before: RunRecord | None, status: str, reason: str | None
) -> tuple[str, str | None]:
    """How a run of a unit that was cut short ended: a member that was done or had failed by
    itself since `before` stays so, with its own reason."""
    record = _record(job)
    if record is not None and record.status in ("done", "failed") and record != before:
        return record.status, record.reason
    return status, reason


def _await_release(out: Path) -> None:
    """Wait while a worker of a sweep that was killed still ends its step and saves."""
    from cutaway.runs import lock

    began = time.monotonic()
    while lock.alive(out) and time.monotonic() - began < _RELEASE:
        time.sleep(0.1)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main(handle: int, threads: int) -> None:
    """A worker process: `handle` is its end of the pipe, `threads` what it may use."""
    connection = Connection(handle)
    import torch

    torch.set_num_threads(threads)
    Worker(connection).serve()
    os._exit(0)  # every run is closed, and taking torch apart takes a second
