"""Histories of others as runs of ours: listed, queried, compared and drawn like the rest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base import files
from cutaway.base.display import readable_path
from cutaway.base.errors import CutawayError, UserError
from cutaway.runs.folder import HISTORY, Run
from cutaway.tables.recorded_runs import RecordedRun, read_history_file
from cutaway.tables.tidy import OURS

if TYPE_CHECKING:
    import pyarrow as pa

_NESTING = 50  # levels of lists and objects in a configuration; JSON and YAML recurse on them


def import_history(
    file: str | Path, out: str | Path, *, name: str | None = None, study: str = "grokking"
) -> Run:
    """Make the run `out/name` (`name`: the file's own, without its ending) from a recorded history
    of one run.

    Reads JSON, CSV and Parquet (`recorded_runs.read_history_file`), with columns under the
    names of `tables/tidy.py`. The run is done; its config is what the file says about itself; its
    parent is the file with its SHA-256, and under `about` whatever else the file holds, such as a
    summary. Final figures are the last recorded losses and accuracies.

    What had to be changed or left out is announced and kept in the record's notices. Raises
    `UserError`, leaving nothing behind, for a file that holds no history and for a folder in use.
    """
    file = Path(file)
    name = _checked(file.stem if name is None else name)
    recorded = RecordedRun(name, (file,), read_history_file(file))
    return import_recorded(recorded, Path(out) / name, study=study)


def import_recorded(recorded: RecordedRun, folder: Path, *, study: str = "grokking") -> Run:
    """Make the run in `folder` of one that `recorded_runs.read_recorded` found, as `import_history` does."""
    read = recorded.content
    notices = list(read.notices)
    config = _plain(read.config, "configuration", notices)
    parents: list[dict[str, Any]] = [
        {"kind": "file", "id": readable_path(file.absolute()), "sha256": files.sha256(file)}
        for file in recorded.files
    ]
    if read.about:
        parents[0]["about"] = _plain(read.about, "lines about the run", notices)
    seed, last = config.get("seed"), read.history["step"][-1].as_py()
    with Run.create(
        folder,
        study=study,
        config=config,
        seed=seed if type(seed) is int and abs(seed) < 2**63 else 0,
        steps_planned=last,
        parents=parents,
    ) as run:
        try:
            run.append_table(HISTORY, read.history)
            for notice in notices:
                run.notice(f"{readable_path(recorded.files[0].name)}: {notice}")
            run.save_record(steps_attempted=last, steps_done=last, seconds=0.0)
            run.finish(final_figures(read.history))
        except CutawayError as error:
            run.fail(str(error))
            raise
    return run


def folder_name(name: str) -> str:
    """What a recorded run's folder is called: its name, with what no folder may have as `-`."""
    fit = "".join("-" if one in "/\\" or not one.isprintable() else one for one in name).strip()
    return fit if files.is_folder_name(fit) else "run"


def final_figures(history: pa.Table) -> dict[str, float]:
    """The last recorded loss and accuracy of each split."""
    figures = {}
    for name in OURS[1:]:
        if name in history.column_names:
            values = history[name].drop_null()
            if len(values):
                figures[name] = values[-1].as_py()
    return figures


def _checked(name: str) -> str:
    if not files.is_folder_name(name):
        raise UserError(f"name = {name!r}: expected a folder's name")
    return name


def _plain(value: Any, what: str, notices: list[str]) -> Any:
    """`value` as strict JSON can hold it; says where something had to become null."""
    changed: set[str] = set()
    value = _cleaned(value, changed, 0)
    notices += [f"{what}: {why} became null" for why in sorted(changed)]
    return value


def _cleaned(value: Any, changed: set[str], depth: int) -> Any:
    if depth > _NESTING:
        changed.add("values nested too deeply")
        return None
    if isinstance(value, float) and not math.isfinite(value):
        changed.add("NaN and infinities")
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {
            _cleaned(key, changed, depth): _cleaned(one, changed, depth + 1)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_cleaned(one, changed, depth + 1) for one in value]
    return value
