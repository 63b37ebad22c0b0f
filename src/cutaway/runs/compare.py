"""Runs side by side: what differs in their settings, and what they came to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cutaway.base.display import readable_path
from cutaway.runs.folder import Run


def compare(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per differing setting, then per final metric; a column for each run.

    Rows are `{"of": "config" | "run" | "metrics", "field": name, <run>: value, ...}`; a value a
    run lacks is None. Columns are the runs' names, or their paths where names repeat or mean
    something else here.
    """
    if wrong := [one for one in runs if not isinstance(one, Run)]:
        raise TypeError(f"runs: expected runs, got {type(wrong[0]).__name__}")
    names = [readable_path(run.name) for run in runs]
    if len(set(names)) < len(names) or {"of", "field"} & set(names):
        names = [readable_path(run.path) for run in runs]
    records = [run.record for run in runs]
    rows = list(_rows("config", names, [r.config for r in records], only_differing=True))
    about = [
        {
            "study": r.study,
            "status": run.status,
            "steps_done": r.steps_done,
            "seconds": r.seconds,
            "device": r.device,
        }
        for run, r in zip(runs, records)
    ]
    rows += _rows("run", names, about)
    rows += _rows("metrics", names, [r.metrics for r in records])
    return rows


def _rows(
    of: str,
    names: Sequence[str],
    columns: Sequence[Mapping[str, Any]],
    only_differing: bool = False,
) -> Iterable[dict[str, Any]]:
    for field in dict.fromkeys(key for column in columns for key in column):
        values = [column.get(field) for column in columns]
        if not only_differing or any(value != values[0] for value in values):
            yield {"of": of, "field": field, **dict(zip(names, values))}
