"""`cutaway runs import` and `cutaway runs phases`: recorded histories, ours and those of others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from cutaway.base import display
from cutaway.base.errors import UserError, nearest
from cutaway.cli.common import output_format
from cutaway.studies.registry import STUDIES

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.grokking.phases import Phases
    from cutaway.runs.exports import RecordedRun
    from cutaway.runs.folder import Run

Runs = Annotated[Path, Parameter(name="--runs")]
Source: TypeAlias = "tuple[str, pa.Table, str]"  # name, tidy history, status of the run
_NOT_REACHED = "not reached"
_OF_TEST = ("grokked", "plateau")  # phases of the held-out accuracy
_RECORDED = "recorded"  # the status of a file: what became of the run it does not say


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
    from cutaway.runs.exports import read_recorded
    from cutaway.runs.importing import folder_name, import_recorded

    format = output_format(json, csv)
    if study not in STUDIES:
        raise UserError(
            f"study = {study!r}: expected one of {', '.join(STUDIES)}{nearest(study, STUDIES)}"
        )
    found = [file for one in files for file in _files_of(one)]
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


def phases(
    *names: str,
    train_threshold: float = 0.98,
    test_threshold: float = 0.95,
    sustain: int | None = None,
    runs: Runs = Path("runs"),
    json: bool = False,
    csv: bool = False,
) -> None:
    """When runs memorised and grokked, in steps: a row per run.

    Grokked is the first crossing of the test threshold that stays for --sustain steps; plateau is
    where the test accuracy stays near the level it reached; lost is where a run that had grokked
    fell below the threshold for good; delay = grokked - memorised; kept is
    the share of later evaluations with both accuracies at their thresholds. A run that failed says
    so, and what it had not reached by then it never will.

    Args:
        names: Runs (folders, or names under --runs), history files, or folders of either; without
            any, all runs under --runs that have accuracies.
        train_threshold: Memorised is from this train accuracy on, a share.
        test_threshold: Grokked is from this test accuracy on, a share.
        sustain: For how many steps a crossing must stay; 0 counts any [100, and 3 evaluations].
        runs: The folder that holds the runs.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.grokking.phases import phases as find_phases
    from cutaway.grokking.phases import window

    format = output_format(json, csv)
    if not names and not runs.is_dir():
        raise UserError(f"{runs}: no such folder; --runs names the folder that holds the runs")
    sources: list[Source] = [] if names else list(_under(runs))
    wrong: list[str] = []  # with what was asked for; the rest is shown all the same
    for name in names:
        try:
            sources += _sources(name, runs)
        except UserError as error:
            wrong.append(str(error))
    if names and not sources and not wrong:
        raise UserError(f"{', '.join(names)}: no run and no history with accuracies there")
    rows = []
    for name, history, status in sources:
        try:
            found = find_phases(
                history,
                train_threshold=train_threshold,
                test_threshold=test_threshold,
                sustain=sustain,
            )
        except UserError as error:
            what, _, why = str(error).partition(": ")
            if what != "history":  # wrong with the request, so with all of them
                raise
            wrong.append(f"{name}: {why}")
            continue
        if found.unconfirmed is not None:
            display.notice(
                f"{name}: above {test_threshold:g} from step {found.unconfirmed}, but recorded for "
                f"less than {window(found)} from there: not counted as grokked"
            )
        if found.lost is not None:
            display.notice(
                f"{name}: grokked at step {found.grokked} and lost it: below {test_threshold:g} from "
                f"step {found.lost} on{_returned(history, found)}"
            )
        rows.append(_row(name, status, history, found, plain=format == "json"))
    if any("lost" in row for row in rows):  # a column for all, where any has it
        rows = [{**row, "lost": row.get("lost")} for row in rows]
    if rows or not wrong:
        display.show(rows, format, empty=f"no runs with accuracies in {runs}/")
    if wrong:
        raise UserError("; ".join(wrong))


def _returned(history: pa.Table, found: Phases) -> str:
    """What to add of a run that lost it, but ends high again."""
    from cutaway.grokking.derived import final_accuracy
    from cutaway.grokking.phases import window

    last = final_accuracy(history)
    if last is None or last < found.test_threshold:
        return ""
    return f", but for returns of less than {window(found)}"


def _row(name: str, status: str, history: pa.Table, found: Phases, plain: bool) -> dict[str, Any]:
    """A line of the table; for programs (`plain`) not reached is null."""
    from cutaway.grokking.derived import final_accuracy

    absent = None if plain else "failed" if status == "failed" else _NOT_REACHED
    tested = final_accuracy(history) is not None
    steps = {key: getattr(found, key) for key in ("memorised", "grokked", "plateau")}
    row = {
        "run": name,
        "status": status,
        **{key: absent if step is None else step for key, step in steps.items()},
        **({} if tested or absent != _NOT_REACHED else dict.fromkeys(_OF_TEST, "not evaluated")),
        "delay": found.delay,
        "kept": found.share_kept,
        "final_test_acc": None if status == "failed" else final_accuracy(history),
    }
    if plain:
        row |= {"variance_after": found.variance_after, "unconfirmed": found.unconfirmed}
    if plain or found.lost is not None:
        row["lost"] = found.lost
    return row


def _sources(name: str, runs: Path) -> list[Source]:
    """The histories a word of the command line means."""
    from cutaway.grokking.histories import history_of
    from cutaway.runs import record
    from cutaway.runs.exports import read_recorded
    from cutaway.runs.folder import Run
    from cutaway.runs.foreign import open_logs

    path = Path(name)
    if not path.is_dir() or (path / record.FILE).exists():
        logs = open_logs(name, runs)
        status = Run.open(logs[0].path).status if logs[0].path.is_dir() else _RECORDED
        return [(display.readable_path(log.name), history_of(log), status) for log in logs]
    below = list(_under(path))
    if below:  # a folder of runs: a table beside them, a sweep's summary for one, is no history
        return below
    found = read_recorded(_files_of(path))
    return [(one.name, one.content.history, _RECORDED) for one in found]


def _under(root: Path) -> Iterator[Source]:
    """The histories of all runs under a folder that have accuracies; says how many have none."""
    from cutaway.grokking.histories import history_of
    from cutaway.grokking.phases import has_accuracies
    from cutaway.runs.folder import Run
    from cutaway.runs.store import find_all

    without = []
    for found in find_all(root, display.notice):
        try:
            run = Run.open(found.path)
            table = history_of(run)
        except UserError as error:
            display.notice(f"{error}; skipped")
            continue
        except Exception as error:  # one odd run: named and left out
            display.notice(f"{found.path}: {type(error).__name__}: {error}; skipped")
            continue
        if has_accuracies(table):
            yield found.name, table, run.status
        else:
            without.append(found.name)
    if without:
        has = "run has" if len(without) == 1 else "runs have"
        display.notice(f"{len(without)} {has} no accuracies: {_some(without)}")


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _files_of(path: Path) -> list[Path]:
    """A file itself, or the history files in a folder."""
    from cutaway.runs.history_files import is_history_file

    if not path.is_dir():
        return [path]
    return sorted(one for one in path.iterdir() if is_history_file(one) and one.is_file())


def _count(run: Run) -> int:
    table = run.read()
    return 0 if table is None else len(table)
