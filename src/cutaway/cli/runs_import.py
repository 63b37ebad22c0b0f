"""`cutaway runs import`: runs made of histories that others recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.base import display
from cutaway.base.errors import UserError, nearest
from cutaway.cli.common import Runs, history_files_of, output_format
from cutaway.studies.registry import STUDIES

if TYPE_CHECKING:
    from cutaway.runs.folder import Run
    from cutaway.tables.recorded_runs import RecordedRun


def import_(
    *files: Path,
    out: Path | None = None,
    name: str | None = None,
    study: str = "grokking",
    runs: Runs = Path("runs"),
    json: bool = False,
    csv: bool = False,
) -> None:
    """Make runs of histories that others recorded: JSON, CSV or Parquet.

    Columns are known under their common names (epoch, iteration, accuracy, val_loss, ...). A download
    from Weights & Biases becomes a run for each of its runs; downloads from TensorBoard
    (run-RUN-tag-TAG.csv) are joined to one run for each RUN. All files are read before the first run
    is made: one that cannot be read stops the import.

    Args:
        files: History files (.jsonl, .ndjson, .json, .csv, .tsv, .parquet), or folders of them.
        out: The run's folder, for a single run; without it, one named as the run or file under --runs.
        name: The run's name, for a single run.
        study: What kind of run it is.
        runs: The folder that holds the runs.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.runs.importing import folder_name, import_recorded
    from cutaway.tables.recorded_runs import read_recorded

    format = output_format(json, csv)
    if study not in STUDIES:
        raise UserError(
            f"study = {study!r}: expected one of {', '.join(STUDIES)}{nearest(study, STUDIES)}"
        )
    found = [file for one in files for file in history_files_of(one)]
    if not found:
        named = f"{files[0]}: no history files there" if files else "name at least one history file"
        raise UserError(f"runs import: {named}")
    if out is not None and name is not None:
        raise UserError("--out and --name: choose one; the run is called as its folder")
    recorded = read_recorded(found)
    if len(recorded) > 1 and (out is not None or name is not None):
        given = "--out" if out is not None else "--name"
        what = f"{len(found)} given" if len(found) > 1 else f"{found[0]} holds {len(recorded)} runs"
        raise UserError(f"{given}: is for a single run, {what}; see --runs")
    if out is not None:
        runs, name = out.absolute().parent, out.absolute().name
    names = [folder_name(one.name) if name is None else _named(name) for one in recorded]
    for index, (one, called) in enumerate(zip(recorded, names)):
        if called in names[:index]:
            other = recorded[names.index(called)].files[0]
            raise UserError(
                f"{one.files[0]}: would be the run {called!r}, as {other}; import one with --name"
            )
    imported = [_imported(one, runs / called) for one, called in zip(recorded, names)]
    rows = []
    for one, called, run in zip(recorded, names, imported):
        if run is not None:
            display.notice(f"{one.files[0]}: already imported as {called}")
        else:
            run = import_recorded(one, runs / called, study=study)
        rows.append(
            {"run": called, "path": str(runs / called), "rows": _count(run)} | run.record.metrics
        )
    display.show(rows, format)


def _named(name: str) -> str:
    from cutaway.base import files

    if not files.is_folder_name(name):
        raise UserError(f"name = {name!r}: expected a folder's name")
    return name


def _imported(recorded: RecordedRun, folder: Path) -> Run | None:
    """The run that was made of these very files before; None where the folder is free.

    Raises UserError where it holds anything else.
    """
    from cutaway.base import files
    from cutaway.runs import record
    from cutaway.runs.folder import Run

    if not (folder / record.FILE).is_file():
        Run.require_free(folder)
        return None
    run = Run.open(folder)
    sums = [one.get("sha256") for one in run.record.parents if one.get("kind") == "file"]
    if {files.sha256(file) for file in recorded.files} <= set(sums):
        return run
    file = recorded.files[0]
    raise UserError(
        f"{folder}: holds another run; import {file.name} under another --name or --out, "
        f"into other --runs, or delete that one with `cutaway runs rm {folder}`"
    )


def _count(run: Run) -> int:
    table = run.read()
    return 0 if table is None else len(table)
