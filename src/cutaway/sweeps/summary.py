"""What a sweep came to: a row per run with its final figures, or why there are none."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cutaway.base import files
from cutaway.base.display import csv_text
from cutaway.base.errors import UserError
from cutaway.runs.folder import Run
from cutaway.sweeps.execute import End
from cutaway.sweeps.grid import SweepRun

FILE = "summary.csv"
# The figures a table for people shows, where runs have them; files and --json have all.
_SHOWN = ("test_acc", "train_acc", "test_loss", "best_val_loss", "val_loss", "train_loss")
_FIXED = ("run", "status", "steps", "seconds", "reason")


def summarise(
    runs: Sequence[SweepRun], folder: Path, ends: Mapping[str, End] | None = None
) -> list[dict[str, Any]]:
    """A row per run: run, group, what varies, status, steps (done), steps_planned, seconds, reason,
    and every final figure.

    The runs' folders are the truth; `ends` adds what they cannot know: why a run never began, was
    refused, or lost its process. A run that was never started has the status `not started`.
    """
    return [_row(run, folder, (ends or {}).get(run.name)) for run in runs]


def columns(rows: Sequence[Mapping[str, Any]], headline: Sequence[str] = ()) -> list[str]:
    """What the table for people shows of the rows: fixed columns and the figures that matter, which
    are the study's `headline` and losses and accuracies."""
    known = dict.fromkeys((*headline, *_SHOWN))
    figures = [name for name in known if any(name in row for row in rows)]
    reason = ["reason"] if any(row["reason"] for row in rows) else []
    return ["run", "status", "steps", "seconds", *figures, *reason]


def advice(rows: Sequence[Mapping[str, Any]], swept: Sequence[str]) -> list[str]:
    """What the rows say about runs that failed: how many, and the values of `swept` fields that all
    of them had and none of the others."""
    failed = [row for row in rows if row["status"] == "failed"]
    others = [row for row in rows if row["status"] == "done"]
    if not failed:
        return []
    alike = []
    for name in swept:
        values = {str(row.get(name)) for row in failed}
        if len(values) == 1 and not values & {str(row.get(name)) for row in others}:
            alike.append(f"{name} = {failed[0].get(name)}")
    line = f"{len(failed)} of {len(rows)} runs failed"
    if alike and others:
        which = "it" if len(failed) == 1 else "all of them"
        line += f"; {which} had {' and '.join(alike)}, which none that came to their end had"
    return [line]


def write_summary(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """`summary.csv` in the sweep's folder, replaced in one step."""
    files.write_text(folder / FILE, csv_text(rows))


def _row(run: SweepRun, folder: Path, end: End | None) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.name, "group": run.group, **run.swept}
    facts = {"status": "not started", "steps": 0, "steps_planned": None, "seconds": 0.0}
    metrics: dict[str, Any] = {}
    reason = None
    try:
        opened = Run.open(folder / run.name)
    except UserError as error:
        if os.path.lexists(folder / run.name / "run.json"):
            facts["status"], reason = "failed", str(error)
    else:
        record = opened.record
        facts |= {"status": opened.status, "steps": record.steps_done, "seconds": record.seconds}
        facts["steps_planned"], reason, metrics = (
            record.steps_planned,
            record.reason,
            record.metrics,
        )
    if facts["status"] == "interrupted" and reason is None:
        reason = "its process is gone without a word (killed, or the machine was stopped)"
    if end is not None and end.status == "done" and facts["status"] != "done":
        end = End("failed", f"it ended as done, but its folder says {facts['status']}: {reason}")
    if end is not None and end.status != "done":
        reason = end.reason
        if end.status == "failed":
            facts["status"] = "failed"
    return row | facts | {"reason": reason} | {k: v for k, v in metrics.items() if k not in row}
