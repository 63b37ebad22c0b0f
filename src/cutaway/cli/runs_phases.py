"""`cutaway runs phases`: when runs, ours and those of others, memorised and grokked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cutaway.base import display
from cutaway.base.errors import UserError
from cutaway.cli.common import Runs, history_files_of, output_format

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.grokking.phases import Phases

Source: TypeAlias = "tuple[str, pa.Table, str]"  # name, tidy history, status of the run
_NOT_REACHED = "not reached"
_OF_TEST = ("grokked", "plateau")  # phases of the held-out accuracy
_RECORDED = "recorded"  # the status of a file: what became of the run it does not say


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
    from cutaway.runs.folder import Run
    from cutaway.runs.foreign import open_logs
    from cutaway.tables.recorded_runs import read_recorded

    path = Path(name)
    if not path.is_dir() or (path / record.FILE).exists():
        logs = open_logs(name, runs)
        status = Run.open(logs[0].path).status if logs[0].path.is_dir() else _RECORDED
        return [(display.readable_path(log.name), history_of(log), status) for log in logs]
    below = list(_under(path))
    if below:  # a folder of runs: a table beside them, a sweep's summary for one, is no history
        return below
    found = read_recorded(history_files_of(path))
    return [(one.name, one.content.history, _RECORDED) for one in found]


def _under(root: Path) -> Iterator[Source]:
    """The histories of all runs under a folder that have accuracies; says how many have none."""
    from cutaway.grokking.histories import history_of
    from cutaway.grokking.phases import has_accuracies
    from cutaway.runs.finding import find_all
    from cutaway.runs.folder import Run

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
