"""Law: a closed terminal (SIGHUP) ends everything that runs as SIGTERM does, and nohup keeps it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from conftest import GROK
from cutaway.runs.folder import Run
from stopping import stopped_writing

ENDLESS = {"study": "grokking", **GROK, "epochs": 10_000_000, "checkpoint_every": 20}


@pytest.fixture(autouse=True)
def _not_ignored() -> Iterator[None]:
    """A suite started by `nohup` ignores SIGHUP, and so would the programs it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def begun(*arguments: object, ignoring: bool = False, **how: object) -> subprocess.Popen:
    """`cutaway ...` as a process; `ignoring` as `nohup` starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "cutaway", *map(str, arguments)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how},
        preexec_fn=lambda: signal.signal(
            signal.SIGHUP, signal.SIG_IGN if ignoring else signal.SIG_DFL
        ),
    )


def until(process: subprocess.Popen, path: Path) -> None:
    """Wait for a file that says that work is under way."""
    while process.poll() is None and not path.exists():
        time.sleep(0.01)
    assert path.exists(), process.communicate()[1]


def settings(folder: Path, content: dict) -> Path:
    path = folder / "settings.yaml"
    path.write_text(json.dumps(content))
    return path


def test_training_saves_and_ends(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = begun("train", settings(tmp_path, ENDLESS), "--out", out)
    until(process, out / "checkpoints" / "last")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)  # a closing terminal may send it twice
    _, err = process.communicate()
    assert process.returncode == 129, err
    assert "Traceback" not in err
    run = Run.open(out)
    assert (run.record.status, run.record.reason) == ("interrupted", "SIGHUP")
    assert run.checkpoints.last() == run.record.steps_done


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_records_nothing_says_what_stopped_it(cutaway, monkeypatch, how) -> None:
    """Whatever a command is doing: here it is listing the presets."""
    module = import_module("cutaway.studies.presets")
    monkeypatch.setattr(module, "presets", lambda **_: os.kill(os.getpid(), how))
    code, out, err = cutaway("presets")
    name = "Ctrl-C" if how == signal.SIGINT else signal.Signals(how).name
    assert (code, out, err) == (128 + how, "", f"cutaway: stopped by {name}\n")


def test_a_sweep_stops_its_workers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = settings(tmp_path, {**ENDLESS, "name": "two", "seeds": 2})
    process = begun("sweep", file, "--out", out, "--jobs", 1)
    until(process, out / "s0" / "checkpoints" / "last")
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate()
    assert process.returncode == 129, err
    assert Run.open(out / "s0").record.reason == "SIGHUP"


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("command", ["extract", "sae pipeline"])
def test_extraction_keeps_what_is_whole(
    command: str, how: int, gpt2_run: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = ["--data", corpus, "--tokens", "10M", "--context-length", 8]
    shards = "from cutaway.activations import extraction; extraction.SHARD_BYTES = 2**16"
    code, err = stopped_writing(
        how, 3, *command.split(), gpt2_run, *asked, "--out", out, first=shards
    )
    assert code == 128 + how, err
    assert "Traceback" not in err
    store = out if command == "extract" else out / "activations"
    record = Run.open(store).record
    assert (record.status, record.reason) == ("interrupted", signal.Signals(how).name)
    assert len(json.loads((store / "manifest.json").read_text())["shards"]) >= 3


def test_under_nohup_it_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    file = settings(tmp_path, {**ENDLESS, "epochs": 200})
    process = begun("train", file, "--out", out, ignoring=True)
    until(process, out / "checkpoints" / "last")
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert Run.open(out).record.status == "done"


def test_a_terminal_that_closes_ends_a_run_in_order(tmp_path: Path) -> None:
    """The terminal is really gone: what is written to it afterwards is an error."""
    out = tmp_path / "run"
    master, terminal = os.openpty()
    process = begun(
        *("train", settings(tmp_path, ENDLESS), "--out", out),
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    while process.poll() is None and not (out / "checkpoints" / "last").exists():
        os.read(master, 1) if _readable(master) else time.sleep(0.01)
    os.close(master)
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 129
    assert Run.open(out).record.reason == "SIGHUP"


def _readable(handle: int) -> bool:
    import select

    return bool(select.select([handle], [], [], 0)[0])
