"""Old names of modules still give what is there now, and say where it is."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from cutaway.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_gives_the_module_under_its_new_one(old: str) -> None:
    new = MOVED[old]
    home = import_module(f"cutaway.{new}")
    spec = home.__spec__
    sys.modules.pop(f"cutaway.{old}", None)
    with pytest.warns(FutureWarning, match=rf"cutaway\.{old} is now cutaway\.{new}"):
        found = import_module(f"cutaway.{old}")
    assert found is home
    assert home.__spec__ is spec
    assert home.__name__ == f"cutaway.{new}"


def test_other_names_are_not_there() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_module("cutaway.probes.nothing")
