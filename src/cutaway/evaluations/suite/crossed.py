"""Texts with two labels of two classes each: what spurious correlation removal needs.

Where they come from: two tasks over the same texts (`cross`, as a CoNLL file gives one per entity
type: sentences that name a person, sentences that name a place), a table with a second column of
labels (`crossed_table`), a task and a trait one can see in a text (`with_trait`: a language and
whether a number is in it), or the docstrings every Python has (`crossed_docstrings`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from cutaway.base.columns import column, missing, name_of, positions
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.labelled import files as reading
from cutaway.labelled.official import part_of
from cutaway.labelled.rows import labelled_rows
from cutaway.labelled.texts import LabelledTexts
from cutaway.text.docstrings import DocstringsSource

NUMBER = r"\d"
_READ = (".jsonl", ".csv", ".tsv")


@dataclass(frozen=True)
class CrossedTexts:
    """Texts with two labels each, of two classes each, and the document each is from.

    The columns are what `base.columns.column` takes, read by position. `split` is the part that came
    with the data for each text, or None. `names` says what the two labels are. Of each label the class that sorts first counts as 0, the
    other as 1; a probe is biased towards texts whose two labels are both 0 or both 1. Raises
    UserError where a label has not two classes, or one of the four combinations has under 10 texts
    or comes from under three documents.
    """

    name: str
    texts: Sequence[str]
    first: Sequence[str]
    second: Sequence[str]
    groups: Sequence[str]
    names: tuple[str, str] = ("first", "second")
    split: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for field in ("texts", "first", "second", "groups"):
            values = column(getattr(self, field), f"{self.name}: {field}")
            if gaps := [row for row, value in enumerate(values) if value is None]:
                raise UserError(f"{self.name}: {field}: missing at {positions(gaps)}")
            named = values if field == "texts" else [name_of(value) for value in values]
            object.__setattr__(self, field, named)
        for name, labels in zip(self.names, (self.first, self.second), strict=True):
            if len(labels) != len(self.texts):
                raise UserError(
                    f"{self.name}: {len(self.texts)} texts and {len(labels)} labels of {name!r}"
                )
            if len(classes := sorted(set(labels))) != 2:
                found = ", ".join(classes[:5]) or "none"
                raise UserError(f"{self.name}: {name!r} has {found}; expected two classes")
        held = set(self.combined.labels)
        if lacking := [label for label in self._ids if label not in held]:
            raise UserError(
                f"{self.name}: no text is {lacking[0]}; all four combinations are needed"
            )

    @cached_property
    def classes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The two classes of each label, sorted."""
        return tuple(sorted(set(self.first))), tuple(sorted(set(self.second)))

    @cached_property
    def combined(self) -> LabelledTexts:
        """The texts with one label, of four: the combination of both."""
        both = [_both(*pair) for pair in zip(self.first, self.second, strict=True)]
        return LabelledTexts(self.name, self.texts, both, self.groups, self.split)

    @cached_property
    def _ids(self) -> dict[str, tuple[int, int]]:
        first, second = self.classes
        return {_both(a, b): (i, j) for i, a in enumerate(first) for j, b in enumerate(second)}

    def labels_of(self, chosen: LabelledTexts) -> np.ndarray:
        """Both labels as 0 and 1, (2, n), of some of the texts of `combined`."""
        return np.array([self._ids[label] for label in chosen.labels]).T


def cross(first: LabelledTexts, second: LabelledTexts) -> CrossedTexts:
    """Two tasks over the same texts in the same order as one; UserError where they are not."""
    if list(first.texts) != list(second.texts):
        raise UserError(
            f"{first.name}, {second.name}: not the same texts in the same order; labels can only "
            "be crossed on the same texts"
        )
    source, colon, _ = first.name.rpartition(": ")
    front = source + colon if second.name.startswith(source + colon) else ""
    names = first.name.removeprefix(front), second.name.removeprefix(front)
    name = front + " x ".join(names)
    labels = first.labels, second.labels
    return CrossedTexts(name, first.texts, *labels, first.groups, names, first.split)


