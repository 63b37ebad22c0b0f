"""Law: --out that is a folder of another kind is refused before slow work, and stays as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import GROK

Given = Callable[[str], Path]


def _file(given: Given, name: str, content: dict[str, Any]) -> Path:
    path = given("tmp_path") / name
    path.write_text(json.dumps(content))
    return path


# every command that writes a folder, without its --out
COMMANDS: dict[str, Callable[[Given], list[Any]]] = {
    "train": lambda given: ["train", _file(given, "one.yaml", {"study": "grokking", **GROK})],
    "sweep": lambda given: [
        "sweep",
        _file(given, "two.yaml", {"study": "grokking", **GROK, "seeds": 2}),
    ],
    "extract": lambda given: ["extract", given("gpt2_run"), "--data", given("corpus")],
    "sae train": lambda given: ["sae", "train", given("activations"), "--max-steps", 2],
    "sae pipeline": lambda given: [
        *("sae", "pipeline", given("gpt2_run"), "--data", given("corpus"), "--max-steps", 2)
    ],
    "sae eval": lambda given: ["sae", "eval", given("dictionary_run")],
    "sae eval --suite": lambda given: [*("sae", "eval", given("dictionary_run"), "--suite", "tpp")],
    "sae features": lambda given: ["sae", "features", given("dictionary_run")],
    "sae export": lambda given: ["sae", "export", given("dictionary_run")],
    "sae study": lambda given: ["sae", "study", "orthogonality", "--synthetic", "--seeds", 1],
    "probe data": lambda given: [
        *("probe", "data", given("gpt2_run"), "--data", given("corpus"), "--target-token", " the")
    ],
    "probe train": lambda given: [
        *("probe", "train", given("gpt2_run"), "--data", given("probe_data"))
    ],
    "export": lambda given: ["export", given("gpt2_run")],
    "plot all": lambda given: ["plot", "all", given("grokking_run")],
    "runs import": lambda given: [
        "runs",
        "import",
        _file(given, "history.jsonl", {"step": 0, "train_loss": 1.0}),
    ],
    "tour": lambda given: ["tour", "--fast"],
}


def _copied(fixture: str) -> Callable[[Given, Path], None]:
    return lambda given, out: shutil.copytree(given(fixture), out)


def _foreign(given: Given, out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")


def _link(given: Given, out: Path) -> None:
    shutil.copytree(given("grokking_run"), out.with_name("target"))
    out.symlink_to(out.with_name("target"))


KINDS: dict[str, Callable[[Given, Path], None]] = {
    "a run": _copied("grokking_run"),
    "a store": _copied("activations"),
    "probe data": _copied("probe_data"),
    "a folder of others": _foreign,
    "a file": lambda given, out: out.write_text("mine"),
    "a link to a run": _link,
    "a link to nothing": lambda given, out: out.symlink_to(out.with_name("nothing")),
}


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_of_another_kind_is_refused(
    command: str, kind: str, cutaway, request, tmp_path, monkeypatch
) -> None:
    import torch

    given = request.getfixturevalue
    place = tmp_path / "place"
    place.mkdir()
    KINDS[kind](given, place / "out")
    arguments = COMMANDS[command](given)
    before = snapshot(place)

    def slow(*_: object, **__: object) -> None:
        raise AssertionError("a network runs before the folder is looked at")

    monkeypatch.setattr(torch.nn.Module, "__call__", slow)
    code, _, err = cutaway(*arguments, "--out", place / "out")
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("cutaway: ")]
    assert len(lines) == 1
    assert str(place / "out") in lines[0]
    assert snapshot(place) == before


def test_pictures_may_be_drawn_again(cutaway, gpt2_run: Path, tmp_path) -> None:
    for _ in range(2):
        assert cutaway("plot", "all", gpt2_run, "--out", tmp_path / "pictures")[0] == 0


def test_features_may_be_read_again(cutaway, dictionary_run: Path, tmp_path) -> None:
    from cutaway.runs.verifying import Verified, verify

    for _ in range(2):
        code, _, err = cutaway(
            *("sae", "features", dictionary_run, "--tokens", 500, "--out", tmp_path / "f")
        )
        assert code == 0, err
        assert verify(tmp_path / "f") == Verified()


@pytest.mark.parametrize("name", ["link", "runs/link"])
def test_rm_does_not_follow_a_link(cutaway, grokking_run: Path, tmp_path, name: str) -> None:
    target = Path(shutil.copytree(grokking_run, tmp_path / "elsewhere" / "run"))
    (tmp_path / "runs").mkdir()
    (tmp_path / name).symlink_to(target)
    before = snapshot(tmp_path)
    code, _, err = cutaway("runs", "rm", Path(name).name, "--yes")
    assert code == 2
    assert "is a link to" in err
    assert snapshot(tmp_path) == before


def test_rm_stays_in_the_root(cutaway, grokking_run: Path, tmp_path) -> None:
    shutil.copytree(grokking_run, tmp_path / "others" / "run")
    shutil.copytree(grokking_run, tmp_path / "runs" / "a" / "run")
    before = snapshot(tmp_path)
    for name in ("../others/run", "a/../../others/run"):
        code, _, err = cutaway("runs", "rm", name, "--yes", "--runs", tmp_path / "runs")
        assert code == 2, name
        assert "leads out of" in err
    code, _, _ = cutaway("runs", "rm", "..", "--yes")
    assert code == 2
    assert snapshot(tmp_path) == before
    assert cutaway("runs", "rm", "a/run", "--yes")[0] == 0
    assert not (tmp_path / "runs" / "a" / "run").exists()


def test_rm_of_the_folder_one_is_in_is_refused(
    cutaway, grokking_run, tmp_path, monkeypatch
) -> None:
    copy = Path(shutil.copytree(grokking_run, tmp_path / "run"))
    monkeypatch.chdir(copy / "checkpoints")
    code, _, err = cutaway("runs", "rm", "..", "--yes")
    assert code == 2
    assert "holds the folder this command runs in" in err
    assert (copy / "run.json").is_file()
