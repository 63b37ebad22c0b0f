"""Public functions that are told apart from others by refusing arguments of another kind."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, ParamSpec, TypeVar

from cutaway.base.errors import UserError

P, R = ParamSpec("P"), TypeVar("R")


def door(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with its arguments looked at first: TypeError for one of another kind.

    Only annotations made of plain kinds are looked at (numbers, text, paths, mappings, and the
    classes named in `_CLASSES`); what a value of the right kind may be is the function's to say.
    Raises UserError for a path with a NUL character.
    """
    signature = inspect.signature(function)
    plain = {
        name: kinds
        for name, parameter in signature.parameters.items()
        if (kinds := _kinds(parameter.annotation))
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }

    @functools.wraps(function)
    def looked_at(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in plain:
                _require(name, value, plain[name])
        return function(*args, **kwargs)

    return looked_at


def _scalar(value: Any) -> bool:
    return getattr(value, "ndim", 0) == 0


def _is_whole(value: Any) -> bool:
    whole = hasattr(value, "__index__") and not isinstance(value, bool)
    return _scalar(value) and whole and not _is_of(value, "Tensor")


def _is_number(value: Any) -> bool:
    real = hasattr(value, "__float__") or hasattr(value, "__index__")
    return _scalar(value) and real and not _is_of(value, "Tensor")


def _is_of(value: Any, name: str) -> bool:
    return any(one.__name__ == name for one in type(value).__mro__)


_CLASSES = ("Model", "Backpack", "ActivationStore", "Site")
_PLAIN: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "None": ("None", lambda value: value is None),
    "bool": ("true or false", lambda value: isinstance(value, bool) or _is_of(value, "bool")),
    "int": ("a whole number", _is_whole),
    "float": ("a number", _is_number),
    "str": ("text", lambda value: isinstance(value, str)),
    "Path": ("a path", lambda value: isinstance(value, PathLike)),
    "os.PathLike[str]": ("a path", lambda value: isinstance(value, PathLike)),
    "Mapping[str, Any]": ("a mapping", lambda value: isinstance(value, Mapping)),
    "torch.device": ("a device", lambda value: _is_of(value, "device")),
} | {
    name: (f"a {name}", functools.partial(lambda name, value: _is_of(value, name), name))
    for name in _CLASSES
}


def _kinds(annotation: Any) -> list[str]:
    kinds = [one.strip() for one in annotation.split("|")] if isinstance(annotation, str) else []
    return kinds if all(one in _PLAIN for one in kinds) else []


def _require(name: str, value: Any, kinds: list[str]) -> None:
    if not any(_PLAIN[one][1](value) for one in kinds):
        expected = " or ".join(dict.fromkeys(_PLAIN[one][0] for one in kinds))
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    if any(_PLAIN[one][0] == "a path" for one in kinds) and "\0" in str(value):
        raise UserError(f"{name} = {str(value)!r}: expected a path without NUL characters")
