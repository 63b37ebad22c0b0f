"""The tour, in miniature: it ends with a report that stands alone."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from cutaway.cli.main import run
from cutaway.tour.stations import STATIONS
from cutaway.tour.stations.grokking import _story


@pytest.fixture(scope="module")
def visited(tmp_path_factory):
    out = tmp_path_factory.mktemp("tour") / "tour"
    assert run(["--quiet", "tour", "--fast", "--out", str(out)]) == 0
    return out


def test_the_report_is_one_file_with_every_figure_in_it(visited) -> None:
    html = (visited / "report.html").read_text()
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", html)
    assert html.count("<svg") >= 7
    for title in (
        *("A network learns to add on a circle", "What it has built", "How the rule grew"),
        *("Two optimisers, three seeds each", "Two language models learn"),
        *("Which words it attends to", "Changing a sense"),
    ):
        assert title in html


def test_it_begins_with_the_grokking_run_its_picture_before_its_table(visited) -> None:
    body = (visited / "report.html").read_text().partition('id="section-1"')[2]
    assert next(iter(STATIONS)) == "grokking"
    assert body.index("A network learns to add on a circle") < body.index("<svg")
    assert body.index("<svg") < body.index("<table") < body.index('id="section-2"')


def test_a_shortened_run_is_not_said_to_have_grokked(visited) -> None:
    html = (visited / "report.html").read_text()
    assert "it has not learnt its pairs yet" in html
    assert html.count("not reached") >= 4
    assert "no rule carries the answers yet" in html
    assert "0 of 3 grokked" in html
    assert not re.search(r"[1-9] of 3 grokked|has found the rule|: the rule carries", html)


def test_a_story_tells_what_was_recorded() -> None:
    from cutaway.grokking.phases import phases

    def told(test: list[float], train: float = 1.0) -> str:
        table = pa.table(
            {
                "step": [100 * row for row in range(len(test))],
                "train_acc": [train] * len(test),
                "test_acc": test,
            }
        )
        return _story(phases(table), table)

    assert "from step 200 on" in told([0.0, 0.1, 0.97, 0.98, 0.98])
    assert "found the rule" in told([0.0, 0.1, 0.97, 0.98, 0.98])
    assert "has not grokked" in told([0.0, 0.1, 0.97, 0.3])
    assert "too close to the end" in told([0.0, 0.1, 0.3, 0.97])
    assert "not learnt its pairs" in told([0.0, 0.1, 0.2, 0.3], train=0.5)
    assert (
        "at step 300 it has 100.0% of its own pairs right and 30.0%"
        in told([0.0, 0.1, 0.97, 0.3]).lower()
    )


def test_its_runs_are_runs(visited, capsys) -> None:
    assert run(["runs", "ls", "--runs", str(visited), "--json"]) == 0
    assert (
        capsys.readouterr().out.count('"done"') == 19
    )  # 1 + 6 of the sweep + 2, the states and a dictionary per layer, 6 of the hierarchy, probes


def test_it_says_what_became_of_the_parents_of_a_known_hierarchy(visited) -> None:
    html = (visited / "report.html").read_text()
    assert "Parents absorbed by their children" in html
    body = html.partition("Parents absorbed by their children")[2]
    for arm in ("no penalty", "pairs that fire together most", "as many, at random"):
        assert arm in body
    assert (visited / "orthogonality" / "comparison.json").is_file()


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
