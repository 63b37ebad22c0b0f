"""`cutaway ...` stopped at a chosen step, neither before nor after, however busy the machine is."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from conftest import PATIENCE

# As the `place`-th step of this process begins, a thread waits `delay` seconds and then sends the
# process a signal. At most `further` other steps begin before it.
SIGNALLED = """
import os, sys, threading, time
from cutaway.cli.main import run
from cutaway.training.gradients import Gradients

number, place, further = (int(word) for word in sys.argv[1:4])
delay, begun, compute = float(sys.argv[4]), [], Gradients.compute
def signal():
    time.sleep(delay)
    os.kill(os.getpid(), number)
thread = threading.Thread(target=signal, daemon=True)
def counted(*given):
    begun.append(given)
    if len(begun) == place:
        thread.start()
    if len(begun) == place + further:
        thread.join()
    return compute(*given)
Gradients.compute = counted
sys.exit(run(sys.argv[5:]))
"""

# The same as the `place`-th shard of hidden states is on the disk.
SHARD_SIGNALLED = """
import os, sys
from cutaway.activations.collecting import ShardWriter
from cutaway.cli.main import run

number, left, write = int(sys.argv[1]), [int(sys.argv[2])], ShardWriter._write
def counted(*given):
    write(*given)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), number)
ShardWriter._write = counted
sys.exit(run(sys.argv[3:]))
"""

# Every step of a process after its first ones takes at least so long: Python runs this file at the
# start of each process that finds it on its path, a sweep's workers included.
SLOWED = """
import os, time
from cutaway.training.gradients import Gradients

left, compute = [int(os.environ["STEPS_BEFORE_SLOW"])], Gradients.compute
def slow(*given):
    left[0] -= 1
    if left[0] < 0:
        time.sleep(0.2)
    return compute(*given)
Gradients.compute = slow
"""


def stopped(how: int, place: int, *words: object, further: int = 0, delay: float = 0.0) -> int:
    """The exit code of `cutaway WORDS`, sent signal `how` around its step `place` (from 1)."""
    code, _ = _ended(SIGNALLED, int(how), place, further, delay, *words)
    return code


def stopped_writing(how: int, shards: int, *words: object, first: str = "") -> tuple[int, str]:
    """The exit code of `cutaway WORDS`, sent signal `how` as it has written so many shards, and
    what it wrote to standard error. `first`: code the process runs before."""
    return _ended(f"{first}\n{SHARD_SIGNALLED}", int(how), shards, *words)


def _ended(code: str, *arguments: object) -> tuple[int, str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


def wait_until(condition: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    """Until `condition()`; fails where the process ends before, or after a long while."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE, "it never came to that"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)


def slowed(folder: Path, after: int) -> dict[str, str]:
    """Environment variables with which the steps of a process are slow after its first `after`.

    What is to happen while a run trains then happens while it trains, not after its end.
    """
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(textwrap.dedent(SLOWED))
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "STEPS_BEFORE_SLOW": str(after)}
