"""One odd run never disables the others: every command and every door that lists many runs gives
the same for the healthy ones, whatever one more run holds, and names it where it leaves it out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cutaway.cli.main import run
from cutaway.runs import Run, RunStore
from runs.odd_runs import ODD

HEALTHY = ("a", "b", "y", "z")
HISTORY = """SELECT run, count(*) AS n, max(step) AS last, min(loss) AS loss, max(test_acc) AS acc
             FROM history GROUP BY run ORDER BY run"""
EVERYTHING = "SELECT * FROM history JOIN runs USING (run) ORDER BY run, step"
RUNS = """SELECT run, config.lr AS lr, metrics.loss AS loss, steps_done, seed, not_finite
          FROM runs ORDER BY run"""


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's folder with four runs that are as they should be; tests copy it."""
    root = tmp_path_factory.mktemp("odd") / "runs"
    for index, name in enumerate(HEALTHY):
        with Run.create(root / name, study="grokking", config={"lr": 0.1 * index, "p": 7}) as one:
            one.append(
                [
                    {"step": 100 * s, "loss": 5.0 - s, "train_loss": 5.0 - s, "train_acc": s / 4}
                    | {"test_acc": s / 4}
                    for s in range(5)
                ]
            )
            one.append_table("words", pa.table({"step": [index], "word": [name]}))
            one.finish({"loss": 1.0, "test_acc": 1.0})
    return root


def _json(cutaway: Callable, *arguments: object) -> list[dict[str, Any]]:
    code, out, err = cutaway(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def _known(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _known(one) for key, one in value.items() if one is not None}


def _of_runs(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The healthy runs' rows, without what only other runs have (null for these)."""
    return {row["run"]: _known(row) for row in rows if row["run"] in HEALTHY}


DOORS: dict[str, Callable[[Path, Callable], dict[str, Any]]] = {
    "runs ls": lambda root, cutaway: _of_runs(_json(cutaway, "runs", "ls", root)),
    "sql over histories": lambda root, cutaway: _of_runs(
        _json(cutaway, "runs", "sql", HISTORY, "--runs", root)
    ),
    "sql over records": lambda root, cutaway: _of_runs(
        _json(cutaway, "runs", "sql", RUNS, "--runs", root)
    ),
    "sql over an instrument": lambda root, cutaway: _of_runs(
        _json(cutaway, "runs", "sql", "SELECT run, step, word FROM words", "--runs", root)
    ),
    "sql over all at once": lambda root, cutaway: _of_runs(
        _json(cutaway, "runs", "sql", EVERYTHING, "--runs", root)
    ),
    "runs phases": lambda root, cutaway: _of_runs(_json(cutaway, "runs", "phases", "--runs", root)),
    "RunStore.runs": lambda root, cutaway: {
        one.name: one.model_dump(exclude={"notices"})
        for one in RunStore(root).runs()
        if one.name in HEALTHY
    },
    "runs ls as a table": lambda root, cutaway: {
        line.split()[0]: line.split()
        for line in cutaway("runs", "ls", root)[1].splitlines()
        if line.split()[:1] and line.split()[0] in HEALTHY
    },
}


@pytest.fixture(scope="module")
def of_healthy_runs() -> dict[str, dict[str, Any]]:
    """What each door gives without an odd run; filled by the first test that asks."""
    return {}


@pytest.mark.parametrize("kind", ODD)
def test_one_odd_run_changes_nothing_for_the_others_and_is_there_or_named(
    kind: str,
    healthy: Path,
    of_healthy_runs: dict[str, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    told: list[str] = []

    def cutaway(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        told.append(out + err.replace(str(tmp_path), ""))
        return code, out, err

    if not of_healthy_runs:
        of_healthy_runs.update({name: door(healthy, cutaway) for name, door in DOORS.items()})
        assert all(found.keys() == set(HEALTHY) for found in of_healthy_runs.values())
    root = tmp_path / "runs"
    shutil.copytree(healthy, root)
    shutil.copytree(root / "b", root / "odd")
    ODD[kind](root / "odd")
    no_rows = kind in ("history_without_rows", "history_without_columns")
    for name, door in DOORS.items():
        told.clear()
        assert door(root, cutaway) == of_healthy_runs[name], name
        assert no_rows or not told or "odd" in told[0], name


@pytest.mark.parametrize("kind", ODD)
def test_a_runs_own_commands_end_in_a_line_whatever_it_holds(
    kind: str, healthy: Path, tmp_path: Path, cutaway: Callable
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(healthy, root)
    shutil.copytree(root / "b", root / "odd")
    ODD[kind](root / "odd")
    (folder,) = (root / n for n in os.listdir(root) if n.startswith("odd") and n != "odd-a")
    for arguments in (
        ("runs", "show", folder),
        ("runs", "show", folder, "--json"),
        ("runs", "compare", root / "a", folder),
        ("runs", "compare", root / "a", folder, "--json"),
        ("runs", "phases", folder),
        ("plot", "loss", root / "a", folder, "--out", tmp_path / "loss.svg"),
    ):
        code, out, err = cutaway(*arguments)
        assert code in ((0,) if arguments[0] == "plot" else (0, 2)), err
        assert out or err
        if "--json" in arguments and code == 0:
            json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (tmp_path / "loss.svg").is_file()
