"""Who writes a run: one process at a time, and readers can tell whether it still lives.

`.lock` is held by the operating system, which frees it when the process ends, kill -9 included.
`.owner.json` says which process that is; its modification time is the heartbeat, which readers on
another machine go by.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from cutaway.base import files
from cutaway.base.errors import UserError

LOCK, OWNER = ".lock", ".owner.json"
HEARTBEAT = 10.0  # seconds between touches
SILENCE = 120.0  # seconds without one after which a process on another machine counts as dead
_PATIENCE = 2.0  # seconds in which a dead process's children may let go of the lock


@dataclass(frozen=True)
class Owner:
    """The process that holds a run, and when it began (ISO 8601; clock ticks since boot)."""

    pid: int
    host: str
    since: str
    ticks: int | None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class RunLock:
    """Holds a run's folder for this process until `release`, touching the heartbeat meanwhile."""

    def __init__(self, folder: Path, since: str):
        from filelock import FileLock, Timeout

        self._owner = folder / OWNER
        self._lock = FileLock(folder / LOCK, thread_local=False)
        holder = read_owner(folder)
        try:
            gone = holder is not None and not alive(folder)
            self._lock.acquire(timeout=_PATIENCE if gone else 0)
        except Timeout:
            raise UserError(f"{folder}: this run is being written by {_holder(folder)}") from None
        try:
            me = Owner(os.getpid(), platform.node(), since, _ticks(os.getpid()))
            files.write_json(self._owner, {"format": 1, **asdict(me)})
        except OSError:
            self._lock.release()
            raise
        self._stop = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def release(self, *, moved: bool = False) -> None:
        """Let others write; does nothing the second time.

        Leaves no file behind: who waits for the lock sees that its file is gone, and makes a new
        one. With `moved` the folder is no longer where it was, and what is there now is another's.
        """
        if not self._stop.is_set():
            self._stop.set()
            for path in () if moved else (self._owner, Path(self._lock.lock_file)):
                with contextlib.suppress(OSError):
                    path.unlink()
            self._lock.release()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(self._owner)


def read_owner(folder: Path) -> Owner | None:
    """The process that last took the run and did not let go of it in order."""
    try:
        content = files.read_json(folder / OWNER)
        pid, ticks = content["pid"], content["ticks"]
        if type(pid) is not int or not 0 < pid < 2**31 or type(ticks) not in (int, type(None)):
            return None
        return Owner(pid, str(content["host"]), str(content["since"]), ticks)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def alive(folder: Path) -> bool:
    """Whether the process that took the run still runs."""
    owner = read_owner(folder)
    if owner is None:
        return False
    if owner.host == platform.node():
        return _running(owner)
    try:
        return time.time() - (folder / OWNER).stat().st_mtime < SILENCE
    except OSError:
        return False


def _holder(folder: Path) -> Owner | str:
    """Who holds the lock; it says so a moment after it took it."""
    for _ in range(20):
        if alive(folder) and (owner := read_owner(folder)):
            return owner
        time.sleep(0.05)
    return "another process"


def _running(owner: Owner) -> bool:
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    # A process id is given again after a while: the time the process began tells them apart.
    return owner.ticks is None or _ticks(owner.pid) == owner.ticks


def _ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None where unknown or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
