"""A dictionary's evaluations by name: worked, and kept as its run's table `suite`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base import files
from cutaway.base.display import notice
from cutaway.base.errors import UserError, nearest

if TYPE_CHECKING:
    from cutaway.dictionaries.base import Dictionary
    from cutaway.dictionaries.suite.crossed import CrossedTexts
    from cutaway.dictionaries.suite.tasks import LabelledTexts
    from cutaway.nets.model import Model

EVALUATIONS = ("sparse_probing", "absorption", "tpp", "scr")
FILE = "suite.parquet"
Rows = list[dict[str, Any]]


def chosen(names: str | Sequence[str]) -> list[str]:
    """The evaluations named (`all`, or some with commas between); UserError for an unknown one."""
    asked = names.split(",") if isinstance(names, str) else list(names)
    asked = [name.strip().replace("-", "_") for name in asked if name.strip()]
    if asked == ["all"]:
        return list(EVALUATIONS)
    for name in asked:
        if name not in EVALUATIONS:
            known = ", ".join(EVALUATIONS)
            raise UserError(
                f"suite = {name!r}: expected all, or some of {known}{nearest(name, EVALUATIONS)}"
            )
    if not asked:
        raise UserError(f"suite: none named; expected all, or some of {', '.join(EVALUATIONS)}")
    return asked


def judged(
    path: Path,
    names: Sequence[str],
    *,
    model: str | None = None,
    tasks: Sequence[LabelledTexts] | None = None,
    crossed: Sequence[CrossedTexts] | None = None,
    words: str | Path | None = None,
    template: str | None = None,
    seeds: Sequence[int] = (0,),
    keep: bool = True,
) -> Rows:
    """Work the evaluations `names` of the dictionary at `path`; a row per figure.

    `tasks` default to one over the docstrings; TPP takes those of three classes or more. SCR takes
    texts with two labels, `crossed`, else every two of the tasks over the same texts, else (no tasks
    given) one over the docstrings. Where there is nothing for one a notice says that it was left
    out. With `keep` the rows join those of other evaluations in the table `suite` of the
    dictionary's folder.
    """
    from cutaway.dictionaries.using import home, opened

    dictionary, network = opened(path, model)
    rows: Rows = []
    for name in names:
        work = _WORK[name]
        options = {"tasks": tasks, "crossed": crossed, "words": words, "template": template}
        rows += work(dictionary, network, seeds=list(seeds), **options)
    if keep:
        save(home(path), rows)
    return rows


def save(folder: Path, rows: Rows) -> Path:
    """Put rows into the folder's table `suite`, instead of those of the same evaluations; the
    file is replaced in one step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / FILE
    now = {row["evaluation"] for row in rows}
    before = [] if not path.is_file() else pq.read_table(path).to_pylist()
    kept = [row for row in before if row["evaluation"] not in now]
    with files.replacing(path) as part:
        pq.write_table(pa.Table.from_pylist([*kept, *rows], schema=_schema()), part)
    return path


def mean_of(rows: Sequence[dict[str, Any]], k: int, subject: str = "dictionary") -> float:
    """Mean accuracy over the tasks and seeds of sparse probing with k features; NaN for none."""
    values = [
        row["value"]
        for row in rows
        if row["evaluation"] == "sparse_probing"
        and (row["measure"], row["k"], row["subject"]) == ("accuracy", k, subject)
        and ": " not in row["task"]  # a class's own row is in its task's mean
    ]
    return sum(values) / len(values) if values else float("nan")


def _tasks(tasks: Sequence[LabelledTexts] | None) -> Sequence[LabelledTexts]:
    from cutaway.dictionaries.suite.reading import read_tasks

    return read_tasks("docstrings") if tasks is None else tasks


def _probing(
    dictionary: Dictionary, model: Model, *, seeds: list[int], tasks: Any, **_: Any
) -> Rows:
    from cutaway.dictionaries.suite.sparse_probing import sparse_probing

    return sparse_probing(dictionary, model, None, _tasks(tasks), seed=seeds)


def _absorption(
    dictionary: Dictionary, model: Model, *, seeds: list[int], words: Any, template: Any, **_: Any
) -> Rows:
    from cutaway.dictionaries.suite.absorption import first_letter_absorption

    rows: Rows = []
    for seed in seeds:
        rows += first_letter_absorption(
            dictionary, model, None, words=words, template=template, seed=seed
        )
    return rows


def _perturbation(
    dictionary: Dictionary, model: Model, *, seeds: list[int], tasks: Any, **_: Any
) -> Rows:
    from cutaway.dictionaries.suite.tpp import targeted_probe_perturbation

    several = [task for task in _tasks(tasks) if len(task.classes) > 2]
    if not several:
        notice("tpp: left out: it needs labelled texts of three classes or more")
        return []
    return targeted_probe_perturbation(dictionary, model, None, several, seed=seeds)


def _removal(
    dictionary: Dictionary, model: Model, *, seeds: list[int], tasks: Any, crossed: Any, **_: Any
) -> Rows:
    from cutaway.dictionaries.suite.crossed import crossed_docstrings, crossings
    from cutaway.dictionaries.suite.scr import spurious_correlation_removal

    if crossed is None:
        crossed = [crossed_docstrings()] if tasks is None else crossings(tasks)
    if not crossed:
        notice("scr: left out: it needs texts with two labels each (--crossed FILE)")
        return []
    return spurious_correlation_removal(dictionary, model, None, crossed, seed=seeds)


_WORK: dict[str, Callable[..., Rows]] = {
    "sparse_probing": _probing,
    "absorption": _absorption,
    "tpp": _perturbation,
    "scr": _removal,
}


def _schema() -> Any:
    import pyarrow as pa

    words = ("evaluation", "task", "measure", "subject")
    return pa.schema(
        [
            *((name, pa.string()) for name in words),
            ("k", pa.int64()),
            *((name, pa.float64()) for name in ("value", "low", "high")),
            ("seed", pa.int64()),
        ]
    )
