"""What a kill leaves half-written goes with the folder's next owner; what lives is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cutaway.base import files
from cutaway.runs.folder import Run
from cutaway.runs.store import RunStore
from cutaway.runs.verifying import Verified, verify

KILLED = """
import os, signal, sys
from pathlib import Path
from cutaway.base import files
for place in sys.argv[1:]:
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(files.temporary_beside(Path(place))).write_text("half")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run whose process is gone, with half-written files of it in every folder."""
    run = Run.create(tmp_path / "runs" / "run", study="x", config={})
    run.append([{"step": 0, "loss": 1.0}])
    run._lock.release()
    inside = ["run.json", "history.parquet", "figures/a.png", "checkpoints/best", "probes/0/p.json"]
    subprocess.run([sys.executable, "-c", KILLED, *(str(run.path / one) for one in inside)])
    assert len(list(run.path.rglob("*.tmp"))) == len(inside)
    return run.path


def test_they_are_gone_after_the_next_life(stopped: Path) -> None:
    with Run.resume(stopped) as run:
        assert not list(stopped.rglob("*.tmp"))
        run.finish({})
    assert verify(stopped) == Verified()
    assert not [path for path in stopped.rglob("*") if path.name[0] == "."]


def test_readers_do_not_see_them(stopped: Path) -> None:
    assert [record.name for record in RunStore(stopped.parent).runs()] == ["run"]
    assert Run.open(stopped).tables() == ["history"]
    assert Run.open(stopped).read().num_rows == 1


def test_what_another_process_is_writing_stays(stopped: Path) -> None:
    code = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "print(1, flush=True); input()")
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(stopped / "figures" / "b.png")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    other.stdout.readline()
    with Run.resume(stopped) as run:
        run.finish({})
    left = list(stopped.rglob("*.tmp"))
    other.communicate(b"\n")
    assert [path.name.startswith(".b.png.") for path in left] == [True]
    files.clear_leftovers(stopped)
    assert not list(stopped.rglob("*.tmp"))


def test_what_another_machine_writes_stays_for_a_day(tmp_path: Path) -> None:
    theirs = tmp_path / ".a.txt.ffffffff-999999999.tmp"
    theirs.write_text("half")
    files.clear_leftovers(tmp_path)
    assert theirs.exists()
    os.utime(theirs, (0, 0))
    files.clear_leftovers(tmp_path)
    assert not theirs.exists()


def test_files_of_people_that_look_like_it_stay(tmp_path: Path) -> None:
    for name in ("notes.tmp", ".notes.tmp", ".a.txt.tmp", "a.123.tmp"):
        (tmp_path / name).write_text("mine")
    files.clear_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
