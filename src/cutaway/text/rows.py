"""Rows to documents: JSON lines, Parquet and hub corpora hold text in columns of a few shapes.

A text column gives a document per row; a `translation` column (a mapping of languages) gives a
document per language and block of lines; `question` with `best_answer` gives one per question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cutaway.base.errors import UserError
from cutaway.text.chat import COLUMNS
from cutaway.text.decoding import normal_newlines
from cutaway.text.documents import Document

BLOCK = 200  # lines of a parallel corpus in one document: some 30 KB, a few speeches


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the text of a row is: the columns to read, and for translations the languages."""

    kind: Literal["text", "translation", "question"]
    columns: tuple[str, ...]
    languages: tuple[str, ...] = ()


QUESTION = Shape("question", ("question", "best_answer"))


def shape(columns: Mapping[str, Any], where: str, wanted: str | None = None) -> Shape:
    """The shape of rows whose `columns` map each name to `'text'`, a list of languages, or None.

    `wanted` is the column the user named. Otherwise `text`, else `passage`, else the only column
    of text. Raises UserError naming the columns where that is no answer.
    """
    texts = [name for name, kind in columns.items() if kind == "text"]
    if wanted is not None:
        if wanted not in texts:
            known = ", ".join(texts) or "none"
            raise UserError(f"{where}: no text column {wanted!r}; its text columns: {known}")
        return Shape("text", (wanted,))
    for name in ("text", "passage"):
        if name in texts:
            return Shape("text", (name,))
    if isinstance(languages := columns.get("translation"), list | tuple) and languages:
        return Shape("translation", ("translation",), tuple(languages))
    if {"question", "best_answer"} <= set(texts):
        return QUESTION
    if len(texts) == 1:
        return Shape("text", (texts[0],))
    listed = [*list(columns)[:20], *(["..."] if len(columns) > 20 else [])]
    raise UserError(
        f"{where}: which column holds the text? expected text or passage, or write {where}::COLUMN; "
        f"columns: {', '.join(listed) or 'none'}{hint_of_chat(columns)}"
    )


def hint_of_chat(columns: Iterable[str]) -> str:
    """`; conversations ... are read with chat` where a column is called as those of conversations are."""
    found = [name for name in columns if name in COLUMNS]
    return f"; conversations (column {found[0]}) are read with chat" if found else ""


def kinds(rows: Iterable[Mapping[str, Any]], wanted: str | None = None) -> dict[str, Any]:
    """The columns of rows in the form `shape` takes; empty where there is no row.

    Only as many rows are read as decide which column holds the text: a null in the first rows says
    nothing about a column, and a column may begin late. A column is of text where one of
    its values is; languages are those of any row.
    """
    found: dict[str, Any] = {}
    decisive = wanted or "text"  # nothing in a later row goes before this column
    for row in rows:
        for name, value in row.items():
            if value is None:
                found.setdefault(name, None)
                continue
            kind, known = _kind(value), found.get(name)
            if name not in found or known is None:
                found[name] = kind if kind is not None else _OTHER
            elif isinstance(known, list) and isinstance(kind, list):
                found[name] = [*known, *(one for one in kind if one not in known)]
            elif known != kind:  # a row whose value is no text is refused when it is read
                found[name] = "text" if "text" in (known, kind) else _OTHER
        if found.get(decisive) == "text":
            break
    return {name: None if kind == _OTHER else kind for name, kind in found.items()}


_OTHER = "other"


@dataclass(slots=True)
class Counts:
    """Rows that were read, and those of them without a text."""

    rows: int = 0
    blank: int = 0


def documents(
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    shape: Shape,
    name: str,
    counts: Counts | None = None,
) -> Iterator[Document]:
    """The documents in `rows`, pairs of (where it stands, row); blank ones are left out and counted.

    A text row's id is where it stands, so that ids don't shift when blank rows go.
    """
    counts = counts or Counts()
    if shape.kind == "translation":
        yield from _blocks(rows, shape.languages, name, counts)
        return
    for where, row in rows:
        counts.rows += 1
        values = [_text(row, column, where) for column in shape.columns]
        if all(value.strip() for value in values):
            yield Document(where, normal_newlines("\n".join(values)))
        else:
            counts.blank += 1


def _blocks(
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    languages: Sequence[str],
    name: str,
    counts: Counts,
) -> Iterator[Document]:
    lines: dict[str, list[str]] = {language: [] for language in languages}
    block = 1
    for count, (where, row) in enumerate(rows, start=1):
        counts.rows += 1
        sentence = row.get("translation")
        if sentence is None:
            counts.blank += 1
            continue
        if not isinstance(sentence, Mapping):
            raise UserError(f"{where}: 'translation' is {sentence!r}, expected a text per language")
        some = False
        for language in languages:
            said = _text(sentence, language, where) if language in sentence else ""
            if text := " ".join(said.split()):
                lines[language].append(text)
                some = True
        counts.blank += not some
        if count % BLOCK == 0:
            yield from _flushed(lines, f"{name}#{block:06d}")
            block += 1
    yield from _flushed(lines, f"{name}#{block:06d}")


def _flushed(lines: dict[str, list[str]], block: str) -> Iterator[Document]:
    for language, kept in lines.items():
        if kept:
            yield Document(f"{block}.{language}", "\n".join(kept))
            kept.clear()


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    """The row's text in a column; a null is blank."""
    if column not in row:
        raise UserError(f"{where}: no column {column!r}; it has: {', '.join(map(str, row))}")
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: column {column!r} is {type(value).__name__}, expected text")
    # JSON can spell half a surrogate pair, which no encoding can write.
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _kind(value: Any) -> Any:
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values()):
        return list(value)
    return None
