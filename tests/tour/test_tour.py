"""The tour, in miniature: it ends with a report that stands alone."""

from __future__ import annotations

import re

import pytest

from cutaway.cli.main import run
from cutaway.tour.stations import STATIONS


@pytest.fixture(scope="module")
def visited(tmp_path_factory):
    out = tmp_path_factory.mktemp("tour") / "tour"
    assert run(["--quiet", "tour", "--fast", "--out", str(out)]) == 0
    return out


def test_the_report_is_one_file_with_every_figure_in_it(visited) -> None:
    html = (visited / "report.html").read_text()
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", html)
    assert html.count("<svg") >= 2
    for title in ("Two language models learn", "Which words it attends to", "Changing a sense"):
        assert title in html


def test_its_runs_are_runs(visited, capsys) -> None:
    assert run(["runs", "ls", "--runs", str(visited), "--json"]) == 0
    assert capsys.readouterr().out.count('"done"') == 2


def test_a_folder_in_use_is_not_touched(visited, capsys) -> None:
    assert run(["tour", "--fast", "--out", str(visited)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_an_unknown_station_is_named(tmp_path, capsys) -> None:
    assert run(["tour", "--only", "langage", "--out", str(tmp_path / "x")]) == 2
    assert "did you mean 'language'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_station_can_be_visited_alone() -> None:
    from importlib import import_module

    for place in STATIONS.values():
        module, _, function = place.partition(":")
        assert callable(getattr(import_module(module), function))
