"""Law: where the disk refuses, every command that writes says so in one line, and nothing is torn.

The limit on the size of a file stands in for a full disk: the same call fails, with another number.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import GROK
from cutaway.base import files
from cutaway.runs.folder import Run
from cutaway.runs.verifying import verify

Given = Callable[[str], Path]


def _yaml(given: Given, content: dict[str, Any]) -> Path:
    path = given("tmp_path") / "settings.yaml"
    path.write_text(json.dumps(content))
    return path


COMMANDS: dict[str, Callable[[Given], list[Any]]] = {
    "train": lambda given: [
        "train", _yaml(given, {"study": "grokking", **GROK, "epochs": 20}), "--out", "out"
    ],
    "language": lambda given: [
        "train",
        _yaml(given, {"study": "language", **given("tiny"), "seed": 5, "vocab_size": 301}),
        "--out", "out",
    ],
    "sweep": lambda given: [
        "sweep", _yaml(given, {"study": "grokking", **GROK, "epochs": 20, "seeds": 2}),
        "--ensemble", "--out", "out",
    ],
    "extract": lambda given: [
        "extract", given("gpt2_run"), "--data", given("corpus"), "--tokens", 3000, "--out", "out"
    ],
    "sae train": lambda given: [
        "sae", "train", given("activations"), "--layers", "0", "--max-steps", 4, "--out", "out"
    ],
    "sae eval": lambda given: [
        "sae", "eval", given("dictionary_run"), "--tokens", 300, "--out", "out"
    ],
    "sae features": lambda given: [
        "sae", "features", given("dictionary_run"), "--tokens", 300, "--out", "out"
    ],
    "sae export": lambda given: ["sae", "export", given("dictionary_run"), "--out", "out"],
    "probe data": lambda given: [
        "probe", "data", given("gpt2_run"), "--data", given("corpus"), "--target-token", " the",
        "--context-length", 12, "--out", "out",
    ],
    "probe train": lambda given: [
        "probe", "train", given("gpt2_run"), "--data", given("probe_data"), "--controls", "none",
        "--layers", "0", "--out", "out",
    ],
    "export": lambda given: ["export", given("gpt2_run"), "--out", "out"],
    "plot": lambda given: ["plot", "loss", given("gpt2_run"), "--out", "loss.png"],
    "runs import": lambda given: [
        "runs", "import", _yaml(given, {"step": 0, "loss": 1.0}).rename("h.jsonl"), "--out", "out"
    ],
}  # fmt: skip


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [100, 2400, 2700, 3000, 3300, 12_000])
@pytest.mark.parametrize("command", COMMANDS)
def test_one_line_and_no_torn_file(
    command: str, size: int, cutaway, request, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cache"))
    arguments = COMMANDS[command](request.getfixturevalue)
    with no_file_over(size):
        code, _, err = cutaway(*arguments)
    assert code in (0, 1, 2), err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("cutaway: ")]) == bool(code)
    out = tmp_path / "out"
    if (out / "run.json").is_file():
        # a record that itself has no room for the reason stays as it was: then nobody writes the run
        assert Run.open(out).status in ("done", "failed", "interrupted")
        assert verify(out).damages == []
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_is_there_stays_when_the_disk_refuses(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.txt", "old")
    with no_file_over(100), pytest.raises(OSError, match="File too large"):
        files.write_text(tmp_path / "a.txt", "new" * 100)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
