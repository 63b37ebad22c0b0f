"""Training units of runs in worker processes: whatever happens to one, the others go on.

A unit is a list of runs that train together (one run, or an ensemble). A worker is a fresh Python
process in a session of its own, so that Ctrl-C reaches it through here only, kept over many units
so that torch is loaded once. `multiprocessing` is not used to start it: that would run the
caller's main module again in every worker, and could not set its threads before torch loads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

from cutaway.base import signals
from cutaway.base.errors import UserError, whole_in
from cutaway.base.hardware import threads
from cutaway.runs.folder import Run
from cutaway.sweeps.board import Board

_TICK = 0.2  # seconds between looks at signals and the board
_GRACE = 5.0  # seconds for a worker to end by itself, or after a second Ctrl-C
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from cutaway.sweeps.worker import main
main(int(sys.argv[2]), int(sys.argv[3]))
"""


@dataclass(frozen=True)
class Job:
    """A run to train: plain data, so that it may go to any process."""

    name: str
    study: str
    config: dict[str, Any]
    out: Path
    resume: bool

    def message(self) -> dict[str, Any]:
        """What a worker needs of it."""
        return {
            "study": self.study,
            "config": self.config,
            "out": str(self.out),
            "resume": self.resume,
        }


@dataclass(frozen=True)
class End:
    """How a run ended here: done, failed or interrupted, and why."""

    status: str
    reason: str | None = None


@dataclass
class Executed:
    """The ends of the runs that were started, by name; the signal that stopped the sweep, if any."""

    ends: dict[str, End] = field(default_factory=dict)
    signal: int | None = None


def execute(work: Sequence[Sequence[Job]], board: Board, *, jobs: int = 1) -> Executed:
    """Train every unit, `jobs` at a time, each in a worker with its share of the cores.

    A run that fails, or whose worker dies, is told so in its `End` and the rest go on. Ctrl-C or
    SIGTERM or SIGHUP interrupts the runs at work (each saves and can be resumed) and starts no others; a
    second one stops them at once.
    """
    jobs = max(1, min(jobs, len(work)))
    pool = _Pool(deque(work), board, _share(jobs))
    with _signals() as asked, board:
        try:
            for _ in range(jobs):
                pool.hire()
            while pool.workers:
                pool.listen()
                if len(asked) > pool.forwarded:
                    pool.forward(asked)
                board.tick()
        finally:
            pool.dismiss()
    return Executed(pool.ends, asked[0] if asked else None)


class _Worker:
    """A worker process, this side of its pipe, and the unit it is at."""

    def __init__(self, cores: int):
        self.connection, other = Pipe()
        # what libraries print; read if the process dies
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self.unit: Sequence[Job] = ()
        environment = {**os.environ, "OMP_NUM_THREADS": str(cores)}
        handle = str(other.fileno())
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, json.dumps(sys.path), handle, str(cores)],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            pass_fds=[other.fileno()],
            env=environment,
            start_new_session=True,
        )
        other.close()

    def give(self, unit: Sequence[Job]) -> None:
        self.unit = unit
        try:
            self.connection.send_bytes(json.dumps({"unit": [j.message() for j in unit]}).encode())
        except OSError:
            pass  # it is dead, which shows when it is listened to

    def receive(self) -> tuple[str, Any] | None:
        """The next message; None when the process is gone."""
        try:
            return next(iter(json.loads(self.connection.recv_bytes()).items()))
        except (EOFError, OSError, ValueError):
            return None

    def death(self) -> str:
        """Why a process that is gone went, in one line."""
        try:
            code = self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if code < 0:
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"its process was killed by {signal.Signals(-code).name}{hint}"
        self.log.seek(0)
        lines = self.log.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"its process ended with code {code}" + (f": {last}" if last else "")

    def close(self) -> None:
        """End the process: it goes by itself when its pipe ends."""
        self.connection.close()
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class _Pool:
    """Workers and what is left to do."""

    def __init__(self, waiting: deque[Sequence[Job]], board: Board, cores: int):
        self.waiting, self.board, self.cores = waiting, board, cores
        self.workers: list[_Worker] = []
        self.ends: dict[str, End] = {}
        self.forwarded = 0
        self.kill_at = float("inf")

    def hire(self) -> None:
        """A new worker for the next unit."""
        if self.waiting:
            worker = _Worker(self.cores)
            self.workers.append(worker)
            self._next(worker)

    def listen(self) -> None:
        """Hear the workers, at most for a moment; replace those that died."""
        by_connection = {worker.connection: worker for worker in self.workers}
        for connection in wait(list(by_connection), _TICK):
            worker = by_connection[connection]
            message = worker.receive()
            if message is None:
                self._died(worker)
                continue
            kind, content = message
            if kind == "progress":
                self.board.progress([job.name for job in worker.unit], content)
            elif kind == "notice":
                self.board.notice([job.name for job in worker.unit], content)
            else:
                for job, (status, reason) in zip(worker.unit, content, strict=True):
                    self._end(job, End(status, reason))
                self._next(worker)
        if time.monotonic() > self.kill_at:
            for worker in self.workers:
                worker.process.kill()

    def forward(self, asked: Sequence[int]) -> None:
        """Pass a signal on to the workers; start nothing more."""
        self.waiting.clear()
        self.board.stopping(again=self.forwarded > 0)
        self.forwarded = len(asked)
        if len(asked) > 1:
            self.kill_at = time.monotonic() + (_GRACE if len(asked) == 2 else 0)
        for worker in self.workers:
            worker.process.send_signal(asked[-1])

    def dismiss(self) -> None:
        """End all workers; only after an error here is any still at work."""
        for worker in self.workers:
            worker.process.kill()
            worker.close()

    def _next(self, worker: _Worker) -> None:
        if not self.waiting:
            self.workers.remove(worker)
            worker.close()
            return
        unit = self.waiting.popleft()
        worker.give(unit)
        for job in unit:
            self.board.started(job.name, job.resume)

    def _died(self, worker: _Worker) -> None:
        reason = worker.death()
        self.workers.remove(worker)
        worker.close()
        for job in worker.unit:
            pid = worker.process.pid
            end = _last_state(job, pid, reason, stopped=bool(self.forwarded))
            if end.status == "interrupted":
                Run.mark_interrupted(job.out, reason)
            self._end(job, end)
        self.hire()

    def _end(self, job: Job, end: End) -> None:
        self.ends[job.name] = end
        self.board.ended(job.name, end.status, end.reason)


def _last_state(job: Job, pid: int, reason: str, stopped: bool) -> End:
    """How a run stands whose worker `pid` is gone: done or failed if it was, with its own reason,
    interrupted if it had begun."""
    try:
        record = Run.open(job.out).record
    except UserError:
        return End("interrupted" if stopped else "failed", reason)
    if record.status == "done":
        return End("done")
    if record.status == "failed":  # by this worker, or before it could try again
        return End("failed", record.reason if record.pid == pid else reason)
    return End("interrupted", reason)


def _share(jobs: int) -> int:
    """Threads for each of `jobs` workers: an equal share of the cores, never more than OMP_NUM_THREADS."""
    share = max(1, threads() // jobs)
    limit = whole_in(os.environ.get("OMP_NUM_THREADS", ""))
    return min(share, limit) if limit else share


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that ask to stop and came, in a list that grows, in place of their usual effect."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signals.SIGHUP:
            signals.leave_closed_terminal()
            if number in asked:  # a closing terminal sends it more than once
                return
        asked.append(number)

    previous = {number: signal.signal(number, note) for number in signals.stopping()}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
