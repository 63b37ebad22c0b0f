"""Checkpoints: exact, whole or absent, and damage is found before it is used."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cutaway.base.errors import RunFailed, UserError
from cutaway.runs import Checkpoints, DamagedCheckpoint


def groups(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 3, generator=generator)
    return {
        "model": {"weight": weight, "half": weight.to(torch.bfloat16), "n": torch.tensor(seed)},
        "updater": {"moment": torch.randn(7, generator=generator, dtype=torch.float64)},
        "task": {},
    }


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


@pytest.fixture
def three(checkpoints: Checkpoints) -> Checkpoints:
    for step in (100, 200, 300):
        checkpoints.save(step, groups(step), {"step": step})
    return checkpoints


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        a.keys() == b.keys()
        and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)
        for a, b in ((one[group], other[group]) for group in one)
    )


def test_what_is_saved_is_loaded_bit_for_bit(checkpoints: Checkpoints) -> None:
    state = {"best": float("inf"), "half": 0.1, "n": 2**60, "names": ["é"], "none": None}
    place = checkpoints.save(500, groups(), state)
    assert place.name == "step-000500"
    assert sorted(os.listdir(place)) == [
        "model.safetensors",
        "state.json",
        "task.safetensors",
        "updater.safetensors",
    ]
    loaded = checkpoints.load(500)
    assert loaded.step == 500
    assert loaded.state == state
    assert same(loaded.tensors, groups())


def test_strided_shared_empty_and_gradient_carrying_tensors_are_saved(
    checkpoints: Checkpoints,
) -> None:
    weight = torch.randn(4, 6, requires_grad=True)
    tensors = {
        "tied": weight,
        "head": weight,
        "transposed": weight.T,
        "every_second": weight[:, ::2],
        "row": weight[1],
        "empty": torch.zeros(0, 3),
        "also_empty": torch.zeros(0),
        "scalar": torch.tensor(2.5),
        "flags": torch.tensor([True, False]),
    }
    checkpoints.save(1, {"model": tensors}, {})
    loaded = checkpoints.load(1).tensors["model"]
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor.detach()), name


def test_the_same_step_is_replaced(three: Checkpoints) -> None:
    three.save(300, groups(7), {"again": True})
    assert three.steps() == [100, 200, 300]
    loaded = three.load(300)
    assert loaded.state == {"again": True}
    assert same(loaded.tensors, groups(7))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _empty, _flip, Path.unlink])
@pytest.mark.parametrize("file", ["model.safetensors", "updater.safetensors", "state.json"])
def test_damage_is_named_and_the_checkpoint_before_is_taken(
    three: Checkpoints, damage: Callable[[Path], None], file: str
) -> None:
    damage(three.path(300) / file)
    with pytest.raises(DamagedCheckpoint) as error:
        three.load(300)
    assert f"step-000300/{file}" in str(error.value)
    assert "\n" not in str(error.value)
    found, notices = three.latest_intact()
    assert found.step == 200
    assert same(found.tensors, groups(200))
    assert len(notices) == 1
    assert f"step-000300/{file}" in notices[0]


def test_with_nothing_intact_every_damage_is_told(three: Checkpoints) -> None:
    for step in three.steps():
        _flip(three.path(step) / "model.safetensors")
    found, notices = three.latest_intact()
    assert found is None
    assert [("step-000300" in n, "step-000200" in n, "step-000100" in n) for n in notices] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


def test_without_checkpoints_there_is_none(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest_intact() == (None, [])
    assert (checkpoints.best(), checkpoints.last(), checkpoints.steps()) == (None, None, [])


def test_a_missing_step_lists_those_there_are(three: Checkpoints) -> None:
    with pytest.raises(UserError, match="no checkpoint at step 150; there are: 100, 200, 300"):
        three.load(150)


def test_pointers_name_folders_and_follow(three: Checkpoints) -> None:
    three.mark_best(200, 1.5)
    assert (three.folder / "last").read_text() == "step-000300\n"
    assert (three.folder / "best").read_text().splitlines()[0] == "step-000200"
    assert (three.best(), three.last()) == (200, 300)
    shutil.rmtree(three.path(200))
    assert three.best() is None
    (three.folder / "last").write_text("../../etc\n")
    assert three.last() == 300


def test_prune_keeps_the_newest_and_the_best(three: Checkpoints) -> None:
    three.save(400, groups(400), {})
    three.mark_best(100, 0.5)
    three.prune(None)
    assert three.steps() == [100, 200, 300, 400]
    three.prune(2)
    assert three.steps() == [100, 300, 400]
    three.prune(0)
    assert three.steps() == [100]
    assert sorted(os.listdir(three.folder)) == ["best", "last", "step-000100"]


def test_a_newer_format_is_refused_in_one_line(three: Checkpoints) -> None:
    path = three.path(300) / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(UserError, match="format 2 is newer") as error:
        three.latest_intact()
    assert not isinstance(error.value, DamagedCheckpoint)


def test_a_pickle_under_a_weights_name_is_not_loaded(three: Checkpoints, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    (three.path(300) / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DamagedCheckpoint):
        three.load(300)
    assert not (tmp_path / "sprung").exists()


SAVER = """
    import sys, torch
    from pathlib import Path
    from cutaway.runs import Checkpoints
    checkpoints = Checkpoints(Path(sys.argv[1]))
    first = (checkpoints.last() or 0) + 1
    for step in range(first, 10**6):
        if step == first + 1:
            print("saved", flush=True)
        checkpoints.save(step, {"model": {"w": torch.full((200_000,), float(step))}}, {"step": step})
        checkpoints.mark_best(step, 1.0)
        checkpoints.prune(3)