def crossings(tasks: Sequence[LabelledTexts]) -> list[CrossedTexts]:
    """Every pair of the tasks that can be crossed: same texts, two classes, four combinations."""
    found = []
    for first, second in combinations(tasks, 2):
        try:
            found.append(cross(first, second))
        except UserError:
            continue  # few of the pairs of a file's tasks are meant for each other
    return found


def with_trait(
    task: LabelledTexts,
    pattern: str,
    *,
    name: str | None = None,
    classes: tuple[str, str] | None = None,
) -> CrossedTexts:
    """A task crossed with whether a text holds a match of `pattern` (a regular expression).

    `classes`: the two of the task that are kept, by default the two with most texts.
    """
    try:
        trait = re.compile(pattern)
    except re.error as error:
        raise UserError(f"pattern = {pattern!r}: not a regular expression: {error}") from None
    kept = classes or [label for label, _ in Counter(task.labels).most_common(2)]
    if unknown := [label for label in kept if label not in task.classes]:
        raise UserError(
            f"classes = {unknown}: {task.name} has {', '.join(task.classes)}; expected two of them"
        )
    rows = [row for row, label in enumerate(task.labels) if label in kept]
    texts = [task.texts[row] for row in rows]
    name = name or pattern
    return CrossedTexts(
        f"{task.name} x {name}",
        texts,
        [task.labels[row] for row in rows],
        ["yes" if trait.search(text) else "no" for text in texts],
        [task.groups[row] for row in rows],
        ("/".join(sorted(kept)), name),
        None if task.split is None else [task.split[row] for row in rows],
    )


def crossed_table(path: Path, columns: tuple[str, str] = ("label", "second_label")) -> CrossedTexts:
    """`text` and two columns of labels of a `.jsonl`, `.csv` or `.tsv`; `group` as in `read_tasks`."""
    if path.suffix.lower() not in _READ:
        raise UserError(f"{path}: expected {', '.join(_READ)} with two columns of labels")
    wanted = ("text", *columns, "group", "split")
    texts, groups, split, empty, rows = [], [], [], [], 0
    labels: tuple[list[str], list[str]] = ([], [])
    for where, row in labelled_rows(path, wanted):
        rows += 1
        for name in ("text", *columns):
            if name not in row or (name != "text" and missing(row[name])):
                known = ", ".join(map(str, row)) or "none"
                raise UserError(f"{where}: no {name!r}; columns: {known}")
        text = "" if missing(row["text"]) else str(row["text"]).strip()
        if not text:
            empty.append(where)
            continue
        texts.append(text)
        group = row.get("group")
        groups.append(text if missing(group) or not str(group).strip() else name_of(group))
        split.append(row.get("split"))
        for name, found in zip(columns, labels, strict=True):
            found.append(name_of(row[name]))
    if empty:
        notice(
            f"{path}: {len(empty):,} rows have no text and are left out (of {rows:,} rows, the first "
            f"in {empty[0].rpartition(': ')[2]})"
        )
    name = path.name.partition(".")[0]
    parts = None
    if any(not missing(one) and str(one).strip() for one in split):
        parts = [part_of("" if missing(one) else one, f"{path}: split") for one in split]
    return CrossedTexts(name, texts, *labels, groups, columns, parts)


def crossed_docstrings(*, characters: int = reading.CHARACTERS) -> CrossedTexts:
    """The default that needs no file: Python's language reference or its library's docstrings, and
    whether a passage has a digit in it; groups are topics and modules.

    On Python 3.11: 884 passages of the reference, 42 % of them with a digit, and 3,864 of the
    library, 37 %.
    """
    texts, register, groups = [], [], []
    for document in DocstringsSource().documents():
        for passage in reading.passages(document.text, characters):
            texts.append(passage)
            register.append("reference" if document.id.startswith("topics:") else "library")
            groups.append(document.id)
    task = LabelledTexts("docstrings", texts, register, groups)
    return with_trait(task, NUMBER, name="a digit")


def _both(first: str, second: str) -> str:
    return f"{first} & {second}"
