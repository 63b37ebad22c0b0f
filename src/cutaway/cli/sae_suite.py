"""`cutaway sae eval --suite`: evaluations of dictionaries on labelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutaway.base import display
from cutaway.base.errors import UserError

_MOST = 200  # rows a table for people shows


def evaluate_suite(
    dictionaries: Sequence[Path],
    names: str,
    *,
    model: str | None,
    tasks: Sequence[str] | None,
    crossed: Sequence[Path] | None,
    words: str | None,
    template: str | None,
    seeds: int,
    out: Path | None,
    format: display.Format,
) -> None:
    """Judge each dictionary by the evaluations named, and show the rows; they are kept in each
    dictionary's folder as suite.parquet, or with `out` in OUT/NAME/."""
    from cutaway.dictionaries.suite import run as suite
    from cutaway.dictionaries.suite.crossed import crossed_table
    from cutaway.dictionaries.suite.reading import read_tasks
    from cutaway.dictionaries.using import home

    chosen = suite.chosen(names)
    if seeds < 1:
        raise UserError(f"seeds = {seeds}: expected 1 or more")
    labelled = None if tasks is None else [one for place in tasks for one in read_tasks(place)]
    both = None if crossed is None else [crossed_table(path) for path in crossed]
    rows: list[dict[str, Any]] = []
    for path in dictionaries:
        found = suite.judged(
            path,
            chosen,
            model=model,
            tasks=labelled,
            crossed=both,
            words=words,
            template=template,
            seeds=range(seeds),
            keep=out is None,
        )
        folder = home(path) if out is None else out / path.name
        if out is not None:
            folder.mkdir(parents=True, exist_ok=True)
            suite.save(folder, found)
        display.notice(f"wrote {folder / suite.FILE}")
        rows += [{"dictionary": path.name, **row} for row in found]
    if format == "table":
        rows = [row for row in rows if not _is_detail(row["task"])]
        if len(rows) > _MOST:
            display.notice(f"{len(rows) - _MOST} rows more; --csv shows all")
    display.show(rows[:_MOST] if format == "table" else rows, format)


def _is_detail(task: str) -> bool:
    """Whether a row is of one class, direction or letter of a task, which has a row of its own."""
    return ": " in task or task.startswith("first_letter.")