"""


def test_killed_while_saving_every_checkpoint_there_is_whole(
    tmp_path: Path, process: Callable
) -> None:
    import time

    for pause in (0.05, 0.171, 0.293):
        saver = process(SAVER, tmp_path / "checkpoints")
        assert saver.stdout.readline() == "saved\n", saver.stderr.read()
        time.sleep(pause)
        saver.kill()
        saver.wait()
        found = Checkpoints(tmp_path / "checkpoints")
        for step in found.steps():
            loaded = found.load(step)
            assert loaded.state == {"step": step}
            assert (loaded.tensors["model"]["w"] == step).all()
    assert found.steps()


def test_a_full_disk_keeps_the_checkpoints_there_are(tmp_path: Path, process: Callable) -> None:
    one = process(
        """
        import resource, sys, torch
        from pathlib import Path
        from cutaway.base.errors import RunFailed
        from cutaway.runs import Checkpoints
        checkpoints = Checkpoints(Path(sys.argv[1]))
        checkpoints.save(1, {"model": {"w": torch.ones(10)}}, {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for step in (1, 2):
            try:
                checkpoints.save(step, {"model": {"w": torch.zeros(100_000)}}, {})
            except RunFailed as error:
                print(error)
        """,
        tmp_path / "checkpoints",
    )
    out, err = one.communicate()
    assert out.count("cannot write: ") == 2, err
    assert "step-000002" in out
    left = Checkpoints(tmp_path / "checkpoints")
    assert left.steps() == [1]
    assert (left.load(1).tensors["model"]["w"] == 1).all()
    assert sorted(os.listdir(left.folder)) == ["last", "step-000001"]


def test_too_little_free_space_is_said_before_writing(
    three: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutaway.base.files.free_bytes", lambda path: 10)
    with pytest.raises(RunFailed, match=r"a checkpoint needs .* 10 B free"):
        three.save(400, groups(), {})
    assert three.steps() == [100, 200, 300]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_on_a_gpu_are_saved_and_loaded_there(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, {"model": {"w": torch.arange(6, device="cuda").float()}}, {})
    assert checkpoints.load(1).tensors["model"]["w"].device.type == "cpu"
    loaded = checkpoints.load(1, "cuda").tensors["model"]["w"]
    assert loaded.device.type == "cuda"
    assert loaded.tolist() == [0, 1, 2, 3, 4, 5]
