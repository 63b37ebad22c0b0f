"""Law: what a list of files names lies in the list's own folder, or is refused unread."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OUTSIDE = ["../outside", "/etc/passwd", "shards/../../outside", "..\\outside", "", "a\0b"]


def _store(folder: Path, name: str) -> list[Any]:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["shards"][0]["file"] = name
    path.write_text(json.dumps(content))
    return ["sae", "train", folder, "--out", folder.parent / "out"]


def _checkpoint(folder: Path, name: str) -> list[Any]:
    from cutaway.runs import checkpoint

    path = max(folder.glob("checkpoints/*/state.json"))
    content = json.loads(path.read_text())
    content["files"][name] = content["files"].pop("model.safetensors")
    content["sha256"] = checkpoint._own_checksum(content)  # as one who means harm would
    path.write_text(json.dumps(content))
    return ["train", folder, "--extra-steps", 1]


def _index(folder: Path, name: str) -> list[Any]:
    for path in folder.glob("*.safetensors"):
        path.unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return ["extract", folder, "--out", folder.parent / "out"]


LISTS: dict[str, tuple[str, Callable[[Path, str], list[Any]]]] = {
    "a store": ("activations", _store),
    "a checkpoint": ("gpt2_run", _checkpoint),
    "an index of weights": ("gpt2_folder", _index),
}


@pytest.fixture
def gpt2_folder(tiny_folder) -> Path:
    return tiny_folder("gpt2")


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", LISTS)
def test_a_name_that_leads_out_is_refused(cutaway, request, tmp_path, kind: str, name: str) -> None:
    fixture, write = LISTS[kind]
    copy = Path(shutil.copytree(request.getfixturevalue(fixture), tmp_path / "copy"))
    (tmp_path / "outside").write_bytes(b"x" * 100)
    arguments = write(copy, name)
    code, _, err = cutaway(*arguments)
    assert "Traceback" not in err
    if kind == "a checkpoint":  # an earlier one is there, and taken
        assert f"{name!r} is no file's name; falling back" in err
        return
    assert code == 2, err
    assert len([line for line in err.splitlines() if line.startswith("cutaway: ")]) == 1


def test_a_shard_that_is_a_link_out_of_the_store_is_refused(cutaway, activations, tmp_path) -> None:
    copy = Path(shutil.copytree(activations, tmp_path / "copy"))
    shard = min(copy.glob("shards/*"))
    os.replace(shard, tmp_path / "outside")
    shard.symlink_to(tmp_path / "outside")
    code, _, err = cutaway("sae", "train", copy, "--out", tmp_path / "out")
    assert code == 2
    assert "a link that leads out of the folder" in err
    code, _, err = cutaway("runs", "verify", copy)
    assert code == 1
    assert "a link that leads out of the folder" in err


def test_a_record_without_end_is_not_read(cutaway, grokking_run: Path, tmp_path) -> None:
    for name in ("good", "odd"):
        shutil.copytree(grokking_run, tmp_path / "runs" / name)
    os.truncate(tmp_path / "runs" / "odd" / "run.json", 1 << 40)  # a terabyte of nothing
    code, out, err = cutaway("runs", "ls", "--csv")
    assert (code, "good" in out) == (0, True)
    assert "more than the 268.4 MB that are read; skipped" in err
