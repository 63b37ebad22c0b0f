"""A command opens a dictionary and its model once, however often it asks for them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.workbench import session


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each dictionary and model was opened."""
    counts: Counter[str] = Counter()

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: str | Path, *args: Any, **kwargs: Any) -> Any:
            counts[Path(path).name] += 1
            return function(path, *args, **kwargs)

        return counted

    monkeypatch.setattr(Dictionary, "load", staticmethod(counting(Dictionary.load)))
    monkeypatch.setattr(session, "open_model", counting(session.open_model))
    return counts


@pytest.fixture
def two(dictionary_run: Path, tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(dictionary_run, tmp_path / name)) for name in ("one", "other")]


def test_two_dictionaries_are_loaded_once_and_their_model_once(
    cutaway: Callable[..., tuple[int, str, str]], two: list[Path], opens: Counter[str]
) -> None:
    code, _, err = cutaway("sae", "eval", *two, "--tokens", "200", "--json")
    assert code == 0, err
    model = next(iter(opens.keys() - {"one", "other"}))
    assert opens == {"one": 1, "other": 1, model: 1}


def test_dictionaries_beyond_the_room_are_read_again(
    two: list[Path], opens: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(one.nbytes for one in Dictionary.load(two[0]).state_dict().values())
    monkeypatch.setattr(session, "HELD_BYTES", size)
    opens.clear()
    first, second = session.sessions(two)
    for one in (first, second):
        assert one.dictionary.shape == one.dictionary.shape
    assert opens == {"one": 1, "other": 2}
    assert first.model is second.model


def test_what_is_wrong_with_the_last_is_told_before_the_first_is_judged(
    cutaway: Callable[..., tuple[int, str, str]], two: list[Path]
) -> None:
    (two[1] / "run.json").unlink()
    before = sorted(path.name for path in two[0].iterdir())
    code, out, err = cutaway("sae", "eval", *two, "--tokens", "200")
    assert code == 2
    assert err.count("\n") == 1
    assert not out
    assert sorted(path.name for path in two[0].iterdir()) == before
