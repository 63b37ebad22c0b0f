"""JSON that others wrote, read so that whatever it holds ends in a value or in one line."""

from __future__ import annotations

import json
from typing import Any

DEEPEST = 100  # levels of lists and objects: everything that walks values recurses on them


def loads(text: str | bytes, *, deepest: int = DEEPEST, escape: bool = False) -> Any:
    """The value of a JSON text. `ValueError`, in one line, for anything else.

    Refused as well: lists and objects nested more than `deepest` levels deep, and whole numbers of
    thousands of digits. Halves of characters (`\\ud800`), which JSON can hold and UTF-8 cannot,
    become the text of their escape with `escape`.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep(deepest) from None
    except UnicodeDecodeError:
        raise ValueError("not a text in UTF-8") from None
    half, list_, object_ = (b"\\u", b"[", b"{") if isinstance(text, bytes) else ("\\u", "[", "{")
    look = escape and half in text
    if not look and text.count(list_) + text.count(object_) <= deepest:
        return value  # too few brackets to be nested deeply: most lines of text
    return _escaped(value) if _checked(value, look, deepest) else value


def require_shallow(value: Any) -> None:
    """ValueError for lists and mappings nested more than `DEEPEST` deep, or within themselves."""
    level, depth = [value] if isinstance(value, dict | list | tuple) else [], 0
    while level:
        if depth > DEEPEST:
            raise _too_deep(DEEPEST)
        inner: dict[int, Any] = {}
        for one in level:
            parts = one.values() if isinstance(one, dict) else one
            inner.update(
                (id(part), part) for part in parts if isinstance(part, dict | list | tuple)
            )
        level, depth = list(inner.values()), depth + 1


def _checked(value: Any, look: bool, deepest: int) -> bool:
    """Whether a text holds halves of characters, looked for with `look`; refuses what is too deep."""
    level, halves = [value], False
    for _ in range(deepest + 1):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += one.values()
                if look:
                    below += one.keys()
            elif isinstance(one, list):
                below += one
            elif look and isinstance(one, str):
                halves = halves or not _encodable(one)
        if not below:
            return halves
        level = below
    raise _too_deep(deepest)


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {encodable(key): _escaped(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_escaped(one) for one in value]
    return value


def encodable(text: str) -> str:
    """`text` with what UTF-8 cannot hold as escapes: `\\ud800`."""
    return text if _encodable(text) else text.encode("utf-8", "backslashreplace").decode()


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_deep(deepest: int) -> ValueError:
    return ValueError(f"nested more than {deepest} levels deep")
