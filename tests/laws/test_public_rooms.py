"""What each room says is public can be had from it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

import cutaway

ROOMS = sorted(path.parent.name for path in Path(cutaway.__file__).parent.glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_are_there_and_are_no_modules(room: str) -> None:
    module = import_module(f"cutaway.{room}")
    for name in getattr(module, "__all__", ()):
        found = getattr(module, name)
        assert type(found).__name__ != "module" or found.__name__ == f"cutaway.{room}.{name}"
    if room not in ("cli", "tour"):
        assert getattr(cutaway, room) is module
