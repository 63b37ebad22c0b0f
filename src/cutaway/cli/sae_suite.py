"""`cutaway sae eval --suite`: evaluations of dictionaries on labelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutaway.base import display
from cutaway.base.errors import UserError

_MOST_SEEDS = 1000


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
    """Judge each dictionary by the evaluations named, and show what came out.

    Rows are kept as suite.parquet in each dictionary's folder, or in OUT (of several in OUT/NAME),
    with a picture in figures/ there. What is wrong with the input is told before anything slow.
    """
    from cutaway.evaluations.suite import run as suite
    from cutaway.evaluations.suite.letters import around, listed
    from cutaway.evaluations.suite.pictures import suite_picture
    from cutaway.evaluations.suite.summary import tables
    from cutaway.figures.look import save
    from cutaway.runs import checksums
    from cutaway.workbench import session as using
    from cutaway.workbench.suite import judged

    chosen = suite.chosen(names)
    if not 1 <= seeds <= _MOST_SEEDS:
        raise UserError(f"seeds = {seeds}: expected 1 to {_MOST_SEEDS:,}")
    if template not in (None, "none"):
        around(template)
    asked = {
        "tasks": labelled(tasks),
        "crossed": _crossed(crossed),
        "words": words if words in (None, "all") else listed(words),
    }
    each = using.sessions(dictionaries, model=model)
    for one in each[1:]:  # the first is opened when it is judged
        _ = one.model
    labels = _labels(dictionaries)
    several = len(dictionaries) > 1
    rows: list[dict[str, Any]] = []
    for session, label in zip(each, labels, strict=True):
        folder = session.folder
        if out is not None:
            folder = out / label if several else out
        found = judged(
            session,
            chosen,
            **asked,
            template=template,
            seeds=range(seeds),
            folder=folder,
        )
        display.notice(f"wrote {folder / suite.FILE}")
        if (figure := suite_picture(suite.stored(folder), title=label)) is not None:
            place = folder / "figures" / "suite.png"
            place.parent.mkdir(exist_ok=True)
            display.notice(f"wrote {save(figure, place)}")
        if out is not None:
            checksums.finish(folder)
        if format == "table":
            for title, lines in tables(found):
                display.show(lines, title=f"{label}: {title}" if several else title)
        rows += [{"dictionary": label, **row} for row in found]
    if format != "table":
        display.show(rows, format)


def labelled(places: Sequence[str] | None) -> list[Any] | None:
    """The tasks in the places named, no two of a name."""
    from cutaway.labelled.files import read_tasks

    if places is None:
        return None
    found = [task for place in places for task in read_tasks(place)]
    _require_different("tasks", [task.name for task in found])
    return found


def _crossed(paths: Sequence[Path] | None) -> list[Any] | None:
    from cutaway.evaluations.suite.crossed import crossed_table

    if paths is None:
        return None
    found = [crossed_table(path) for path in paths]
    _require_different("crossed", [texts.name for texts in found])
    return found


def _require_different(field: str, names: Sequence[str]) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{field}: two are called {twice!r}; their rows could not be told apart")


def _labels(dictionaries: Sequence[Path]) -> list[str]:
    """A name for each dictionary, that of its folder, with a number where that is taken."""
    from cutaway.workbench.session import home

    labels: list[str] = []
    for path in dictionaries:
        name = label = home(path).absolute().name
        number = 1
        while label in labels:
            number += 1
            label = f"{name}-{number}"
        labels.append(label)
    return labels
