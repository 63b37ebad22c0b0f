"""Runs to test with, and real processes that write them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cutaway.runs import Run


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Create a run under `tmp_path/runs`; open ones are closed at the end."""
    made: list[Run] = []

    def create(name: str = "one", config: dict | None = None, **more) -> Run:
        run = Run.create(
            tmp_path / "runs" / name,
            study="language",
            config={"learning_rate": 1e-3} if config is None else config,
            **more,
        )
        made.append(run)
        return run

    yield create
    for run in made:
        run.close()


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start Python code in a process of its own; whatever still runs at the end is killed."""
    started: list[subprocess.Popen] = []

    def start(code: str, *arguments: object) -> subprocess.Popen:
        one = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(one)
        return one

    yield start
    for one in started:
        if one.poll() is None:
            os.kill(one.pid, signal.SIGKILL)
        one.wait()
        one.stdout.close()
        one.stderr.close()
