"""Law: a pipe, a device or a folder where a file is expected never hangs a command.

The alarm only keeps a test that would hang from stopping all others; no outcome depends on time.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cutaway.runs.folder import Run

PATIENCE = 240  # seconds; each of these takes one or two


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_socket(path: Path) -> None:
    bound = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's whole path may have 108 bytes
    try:
        bound.bind(path.name)
    finally:
        os.chdir(here)
        bound.close()


KINDS = {"pipe": a_pipe, "device": a_device, "socket": a_socket, "folder": Path.mkdir}

# a fixture's folder, the file in it that is replaced, and the command that reads it
IN_FOLDERS: dict[str, tuple[str, str, Callable[[Path], list[Any]]]] = {
    "record": ("grokking_run", "run.json", lambda at: ["runs", "show", at]),
    "record, verified": ("grokking_run", "run.json", lambda at: ["runs", "verify", at]),
    "table": ("grokking_run", "history.parquet", lambda at: ["runs", "show", at]),
    "table, drawn": (
        "grokking_run",
        "history.parquet",
        lambda at: ["plot", "loss", at, "--out", at.parent / "loss.png"],
    ),
    "list": ("grokking_run", "checksums.json", lambda at: ["runs", "verify", at]),
    "pointer": ("gpt2_run", "checkpoints/best", lambda at: ["sample", at, "--length", 2]),
    "state": (
        "gpt2_run",
        "checkpoints/step-000100/state.json",
        lambda at: ["train", at, "--extra-steps", 1],
    ),
    "weights": (
        "gpt2_run",
        "checkpoints/step-000100/model.safetensors",
        lambda at: ["train", at, "--extra-steps", 1],
    ),
    "tokenizer": ("gpt2_run", "tokenizer/tokenizer.json", lambda at: ["sample", at, "--length", 2]),
    "tokenizer's settings": (
        "gpt2_run",
        "tokenizer/tokenizer_config.json",
        lambda at: ["sample", at, "--length", 2],
    ),
    "store": (
        "activations",
        "manifest.json",
        lambda at: ["sae", "train", at, "--out", at.parent / "out"],
    ),
    "shard": (
        "activations",
        "shards/00000.safetensors",
        lambda at: ["sae", "train", at, "--out", at.parent / "out"],
    ),
    "probe data": ("probe_data", "metadata.json", lambda at: ["probe", "inspect", at]),
    "examples": ("probe_data", "train.safetensors", lambda at: ["probe", "inspect", at]),
    "probe": ("probe_run", "probes/embed/probe.json", lambda at: ["probe", "eval", at]),
    "probe's weights": (
        "probe_run",
        "probes/embed/probe.safetensors",
        lambda at: ["probe", "eval", at],
    ),
}
# a name that says what a file is, and the command that is given it
BY_NAME: dict[str, Callable[[Path], list[Any]]] = {
    "settings.yaml": lambda at: ["train", at],
    "sweep.yaml": lambda at: ["sweep", at, "--out", at.parent / "out"],
    "text.txt": lambda at: ["corpus", "show", at],
    "text.jsonl": lambda at: ["corpus", "show", at],
    "text.txt.gz": lambda at: ["corpus", "show", at],
    "text.parquet": lambda at: ["corpus", "show", at],
    "history.csv": lambda at: ["runs", "import", at],
    "history.jsonl": lambda at: ["plot", "loss", at, "--out", at.parent / "loss.png"],
    "history.parquet": lambda at: ["runs", "phases", at],
    "training_log.json": lambda at: ["plot", "loss", at, "--out", at.parent / "loss.png"],
    "dictionary.json": lambda at: ["sae", "effect", at.parent, "--prompt", "a"],
    "cfg.json": lambda at: ["sae", "effect", at.parent, "--prompt", "a"],
    "config.json": lambda at: ["extract", at.parent, "--out", at.parent / "out"],
    "params.npz": lambda at: ["sae", "effect", at, "--prompt", "a", "--site", "residual.0"],
    "ae.pt": lambda at: ["sae", "effect", at, "--prompt", "a", "--site", "residual.0"],
}


@pytest.fixture(autouse=True)
def _no_hanging() -> Iterator[None]:
    def hangs(*_: object) -> None:
        raise AssertionError("the command hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def assert_told(code: int, err: str) -> None:
    assert code in (0, 1, 2), err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("cutaway: ")]) == bool(code)


@pytest.mark.parametrize("case", IN_FOLDERS)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_folder_with_a_special_file(cutaway, request, tmp_path, case: str, kind: str) -> None:
    fixture, name, arguments = IN_FOLDERS[case]
    copy = Path(shutil.copytree(request.getfixturevalue(fixture), tmp_path / "copy"))
    (copy / name).unlink()
    KINDS[kind](copy / name)
    code, _, err = cutaway(*arguments(copy))
    assert_told(code, err)


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("kind", KINDS)
def test_a_special_file_by_name(cutaway, tmp_path, name: str, kind: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    KINDS[kind](folder / name)
    code, _, err = cutaway(*BY_NAME[name](folder / name))
    assert_told(code, err)
    if kind in ("pipe", "device"):
        assert code == 2, err


@pytest.mark.parametrize("name", ["run.json", "history.parquet", ".owner.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_other_runs_of_a_root_are_there(cutaway, tmp_path, name: str, kind: str) -> None:
    for one in ("good", "odd"):
        with Run.create(tmp_path / "runs" / one, study="x", config={}) as run:
            run.append([{"step": 0, "loss": 1.0}])
            run.finish({"loss": 1.0})
    (tmp_path / "runs" / "odd" / name).unlink(missing_ok=True)
    KINDS[kind](tmp_path / "runs" / "odd" / name)
    code, out, err = cutaway("runs", "ls", "--csv")
    assert_told(code, err)
    assert code == 0
    assert "good" in out
    code, out, err = cutaway("runs", "sql", "SELECT run, loss FROM history", "--csv")
    assert_told(code, err)
    assert code == 0
    assert "good,1" in out


@pytest.mark.parametrize("command", [["train"], ["corpus", "show"], ["runs", "import"]])
def test_what_comes_through_a_pipe_is_refused_in_one_line(cutaway, command) -> None:
    read, write = os.pipe()
    os.write(write, b"study: language\n")
    os.close(write)
    try:
        code, _, err = cutaway(*command, f"/dev/fd/{read}")
    finally:
        os.close(read)
    assert code == 2
    assert_told(code, err)
