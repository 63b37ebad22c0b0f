"""Arguments as people hold them: columns and arrays of any kind become tensors, by position."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from cutaway.base.columns import tensor

F = TypeVar("F", bound=Callable[..., Any])


def tensors(*names: str) -> Callable[[F], F]:
    """Let a function take columns for the arguments of these names: lists, arrays, Series, ...

    A tensor, a number and None are handed on as they are. Raises UserError, naming the argument,
    for what holds no numbers (`base.columns.tensor`).
    """

    def decorated(function: F) -> F:
        signature = inspect.signature(function)
        places = {name: place for place, name in enumerate(signature.parameters) if name in names}

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            values = list(args)
            for name, place in places.items():
                if place < len(values):
                    values[place] = _taken(values[place], name)
                elif name in kwargs:
                    kwargs[name] = _taken(kwargs[name], name)
            return function(*values, **kwargs)

        return wrapped  # type: ignore[return-value]

    return decorated


def _taken(value: Any, name: str) -> Any:
    if value is None or isinstance(value, torch.Tensor | int | float):
        return value
    return tensor(value, name)
