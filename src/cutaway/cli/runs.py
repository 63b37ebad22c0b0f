"""`cutaway runs`: list, read, query, compare, check and delete runs."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base import display
from cutaway.base.errors import CutawayError, UserError
from cutaway.base.progress import duration
from cutaway.cli.common import Flag, Runs, output_format

if TYPE_CHECKING:
    from decimal import Decimal

    import pyarrow as pa

    from cutaway.runs.folder import Run
    from cutaway.runs.record import RunRecord

_SHOWN_METRICS = 2
_LONGEST = 200  # characters of a list in `show`
_FIRST = ("test_acc", "train_acc")  # after the best of a figure; then as the record has them
_PLAIN = [
    *("study", "status", "reason", "steps_done", "steps_planned", "seconds"),
    *("started", "finished", "seed", "device", "host"),
]


def ls(
    folder: Path | None = None, *, runs: Runs = Path("runs"), json: bool = False, csv: bool = False
) -> None:
    """List the runs in a folder, oldest first.

    Args:
        folder: The folder; --runs unless given.
        runs: The folder that holds the runs.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.runs.store import RunStore

    format = output_format(json, csv)
    root = folder or runs
    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    rows = []
    for one in RunStore(root).runs():
        try:
            rows.append(_line(one) if format == "table" else _facts(one))
        except Exception as error:  # one odd run: named and left out
            display.notice(f"{one.name}: cannot be shown: {error}; skipped")
    display.show(rows, format, empty=f"no runs in {root}/")


def show(run: str, *, runs: Runs = Path("runs"), json: bool = False, csv: bool = False) -> None:
    """Show all about one run: its record, final figures, tables, checkpoints and settings.

    Args:
        run: A run's folder, or its name under --runs.
        runs: The folder that holds the runs.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.nets.quantised import dequantised
    from cutaway.runs.finding import find_run
    from cutaway.runs.folder import Run

    format = output_format(json, csv)
    opened = Run.open(find_run(run, runs))
    name, path = display.readable_path(opened.name), display.readable_path(opened.path)
    facts = {"run": name, "path": path, **opened.record.model_dump(mode="json")}
    facts |= {"status": opened.status, "name": name}
    stored = {parent.get("quantisation") for parent in opened.record.parents} - {None}
    if stored:
        facts["weights"] = ", ".join(sorted(map(dequantised, stored)))
    facts["tables"] = {name: _rows_of(opened, name) for name in opened.tables()}
    facts["checkpoints"] = {
        "steps": opened.checkpoints.steps(),
        "best": opened.checkpoints.best(),
        "last": opened.checkpoints.last(),
    }
    if format == "json":
        display.show([facts], format)
        return
    nested = ("metrics", "tables", "checkpoints", "resolved", "config", "versions")
    pairs = [(key, value) for key, value in facts.items() if key not in nested and value]
    pairs += [(f"{group}.{key}", value) for group in nested for key, value in facts[group].items()]
    if format == "table":
        leaves = [leaf for key, value in pairs for leaf in _leaves(key, value)]
        pairs = [(key, _shortened(value)) for key, value in leaves]
    display.show([{"field": key, "value": _flat(value)} for key, value in pairs], format)


def sql(query: str, *, runs: Runs = Path("runs"), json: bool = False, csv: bool = False) -> None:
    """Ask all runs in SQL (DuckDB's): tables `runs`, `history` and one per instrument.

    For instance: SELECT run, config.learning_rate, min(val_loss) FROM history JOIN runs
    USING (run) WHERE status = 'done' GROUP BY ALL ORDER BY 3. SHOW TABLES and DESCRIBE history say
    what there is. NaN and infinities are NULL, named in the column not_finite; raw.history has them.

    Args:
        query: One SELECT. It reads what is under --runs and writes nothing.
        runs: The folder that holds the runs.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.runs.store import RunStore

    format = output_format(json, csv)
    if not runs.is_dir():
        raise UserError(f"{runs}: no such folder; --runs names the folder that holds the runs")
    answer = RunStore(runs).sql(query)
    columns = [_values(column) for column in answer.columns]
    rows = [dict(zip(answer.column_names, values)) for values in zip(*columns)]
    if format != "json":
        rows = [{key: _flat(value) for key, value in row.items()} for row in rows]
    display.show(rows, format, columns=answer.column_names, empty="no rows")


def compare(*names: str, runs: Runs = Path("runs"), json: bool = False, csv: bool = False) -> None:
    """Show what differs in the settings of runs, and their final figures side by side.

    Args:
        names: Two or more runs: folders, or names under --runs.
        runs: The folder that holds the runs.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.runs.compare import compare as compared
    from cutaway.runs.finding import find_run
    from cutaway.runs.folder import Run

    format = output_format(json, csv)
    if len(names) < 2:
        raise UserError(f"runs compare: name at least two runs, {len(names)} given")
    rows = compared([Run.open(find_run(name, runs)) for name in names])
    if format != "json":
        rows = [{key: _flat(value) for key, value in row.items()} for row in rows]
    display.show(rows, format)


def verify(run: str, *, runs: Runs = Path("runs"), json: bool = False, csv: bool = False) -> None:
    """Read every byte of a folder and check it against its checksums; exit 1 where one is wrong.

    A run, a store of hidden states, a sweep, a pipeline, probe data, or a folder of several. What
    has no checksum (a file added by hand, a run that was stopped) is named.

    Args:
        run: A folder, or a run's name under --runs.
        runs: The folder that holds the runs.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.runs import verifying
    from cutaway.runs.finding import find_all

    format = output_format(json, csv)
    path = verifying.find_folder(run, runs)
    if any((found.path / "manifest.json").exists() for found in find_all(path)):
        import cutaway.activations.store  # noqa: F401 - how hidden states are checked
    found = verifying.verify(path)
    damages = found.damages
    for notice in found.notices:
        display.notice(notice)
    if format != "table":
        display.show([{"run": str(path), "damage": damage} for damage in damages], format)
    elif not damages:
        display.show([{"run": str(path), "damage": "none"}])
    if damages:
        more = f" (and {len(damages) - 1} more)" if len(damages) > 1 else ""
        raise CutawayError(f"{damages[0]}{more}")


def rm(
    *names: str,
    yes: Flag = False,
    runs: Runs = Path("runs"),
    json: bool = False,
    csv: bool = False,
) -> None:
    """Delete runs, with everything in their folders. A run that is being written is refused.

    Args:
        names: Runs: folders, or names under --runs.
        yes: Do not ask.
        runs: The folder that holds the runs.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.runs.folder import Run

    format = output_format(json, csv)
    if not names:
        raise UserError("runs rm: name at least one run")
    paths = list(dict.fromkeys(_named(name, runs) for name in names))
    for path in paths:
        Run.require_removable(path)
    if not yes and not _agreed(paths):
        display.notice("nothing deleted")
        return
    for path in paths:
        Run.remove(path)
    display.show([{"deleted": str(path)} for path in paths], format)


def _named(name: str, root: Path) -> Path:
    """The folder of a run to delete; a name that leads out of the root is refused."""
    from cutaway.runs.finding import find_run

    found = find_run(name, root)
    if found.is_symlink():
        return found.absolute()  # refused as what it is
    inside = Path(root).resolve()
    if found != Path(name) and not found.resolve().is_relative_to(inside):
        raise UserError(f"{name}: leads out of {root}/; give the run's own path")
    return found.resolve()


def _agreed(paths: list[Path]) -> bool:
    if not sys.stdin.isatty():
        raise UserError("runs rm: asks before it deletes, and there is no terminal; add --yes")
    for path in paths:
        print(path, file=sys.stderr)
    print(f"delete {len(paths)} of these, with all they hold? [y/N] ", end="", file=sys.stderr)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _rows_of(run: Run, table: str) -> int | None:
    """How many rows a table has; None, with a notice, where it cannot be read."""
    try:
        rows = run.read(table)
    except UserError as error:
        display.notice(str(error))
        return None
    return 0 if rows is None else len(rows)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """An answer's column as Python values: decimals as numbers, maps as objects."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_decimal(kind):  # sums of integers are, with nothing after the point
        return [_number(value) for value in column.to_pylist()]
    try:
        return column.to_pylist(maps_as_pydicts="lossy")
    except (OverflowError, ValueError):  # times that Python's calendar does not have
        if pa.types.is_temporal(kind):
            return column.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).to_pylist()
        raise UserError(
            f"SQL: an answer holds values of type {kind} that cannot be shown"
        ) from None


