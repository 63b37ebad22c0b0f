"""Every figure that was read from a golden by `cutaway ... --json` is read from it today."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from golden.folders import VERSIONS
from golden.readings import COMPUTED, FINDS, RECORDED, ask, differences

READINGS = [
    pytest.param(version, one, id=f"{version.name}: {one['command']}")
    for version in VERSIONS
    for file in sorted((version / "expected").glob("*.json"))
    for one in json.loads(file.read_text())
]


@pytest.mark.parametrize(("version", "reading"), READINGS)
def test_a_golden_gives_the_figures_it_gave(
    version: Path, reading: dict[str, Any], copied: Callable[[Path], Path]
) -> None:
    now, before = ask(reading["command"], copied(version)), reading["answer"]
    if reading["command"] in FINDS:
        now, before = ({**one, "problems": None} for one in (now, before))
    assert not list(differences(before, now, reading["kind"]))


def test_a_figure_that_vanished_or_changed_is_told() -> None:
    saved = {"rows": [{"loss": 1.0, "run": "a"}], "steps": 3, "note": None}
    same = {"rows": [{"loss": 1.0 + 1e-13, "run": "a", "more": 1}], "steps": 3, "note": None}
    assert list(differences(saved, same, RECORDED)) == []
    for changed in (
        {**saved, "rows": [{"loss": 1.0001, "run": "a"}]},
        {**saved, "rows": [{"loss": 1.0, "run": "b"}]},
        {**saved, "rows": []},
        {**saved, "steps": None},
        {"rows": saved["rows"], "steps": 3},
        {**saved, "rows": [{"loss": float("nan"), "run": "a"}]},
    ):
        assert len(list(differences(saved, changed, RECORDED))) == 1, changed
    assert list(differences({"loss": 1.0}, {"loss": 1.001}, COMPUTED)) == []
    assert list(differences({"loss": 1.0}, {"loss": 1.01}, COMPUTED))
    assert list(differences({"ok": True}, {"ok": 1}, RECORDED)) == []
