"""How a run stands: as its record says, or interrupted where the process that wrote it is gone."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cutaway.base.errors import UserError
from cutaway.runs import lock, record
from cutaway.runs.record import RunRecord, Status


def derived_status(content: RunRecord, path: Path) -> Status:
    """The record's status, except that a run whose process is gone is `interrupted`."""
    if content.status == "running" and not lock.alive(path):
        return "interrupted"
    return content.status


def mark_interrupted(folder: str | Path, reason: str) -> None:
    """Write down why a run ended whose process is gone and could not say so itself.

    Leaves a run alone that another process has, that ended by itself or that refuses to be written:
    such a run reads as `interrupted` in any case, without a reason.
    """
    path = Path(folder).absolute()
    with contextlib.suppress(OSError, UserError):
        held = lock.RunLock(path, record.now())
        try:
            content = record.read(path)
            if content.status == "running":
                changes = {"status": "interrupted", "reason": reason}
                record.write(content.model_copy(update=changes), path)
        finally:
            held.release()
