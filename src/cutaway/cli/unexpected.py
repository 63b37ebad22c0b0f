"""The outermost net of the command line: bounds for every option, one line for every error."""

from __future__ import annotations

import math
import os
from pathlib import PurePath
from typing import Any

from cyclopts import CoercionError, CycloptsError, ValidationError

from cutaway.base.errors import LARGEST_WHOLE, shortened

LONGEST_LINE = 1000  # characters of a message
_LONGEST_NAME = 255  # bytes of one part of a path, as file systems have it
_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false"}
_NO_MEMORY = ("can't allocate memory", "out of memory", "Unable to allocate", "bad allocation")


def within_bounds(kind: Any, value: Any) -> None:
    """A validator for cyclopts, of every option: ValueError for what nothing in here can take.

    Whole numbers beyond 63 bits, numbers that are not finite, NUL characters, names too long.
    """
    if isinstance(value, list | tuple | set):
        for one in value:
            within_bounds(kind, one)
    elif isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        raise ValueError("expected a whole number below 2^63")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("expected a finite number")
    elif isinstance(value, str | PurePath) and "\0" in str(value):
        raise ValueError("expected text without NUL characters")
    elif isinstance(value, PurePath):
        for part in value.parts:
            if len(os.fsencode(part)) > _LONGEST_NAME:
                raise ValueError(
                    f"a name of {len(os.fsencode(part))} bytes; file systems take {_LONGEST_NAME}"
                )


def wrong_value(error: CycloptsError) -> str:
    """`--seed = 1e30: expected a whole number`, of a value that does not do; empty for other errors."""
    if isinstance(error, ValidationError) and error.argument and error.argument.tokens:
        token = error.argument.tokens[0]
        said = error.exception_message
    elif isinstance(error, CoercionError) and error.token and error.target_type in _EXPECTED:
        token, said = error.token, f"expected {_EXPECTED[error.target_type]}"
    else:
        return ""
    name = token.keyword or (error.argument.name.lstrip("-").upper() if error.argument else "")
    return f"{name} = {shortened(token.value)}: {said}" if name else ""


def in_one_line(error: Exception) -> str:
    """What to tell of an error that no command foresaw."""
    said = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(mark in said for mark in _NO_MEMORY):
        more = f" ({said})" if said else ""
        return (
            "out of memory: lower what the command was asked for (batch size, context length, "
            f"width, layers, tokens, how many) or free some{more}"
        )
    if isinstance(error, OSError):
        where = f"{shortened(os.fsdecode(error.filename))}: " if _is_path(error.filename) else ""
        return f"{where}{error.strerror or said or type(error).__name__}"
    if isinstance(error, ImportError):
        return f"{said}; is everything installed that this needs? `pip install` it"
    return f"unexpected {type(error).__name__}: {said}; run again with --debug for the traceback"


def _is_path(name: Any) -> bool:
    return isinstance(name, str | bytes) and bool(name)