def _number(value: Decimal | None) -> int | float | None:
    if value is None:
        return None
    return int(value) if value == value.to_integral_value() else float(value)


def _line(one: RunRecord) -> dict[str, Any]:
    """A run in one line of a table."""
    of = f" of {one.steps_planned:,}" if one.steps_planned != one.steps_done else ""
    metrics = sorted(one.metrics, key=_place)[:_SHOWN_METRICS]
    return {
        "run": one.name,
        "study": one.study,
        "status": one.status,
        "steps": f"{one.steps_done:,}{of}",
        "time": duration(one.seconds),
        "started": one.started[:16].replace("T", " "),
        "figures": ", ".join(f"{name} {display.cell(one.metrics[name])}" for name in metrics),
    }


def _place(metric: str) -> int:
    """Where a final figure stands among those of its run."""
    if metric.startswith("best_"):
        return 0
    return 1 + (_FIRST.index(metric) if metric in _FIRST else len(_FIRST))


def _facts(one: RunRecord) -> dict[str, Any]:
    """A run for programs: plain fields, then its final figures."""
    metrics = {f"metrics.{name}": value for name, value in one.metrics.items()}
    return {"run": one.name, **{key: getattr(one, key) for key in _PLAIN}, **metrics}


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What is nested, one thing each: `parents.0.id`; lists of plain values stay one."""
    if isinstance(value, dict) and value:
        inside = list(value.items())
    elif isinstance(value, list) and any(isinstance(one, dict | list | str) for one in value):
        inside = list(enumerate(value))
    else:
        yield key, value
        return
    for name, one in inside:
        yield from _leaves(f"{key}.{name}", one)


def _shortened(value: Any) -> str:
    """A value as text; of a long list the beginning (--json has the whole)."""
    text = _text(value)
    if isinstance(value, str) or len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}… ({len(text):,} characters)"


def _flat(value: Any) -> Any:
    """Nested values as JSON, for one cell of a table."""
    if isinstance(value, dict | list):
        return jsonlib.dumps(display.json_value(value), ensure_ascii=False, default=str)
    return value


def _text(value: Any) -> str:
    """A value as text, so that a column of all kinds lines up."""
    if value is None or isinstance(value, float | bool):
        return display.cell(value)
    return str(_flat(value))
