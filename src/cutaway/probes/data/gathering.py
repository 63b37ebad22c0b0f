"""Labels that a program hands over: columns or tables of any kind, as lists of equal length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cutaway.base.columns import (
    blank,
    column,
    is_table,
    look_alike,
    name_of,
    positions,
    require_lengths,
    table,
)
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.labelled.official import is_part, part_of, repeats, tell
from cutaway.labelled.tables import Columns


@dataclass
class Given:
    """Texts (or lists of words), their labels (or lists of them), groups and parts.

    Of lists of words `groups` may be None, and so may a label; texts all have both.
    """

    texts: list[Any]
    labels: list[Any]
    groups: list[str] | None
    split: list[str] | None
    of_words: bool


@dataclass
class _Raw:
    """Columns as they came, by position. `None`: not given."""

    texts: list[Any] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    groups: list[Any] | None = None
    split: list[Any] | None = None


def gathered(
    texts: Any,
    labels: Any,
    groups: Any,
    split: Any,
    columns: Columns,
    name: str,
) -> Given:
    """What `labelled.data_of` was given, checked. UserError for what does not go together."""
    raw = _read(texts, labels, groups, split, columns, name)
    lengths = {"texts": len(raw.texts), "labels": len(raw.labels)}
    if raw.groups is not None:
        lengths["groups"] = len(raw.groups)
    if raw.split is not None:
        lengths["parts"] = len(raw.split)
    require_lengths(name, lengths)
    parts = None if raw.split is None else _parts(raw.split, name)
    named = None if raw.groups is None else _groups(raw.groups, raw.texts, name)
    if any(isinstance(text, list | tuple) for text in raw.texts):
        return _of_words(raw, named, parts, name)
    return _of_texts(raw, named, parts, name)


# -- reading ---------------------------------------------------------------------------------------


def _read(texts: Any, labels: Any, groups: Any, split: Any, columns: Columns, name: str) -> _Raw:
    if isinstance(texts, Mapping) and texts and all(map(is_part, texts)):
        texts = {
            part: tuple(one) if _is_pair(one, list) and not is_table(one) else one
            for part, one in texts.items()
        }
    if isinstance(texts, Mapping) and texts and all(map(_is_part_table, texts.values())):
        return _by_part(texts, labels, groups, columns, name)
    if is_table(texts):
        return _of_table(texts, labels, groups, split, columns)
    if labels is None:
        raise UserError("labels: expected one for each text, or a table in the place of texts")
    for what, value in (("labels", labels), ("groups", groups), ("split", split)):
        if isinstance(value, str):
            raise UserError(
                f"{what} = {value!r}: the name of a column goes with a table in the place of texts"
            )
    return _Raw(
        column(texts, "texts"),
        column(labels, "labels"),
        None if groups is None else column(groups, "groups"),
        None if split is None else column(split, "split"),
    )


def _is_part_table(value: Any) -> bool:
    return is_table(value) or _is_pair(value, tuple)


def _is_pair(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and len(value) == 2 and not isinstance(value[0], str)


def _by_part(
    tables: Mapping[str, Any], labels: Any, groups: Any, columns: Columns, name: str
) -> _Raw:
    """A table, or a pair of texts and labels, for each part."""
    for what, value in (("labels", labels), ("groups", groups)):
        if value is not None and not isinstance(value, str):
            raise UserError(
                f"{what}: with a table for each part, expected the name of one of their columns"
            )
    found = _Raw(split=[])
    found_groups: list[Any] = []
    for key, value in tables.items():
        part = part_of(key, f"{name}: split")
        if is_table(value):
            one = _of_table(value, labels, groups, None, columns, keep_split=False)
        else:
            one = _Raw(column(value[0], f"{key}: texts"), column(value[1], f"{key}: labels"))
        require_lengths(f"{name}: {key}", {"texts": len(one.texts), "labels": len(one.labels)})
        found.texts += one.texts
        found.labels += one.labels
        found.split += [part] * len(one.texts)
        found_groups += one.groups if one.groups is not None else [None] * len(one.texts)
    if any(group is not None for group in found_groups):
        found.groups = found_groups
    return found


def _of_table(
    texts: Any, labels: Any, groups: Any, split: Any, columns: Columns, keep_split: bool = True
) -> _Raw:
    found = table(texts, index=True)

    def role(what: str, given: Any, named: str | None, usual: str) -> list[Any] | None:
        """The column given, or named, or of the usual name where there is one."""
        if given is not None and not isinstance(given, str):
            return column(given, what)
        chosen = given or named
        if chosen is None and usual not in found.names:
            return None
        return found.column(chosen or usual, what)

    parts = role("split", split, columns.split, "split") if keep_split else None
    if (
        parts is not None
        and split is None
        and columns.split is None
        and not any(map(is_part, parts))
    ):
        notice("the column 'split' names no part (train, validation, test) and is not used")
        parts = None
    return _Raw(
        found.column(columns.text, "text"),
        role("label", labels, columns.label, "label") or [],
        role("group", groups, columns.group, "group"),
        parts,
    )


# -- checking --------------------------------------------------------------------------------------


def _parts(split: Sequence[Any], name: str) -> list[str]:
    if gaps := [row for row, one in enumerate(split) if one is None]:
        raise UserError(f"{name}: split: missing at {positions(gaps)}")
    return [part_of(one, f"{name}: split") for one in split]


def _groups(groups: Sequence[Any], texts: Sequence[Any], name: str) -> list[str]:
    """Names of groups; a text without one is its own group, by its text."""
    if gaps := [row for row, one in enumerate(groups) if blank(one)]:
        notice(
            f"{name}: {len(gaps):,} texts have no group ({positions(gaps)}); equal ones among them "
            "are a group"
        )
    return [
        str(text) if blank(group) else name_of(group)
        for group, text in zip(groups, texts, strict=True)
    ]


def _of_texts(raw: _Raw, groups: list[str] | None, parts: list[str] | None, name: str) -> Given:
    for row, text in enumerate(raw.texts):
        if text is not None and not isinstance(text, str):
            raise UserError(
                f"{name}: texts: {type(text).__name__} at position {row}, expected a text or a list "
                "of words"
            )
    for row, label in enumerate(raw.labels):
        if isinstance(label, list | tuple):
            raise UserError(
                f"{name}: labels: a list at position {row}, and its text is not a list of words"
            )
    kept = []
    for what, values in (("text", raw.texts), ("label", raw.labels)):
        if gaps := [row for row, value in enumerate(values) if blank(value)]:
            notice(
                f"{name}: {len(gaps):,} texts have no {what} and are left out ({positions(gaps)})"
            )
    for row, (text, label) in enumerate(zip(raw.texts, raw.labels, strict=True)):
        if not blank(text) and not blank(label):
            kept.append(row)
    texts = [raw.texts[row] for row in kept]
    labels = [name_of(raw.labels[row]) for row in kept]
    tell(name, repeats(texts, labels))
    _tell_alike(labels, name)
    return Given(
        texts,
        labels,
        texts if groups is None else [groups[row] for row in kept],
        None if parts is None else [parts[row] for row in kept],
        of_words=False,
    )


def _of_words(raw: _Raw, groups: list[str] | None, parts: list[str] | None, name: str) -> Given:
    for number, (words, tags) in enumerate(zip(raw.texts, raw.labels, strict=True)):
        lists = isinstance(words, list | tuple) and isinstance(tags, list | tuple)
        if not lists or len(words) != len(tags):
            raise UserError(
                f"{name}: text {number}: expected a list of words and as many labels, as the "
                "other texts have"
            )
        if wrong := [word for word in words if not isinstance(word, str)]:
            raise UserError(f"{name}: text {number}: {wrong[0]!r} is no word")
    labels = [[None if blank(one) else name_of(one) for one in tags] for tags in raw.labels]
    _tell_alike([one for tags in labels for one in tags if one is not None], name)
    return Given(raw.texts, labels, groups, parts, of_words=True)


def _tell_alike(labels: Sequence[str], name: str) -> None:
    if line := look_alike(labels):
        notice(f"{name}: labels {line}")
