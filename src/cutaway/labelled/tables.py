"""A task from tables: a text and a label in each row, perhaps its document and its part.

Every row that is read is either in the task or counted in a notice with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base.columns import blank, look_alike, missing, name_of
from cutaway.base.display import notice
from cutaway.base.errors import UserError, nearest
from cutaway.labelled.official import is_part, part_of, repeats, tell
from cutaway.labelled.rows import labelled_rows
from cutaway.labelled.texts import LabelledTexts
from cutaway.text.chat import COLUMNS
from cutaway.text.rows import hint_of_chat

if TYPE_CHECKING:
    from cutaway.text.conversations import Chosen

_SHOWN = 3  # rows that a message names


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns. None: `group` and `split`, where the table has them."""

    text: str = "text"
    label: str = "label"
    group: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        for what in ("text", "label", "group", "split"):  # names may be numbers in a DataFrame
            if (chosen := getattr(self, what)) is not None:
                object.__setattr__(self, what, str(chosen))

    def name(self, what: str) -> str:
        """The column of that role."""
        chosen = getattr(self, what)
        return what if chosen is None else chosen


def table_task(
    path: Path | Mapping[str, Sequence[Path]],
    columns: Columns | None = None,
    chosen: Chosen | None = None,
) -> LabelledTexts:
    """`text` and `label` of each row; rows with the same `group`, else the same text, belong together.

    `path` is a .csv, .tsv, .jsonl or .parquet file, or such files by part (train, validation,
    test). A column `split` says the part of each row: it is kept (`LabelledTexts.split`). Rows
    without a text or a label (empty, null or NaN) are left out, counted in a notice, as are
    repeated texts (which stay). With `chosen` rows hold conversations in the place of texts, in
    `messages` or another column of that kind, and the texts are what the chat template writes.
    Raises UserError naming file and line for rows that are not right.
    """
    parts = path if isinstance(path, Mapping) else {None: [path]}
    read = _Read(columns or Columns(), isinstance(path, Mapping), chosen)
    for part, files in parts.items():
        for file in files:
            read.file(file, part)
    first = next(file for files in parts.values() for file in files)
    name = first.name.partition(".")[0] if None in parts else first.resolve().parent.name
    return read.task(name, str(first if None in parts else first.parent))


class _Read:
    """Rows of one or several tables, collected."""

    def __init__(self, columns: Columns, by_file: bool, chosen: Chosen | None = None):
        self.columns, self.by_file, self.chosen = columns, by_file, chosen
        plain = columns.text == Columns().text
        self.conversation = None if plain else columns.text  # None: the usual columns
        self.texts: list[str] = []
        self.labels: list[str] = []
        self.groups: list[str] = []
        self.split: list[Any] = []
        self.ungrouped: list[str] = []
        self.rows = 0
        self.without: dict[str, list[str]] = {"text": [], "label": []}

    def file(self, path: Path, part: str | None) -> None:
        """Read a table whose rows are all of `part`, or each of what its column `split` says."""
        wanted = [self.columns.name(one) for one in ("text", "label", "group", "split")]
        if self.by_file and self.columns.split is not None:
            raise UserError(
                f"split = {self.columns.split!r}: does not go with a file for each part"
            )
        if self.chosen is not None:
            wanted += COLUMNS
        for where, row in labelled_rows(path, wanted):
            self.rows += 1
            self._require_columns(where, row)
            text, label = self._text(where, row), row[self.columns.label]
            if text is None:
                continue
            if blank(label):
                self.without["label"].append(where)
                continue
            whole = isinstance(label, float) and label.is_integer()
            if not whole and not isinstance(label, str | int | bool):
                raise UserError(
                    f"{where}: {self.columns.label!r} is {type(label).__name__}, expected a name "
                    "or whole number"
                )
            self.texts.append(text)
            self.labels.append(name_of(label))
            group = row.get(self.columns.name("group"))
            known = not blank(group)
            if not known:
                self.ungrouped.append(where)
            self.groups.append(name_of(group) if known else text)
            told = row.get(self.columns.name("split"))
            self.split.append(part if self.by_file else (where, told))

    def _text(self, where: str, row: Mapping[str, Any]) -> str | None:
        """The row's text, None where it has none, which is counted."""
        if self.chosen is not None:
            return self.chosen.text(where, row, self.conversation)
        text = row[self.columns.text]
        if blank(text):
            self.without["text"].append(where)
            return None
        if not isinstance(text, str):
            raise UserError(
                f"{where}: {self.columns.text!r} is {type(text).__name__}, expected text"
            )
        return text

    def task(self, name: str, place: str) -> LabelledTexts:
        """The task of all rows; what was left out, and what is odd about the rest, is announced."""
        if self.chosen is not None:
            self.chosen.tell()
        for what, where in self.without.items():
            if where:
                listed = ", ".join(one.rpartition(": ")[2] for one in where[:_SHOWN])
                more = ", ..." if len(where) > _SHOWN else ""
                notice(
                    f"{place}: {len(where):,} rows have no {what} and are left out "
                    f"(of {self.rows:,} rows: {listed}{more})"
                )
        if 0 < len(self.ungrouped) < len(self.texts):
            notice(
                f"{place}: {len(self.ungrouped):,} of {len(self.texts):,} rows have no group; those of "
                "equal texts are a group"
            )
        tell(place, repeats(self.texts, self.labels))
        if line := look_alike(self.labels):
            notice(f"{place}: labels {line}")
        return LabelledTexts(name, self.texts, self.labels, self.groups, self._parts(place))

    def _parts(self, place: str) -> list[str] | None:
        if self.by_file:
            return self.split
        told = [(where, one) for where, one in self.split]
        blank = [one for _, one in told if missing(one) or not str(one).strip()]
        if len(blank) == len(told):
            return None
        if self.columns.split is None and not any(is_part(one) for _, one in told):
            notice(
                f"{place}: the column 'split' names no part (train, validation, test) and is not used"
            )
            return None
        return [part_of("" if missing(one) else one, f"{where}: split") for where, one in told]

    def _require_columns(self, where: str, row: Mapping[str, Any]) -> None:
        for role in ("text", "label", "group", "split"):
            asked = getattr(self.columns, role)
            if asked is None or asked in row or (role == "text" and self.chosen is not None):
                continue
            known = ", ".join(map(str, row)) or "none"
            plain = (self.columns.text, self.columns.label) == ("text", "label")
            texts = "text" if self.chosen is None else "messages"
            expected = f"{texts} and label" if plain else f"the column {asked!r}"
            raise UserError(
                f"{where}: no {asked!r}{nearest(asked, map(str, row))}; expected {expected}, "
                f"columns: {known}{hint_of_chat(row) if self.chosen is None else ''}"
            )
