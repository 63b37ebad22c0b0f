"""Names are only names: what a library would read as a pattern, a format, markup, mathematics or
SQL is shown as it is by every command, and never changes what is counted."""

from __future__ import annotations

import html
import io
import json
import warnings
from pathlib import Path

import pyarrow as pa
import pytest

from cutaway.base import display
from cutaway.base.progress import Progress
from cutaway.cli.main import run
from cutaway.runs import Run, RunStore

NAMES = [
    "[ab]*",  # a pattern that its neighbours match
    "a",
    "b",
    "ab",
    "?",
    "*",
    "[!x]",
    "{a,b}",
    "**",
    "[red]red[bold]",
    "$x_1$",
    "$\\frac{1}{0}$",
    "_under",
    "%s %d %(x)s",
    "{0} {x!r}",
    "<b>&amp;",
    "#c: !!python",
    'it\'s "quoted"; --',
    "`code` **bold**",
    "{{7*7}}",
    "back\\slash",
    "a=1",
    "s3:",
    "~",
    "%41",
    "ünï ☃",
]
HISTORY = "SELECT run, count(*) AS n, max(loss) AS most FROM history GROUP BY run ORDER BY run"


def call(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # matplotlib's, of mathematics and legends
        code = run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module", params=["plain", "[ro]*{o,t} $x$"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each name, with a setting, a figure, a column and a word of that name; also in a
    root that is named so itself."""
    root = tmp_path_factory.mktemp("hostile") / request.param
    for index, name in enumerate(NAMES):
        with Run.create(root / name, study="grokking", config={name: index, "lr": 0.1}) as one:
            rows = [{"step": s, "loss": 100.0 * index - s, "train_loss": 2.0 - s} for s in range(3)]
            one.append([row | {name: 1.0 * row["step"]} for row in rows])
            one.append_table("words", pa.table({"step": [0], "word": [name]}))
            one.finish({name: 1.0 * index})
    return root


def test_queries_count_every_run_once_and_read_its_own_file(root: Path) -> None:
    store = RunStore(root)
    answer = store.sql(HISTORY).to_pylist()
    assert answer == [
        {"run": name, "n": 3, "most": 100.0 * NAMES.index(name)} for name in sorted(NAMES)
    ]
    words = store.sql("SELECT run, word FROM words").to_pylist()
    assert sorted(row["word"] for row in words) == sorted(NAMES)
    assert all(row["run"] == row["word"] for row in words)
    for name in NAMES:
        quoted = name.replace('"', '""')
        assert store.sql(f'SELECT sum("{quoted}") AS s FROM history')["s"].to_pylist() == [3.0]
        found = store.sql(f'SELECT metrics."{quoted}" AS m FROM runs WHERE config."{quoted}" >= 0')
        assert found["m"].to_pylist() == [1.0 * NAMES.index(name)]


def test_every_command_shows_names_as_they_are(
    root: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    code, out, err = call(capsys, "runs", "ls", root)
    assert (code, err) == (0, "")
    assert all(
        any(line.split("  ")[0].strip() == name for line in out.splitlines()) for name in NAMES
    )
    rows = json.loads(call(capsys, "runs", "sql", HISTORY, "--runs", root, "--json")[1])
    assert [row["run"] for row in rows] == sorted(NAMES)
    for name in NAMES:
        out = call(capsys, "runs", "show", root / name)[1]
        assert f"config.{name}" in out
        assert f"metrics.{name}" in out
        out = call(capsys, "runs", "compare", root / name, root / NAMES[name == NAMES[0]])[1]
        assert f" {name} " in out


def test_pictures_have_names_labels_titles_and_columns_as_they_are(
    root: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    def drawn(*arguments: object) -> str:
        code, _, err = call(capsys, "plot", *arguments, "--out", tmp_path / "p.svg")
        assert code == 0, err
        return html.unescape((tmp_path / "p.svg").read_text())

    everything = drawn("train_loss", *(root / name for name in NAMES))
    assert [name for name in NAMES if f">{name}<" not in everything] == []
    for name in NAMES:
        title = f"--title={name}"
        picture = drawn(name, root / name, root / "a" if name == "" else root / name, title)
        assert f">{name}<" in picture
        labels = ("--labels", f"x {name}", "y")
        assert f">x {name}<" in drawn("train_loss", root / "a", root / "b", *labels)


def test_a_progress_bar_shows_markup_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    text = io.StringIO()
    bar = Progress("[red]reading[/red] {x}", 10, "files")
    monkeypatch.setattr(
        "rich.console.Console", lambda **_: Console(file=text, force_terminal=True, width=200)
    )
    bar._begin()
    bar.figures["[bold]loss"] = "[/]"
    bar._draw()
    bar._bar.refresh()
    bar._bar.stop()
    assert "[red]reading[/red] {x}" in text.getvalue()
    assert "[bold]loss [/]" in text.getvalue()


def test_a_table_shows_titles_columns_and_cells_as_they_are(capsys: pytest.CaptureFixture) -> None:
    for name in NAMES:
        display.show([{name: name, "other": 1}], title=f"title {name}")
        out = capsys.readouterr().out
        assert out.count(name) >= 3, name


def test_controls_reach_no_terminal(capsys: pytest.CaptureFixture) -> None:
    odd = "a\x1b[31mred\nb\r\x07\udce9"
    display.show([{odd: odd}], title=odd)
    display.notice(odd)
    for text in capsys.readouterr():
        assert "\x1b" not in text
        assert "\r" not in text
        assert "\\x1b[31mred\\nb" in text
