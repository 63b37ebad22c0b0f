"""Laws for every finished folder: each file is in its list, and any change to one is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import GROK
from cutaway.runs import checksums, record, verifying
from cutaway.runs.folder import Run
from cutaway.studies.registry import STUDIES

# what writes a folder, and the fixture that has one of its kind
FOLDERS = {
    "language": "gpt2_run",
    "grokking": "grokking_run",
    "dictionary": "dictionary_run",
    "probe": "probe_run",
    "store": "activations",
    "probe data": "probe_data",
    "sweep": "swept",
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two small runs, with its pictures."""
    from cutaway.cli.main import run

    folder = tmp_path_factory.mktemp("sweep")
    file = folder / "two.yaml"
    file.write_text(json.dumps({"study": "grokking", **GROK, "epochs": 20, "seeds": 2}))
    assert run(["sweep", str(file), "--out", str(folder / "out"), "--ensemble"]) == 0
    return folder / "out"


@pytest.fixture(params=FOLDERS)
def finished(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a finished folder."""
    return Path(shutil.copytree(request.getfixturevalue(FOLDERS[request.param]), tmp_path / "copy"))


def every_file(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def harms(path: Path) -> Iterator[Callable[[], object]]:
    """A bit flipped in the middle, a byte cut off, the file deleted, a link to an equal file."""
    content = path.read_bytes()
    if content:
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        yield lambda: path.write_bytes(flipped)
        yield lambda: path.write_bytes(content[:-1])
    yield path.unlink
    yield lambda: _linked(path, content)


def _linked(path: Path, content: bytes) -> None:
    """The link's target is left out of lists, so that nothing but the link can be noticed."""
    target = path.with_name(".DS_Store")
    target.write_bytes(content)
    path.unlink()
    path.symlink_to(target.name)


def test_every_study_has_a_folder_here() -> None:
    assert set(STUDIES) <= set(FOLDERS)


def test_whatever_happens_to_a_file_is_named_and_nothing_else(finished: Path) -> None:
    untouched = verifying.verify(finished)
    assert (untouched.damages, untouched.notices) == ([], [])
    names = {path.name for path in every_file(finished)}
    assert checksums.FILE in names
    assert not names & {".lock", ".owner.json"}
    for path in every_file(finished):
        content = path.read_bytes()
        for harm in harms(path):
            harm()
            damages = verifying.verify(finished).damages
            path.unlink(missing_ok=True)
            path.with_name(".DS_Store").unlink(missing_ok=True)
            path.write_bytes(content)
            assert damages, path
            assert all(line.startswith(f"{path}: ") for line in damages), damages
    assert not verifying.verify(finished).damages


def test_the_command_ends_with_1_and_names_every_file(cutaway, finished: Path) -> None:
    code, _, _ = cutaway("runs", "verify", finished)
    assert code == 0
    first, second, *_ = [one for one in every_file(finished) if one.name != checksums.FILE]
    first.unlink()
    second.write_bytes(b"")
    code, out, err = cutaway("runs", "verify", finished, "--json")
    assert code == 1
    assert {row["damage"].partition(": ")[0] for row in json.loads(out)} == {
        str(first),
        str(second),
    }
    assert err.count("\n") == 1


def test_a_file_added_by_hand_is_named_and_no_damage(finished: Path) -> None:
    (finished / "notes.txt").write_text("mine")
    found = verifying.verify(finished)
    assert found.damages == []
    assert [line for line in found.notices if "notes.txt" in line]


def test_a_pipe_in_the_place_of_a_file_is_named(finished: Path) -> None:
    path = every_file(finished)[0]
    path.unlink()
    os.mkfifo(path)
    assert [str(path) in line for line in verifying.verify(finished).damages] == [True]


def test_a_list_that_leads_out_of_its_folder_is_not_followed(grokking_run: Path, tmp_path) -> None:
    copy = Path(shutil.copytree(grokking_run, tmp_path / "copy"))
    (tmp_path / "secret").write_text("x")
    (copy / "link").symlink_to(tmp_path / "secret")
    sums = checksums.read(copy)
    for name in ("../secret", str(tmp_path / "secret"), "link"):
        sums.files[name] = checksums.entry(tmp_path / "secret")
    checksums._write(copy, sums)
    damages = verifying.verify(copy).damages
    assert len(damages) == 3
    assert all("leads out of the folder" in line for line in damages)


def test_a_run_without_a_list_is_checked_as_before_and_says_so(
    grokking_run: Path, tmp_path
) -> None:
    copy = Path(shutil.copytree(grokking_run, tmp_path / "copy"))
    content = json.loads((copy / record.FILE).read_text())
    (copy / record.FILE).write_text(json.dumps({**content, "checksums": None}))
    (copy / checksums.FILE).unlink()
    found = verifying.verify(copy)
    assert found.damages == []
    assert "has no checksums.json" in found.notices[0]
    state = next(copy.glob("checkpoints/*/state.json"))
    state.write_bytes(state.read_bytes()[:-9])
    assert len(verifying.verify(copy).damages) == 1


def test_a_run_that_was_stopped_says_so_and_its_next_end_makes_the_list(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", study="x", config={})
    run.append([{"step": 0, "loss": 1.0}])
    assert "is being written" in verifying.verify(run.path).notices[0]
    run._lock.release()  # what a kill leaves: a record that says it runs, by nobody
    found = verifying.verify(run.path)
    assert found.damages == []
    assert "was stopped" in found.notices[0]
    with Run.resume(run.path) as again:
        again.append([{"step": 1, "loss": 0.5}])
        again.interrupt("SIGINT")
    assert verifying.verify(run.path) == verifying.Verified()
    with Run.resume(run.path):
        assert not (run.path / checksums.FILE).exists()
        assert "is being written" in verifying.verify(run.path).notices[0]


def test_who_writes_into_a_finished_folder_enters_it(cutaway, gpt2_run: Path, tmp_path) -> None:
    copy = Path(shutil.copytree(gpt2_run, tmp_path / "copy"))
    assert cutaway("plot", "all", copy, "--out", copy / "figures")[0] == 0
    assert cutaway("export", copy)[0] == 0
    assert verifying.verify(copy) == verifying.Verified()
    listed = checksums.read(copy).files
    assert {"export-hf/model.safetensors", "figures/loss.png"} <= set(listed)
    assert cutaway("plot", "all", copy, "--out", copy / "figures")[0] == 0  # replaced
    assert verifying.verify(copy) == verifying.Verified()


def test_evaluation_and_features_are_entered(cutaway, dictionary_run: Path, tmp_path) -> None:
    copy = Path(shutil.copytree(dictionary_run, tmp_path / "copy"))
    assert cutaway("sae", "eval", copy, "--tokens", "500")[0] == 0
    assert cutaway("sae", "features", copy, "--tokens", "2000")[0] == 0
    assert verifying.verify(copy) == verifying.Verified()
    listed = checksums.read(copy).files
    assert {"evaluation.json", "features/features.json"} <= set(listed)


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_checked(
    grokking_run: Path, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        shutil.copytree(grokking_run, tmp_path / "runs" / name)
    shut, scandir = tmp_path / "runs" / "shut", os.scandir
    shut.mkdir()
    (tmp_path / "runs" / "b" / "config.yaml").unlink()

    def refusing(path):
        if Path(path) == shut:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert sorted(verifying.verify(tmp_path / "runs").damages) == [
        f"{tmp_path}/runs/b/config.yaml: missing",
        f"{shut}: cannot read: Permission denied",
    ]


def test_a_link_in_the_place_of_a_folder_is_named(swept: Path, tmp_path) -> None:
    copy = Path(shutil.copytree(swept, tmp_path / "copy"))
    inside = [path for path in copy.rglob("*") if path.is_dir()]
    assert copy / "s0" in inside
    for folder in inside:
        away = folder.rename(folder.with_name(".elsewhere.tmp"))  # left out of lists
        folder.symlink_to(away.name)
        damages = verifying.verify(copy).damages
        folder.unlink()
        away.rename(folder)
        assert damages, folder
        assert all(line.startswith(str(folder)) for line in damages), damages
    assert not verifying.verify(copy).damages


def test_what_is_written_through_a_link_is_listed_where_it_lies(
    cutaway, gpt2_run: Path, tmp_path
) -> None:
    copy = Path(shutil.copytree(gpt2_run, tmp_path / "copy"))
    (tmp_path / "disk").mkdir()
    (copy / "far").symlink_to(tmp_path / "disk")
    assert cutaway("export", copy, "--out", copy / "far" / "hf")[0] == 0
    assert verifying.verify(copy).damages == []
    assert verifying.verify(tmp_path / "disk" / "hf") == verifying.Verified()


def test_a_list_of_others_is_left_alone(tmp_path: Path) -> None:
    from cutaway.base import files

    theirs = tmp_path / checksums.FILE
    theirs.write_text('{"a.txt": "abc"}')
    files.write_text(tmp_path / "a.txt", "new")
    assert theirs.read_text() == '{"a.txt": "abc"}'
