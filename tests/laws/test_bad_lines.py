"""Law: whatever the command line, no traceback; exit 0, 1 or 2, and a word about what is wrong.

A small sample here, over all commands; `benchmarks/bad_command_lines.py` runs a thousand, each in a
process of its own, and measures how long they take.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway.cli.main import run
from laws.bad_lines import bad_lines, commands
from laws.bad_world import LINES, make_world

COUNT = int(os.environ.get("CUTAWAY_BAD_LINES", "102"))
SEED = int(os.environ.get("CUTAWAY_BAD_LINES_SEED", "1"))
KNOWN = commands(lambda path: LINES[path])
DRAWN = bad_lines(KNOWN, SEED, COUNT)
HANGING = 600  # seconds


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    before = Path.cwd()
    os.chdir(root)
    try:
        make_world(root)
    finally:
        os.chdir(before)
    return root


def test_every_command_has_a_line_that_would_do() -> None:
    assert {command.path for command in KNOWN} == set(LINES)
    assert all(command.good for command in KNOWN)


def test_the_same_seed_gives_the_same_lines_over_all_commands() -> None:
    lines = bad_lines(KNOWN, 3, 2 * len(KNOWN))
    assert lines == bad_lines(KNOWN, 3, 2 * len(KNOWN))
    assert lines != bad_lines(KNOWN, 4, 2 * len(KNOWN))


@pytest.fixture
def _ends() -> Iterator[None]:
    """A command that hangs fails its test, long after any that works is over."""

    def hang(*_: object) -> None:
        raise TimeoutError(f"still running after {HANGING} seconds")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(HANGING)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_ends")
@pytest.mark.parametrize("number", range(COUNT))
def test_a_bad_line_ends_in_words(number, world, tmp_path, monkeypatch, capsys) -> None:
    line = DRAWN[number]
    here = tmp_path / "here"
    shutil.copytree(world, here)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    code = run(line)
    printed = capsys.readouterr()
    assert code in (0, 1, 2), line
    assert "Traceback" not in printed.err, line
    assert not re.search(r"unexpected [A-Z]\w*:", printed.err), line
    assert (code == 0) == ("cutaway: " not in printed.err), (line, code, printed.err)
