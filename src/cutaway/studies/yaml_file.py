"""Reading a file of settings: YAML 1.2, within bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cutaway.base import files
from cutaway.base.errors import UserError
from cutaway.base.files import as_path
from cutaway.base.json_text import DEEPEST, require_shallow

_BRACKETS = re.compile(r"[\[\]{}]")
_LARGEST = 5_000_000  # bytes of a YAML file
_MOST_VALUES = 1_000_000  # in one, anchors unfolded


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping a YAML file holds (YAML 1.2: `1e-8` is a number; a repeated key is an error).

    Raises UserError for anything else, for files above 5 MB, for values nested more than a hundred
    deep and for anchors that unfold to more than a million values.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    path = as_path(path)
    try:
        text = files.read_bytes(path, _LARGEST).decode("utf-8-sig")
        _require_few_brackets(text, path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file (settings are YAML in UTF-8)") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: {str(error.problem).splitlines()[0]}") from None
    except RecursionError:
        raise UserError(f"{path}: nested more than {DEEPEST} levels deep") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    except Exception as error:  # the library lets its own slips through, as for a list as a key
        raise UserError(f"{path}: not readable YAML: {type(error).__name__}: {error}") from None
    _require_plain(values, path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `field: value` lines, found {type(values).__name__}")
    try:
        return field_names(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def field_names(values: Mapping[Any, Any]) -> dict[str, Any]:
    """The mapping with its keys as fields are named: `n-embd` is `n_embd`.

    Raises UserError for a field that is given in both ways of writing.
    """
    named: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name in named:
            raise UserError(f"{name}: is given twice, with hyphens and with underscores")
        named[name] = value
    return named


def _require_few_brackets(text: str, path: Path) -> None:
    """Refuse at once what the YAML library would need long to find nested too deeply."""
    depth = 0
    for bracket in _BRACKETS.finditer(text):
        depth = depth + 1 if bracket[0] in "[{" else max(0, depth - 1)
        if depth > 10 * DEEPEST:
            raise UserError(f"{path}: nested more than {DEEPEST} levels deep")


def _require_plain(values: Any, path: Path) -> None:
    """Refuse what unfolds to far more than the file holds, or without an end."""
    try:
        require_shallow(values)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if _unfolded(values, {}) > _MOST_VALUES:
        raise UserError(f"{path}: its anchors unfold to more than {_MOST_VALUES:,} values")


def _unfolded(value: Any, known: dict[int, int]) -> int:
    """How many values there are in one, those behind an anchor counted each time it is used."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_unfolded(part, known) for part in parts)
    return known[id(value)]
