"""Our own form on disk comes back the same; what is wrong with it is said in one line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.registry import ARCHITECTURES
from cutaway.dictionaries.files import export, formats_of
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.runs.folder import Run
from dictionaries.files.cases import ABOUT, Harmful, states, trained


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_dictionary_comes_back_bit_for_bit(architecture: str, tmp_path: Path) -> None:
    dictionary = trained(architecture)
    dictionary.save(tmp_path / "saved")
    found = Dictionary.load(tmp_path / "saved", device="cpu")
    assert type(found) is type(dictionary)
    assert found.shape == dictionary.shape
    for name, tensor in dictionary.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert torch.equal(found.encode(states()), dictionary.encode(states()))
    assert {name: found.metadata[name] for name in ABOUT} == ABOUT
    assert found.metadata["format"] == 1
    assert formats_of(tmp_path / "saved") == "cutaway"


def test_saving_again_what_was_loaded_changes_nothing(tmp_path: Path) -> None:
    trained("gated").save(tmp_path / "a")
    Dictionary.load(tmp_path / "a").save(tmp_path / "b")
    for name in ("dictionary.json", "dictionary.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A training's folder with checkpoints of steps 10 and 20; 10 is the best."""
    about = {"shape": trained("topk").describe(), **ABOUT}
    with Run.create(
        tmp_path / "run", study="dictionary", config={}, resolved={"dictionary": about}
    ) as run:
        for step in (10, 20):
            run.checkpoints.save(step, {"model": trained("topk", step).state_dict()}, {})
        run.checkpoints.mark_best(10, 0.1)
        run.finish({})
    return tmp_path / "run"


@pytest.mark.parametrize(("step", "seed"), [("best", 10), ("last", 20), (20, 20), ("10", 10)])
def test_a_run_gives_the_checkpoint_asked_for(run: Path, step: int | str, seed: int) -> None:
    found = Dictionary.load(run, step=step, device="cpu")
    assert torch.equal(found.encode(states()), trained("topk", seed).encode(states()))
    assert found.metadata["step"] == seed
    assert found.metadata["site"] == "residual.3"


def test_a_damaged_best_checkpoint_is_passed_over(run: Path) -> None:
    place = run / "checkpoints" / "step-000010" / "model.safetensors"
    place.write_bytes(place.read_bytes()[:-4])
    assert Dictionary.load(run).metadata["step"] == 20
    with pytest.raises(UserError, match="damaged"):
        Dictionary.load(run, step=10)


def test_a_run_says_which_steps_it_keeps_and_when_it_trains_no_dictionary(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"step = 15: .* keeps checkpoints of steps 10, 20"):
        Dictionary.load(run, step=15)
    with Run.create(tmp_path / "other", study="grokking", config={}) as other:
        other.finish({})
    with pytest.raises(UserError, match="study 'grokking', which trains no dictionary"):
        Dictionary.load(tmp_path / "other")


def altered(field: str, value: object) -> Callable[[Path], None]:
    def alter(folder: Path) -> None:
        path = folder / "dictionary.json"
        content = json.loads(path.read_text())
        (content["shape"] if field in content["shape"] else content)[field] = value
        path.write_text(json.dumps(content))

    return alter


def flipped(folder: Path) -> None:
    path = folder / "dictionary.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def cut(folder: Path) -> None:
    path = folder / "dictionary.safetensors"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (altered("format", 2), r"format 2 is newer than this cutaway reads \(1\)"),
        (altered("d_hidden", 41), r"encoder_weight is \(40, 12\), expected \(41, 12\)"),
        (altered("d_model", "12"), r"d_model = '12': expected a whole number"),
        (altered("k", 50), r"k = 50: expected at most 40"),
        (altered("architecture", "vanilla"), r"architecture = 'vanilla': expected one of jumprelu"),
        (altered("architecture", "gated"), r"holds no tensor log_magnitude"),
        (lambda folder: (folder / "dictionary.json").write_text("{"), "damaged, not JSON"),
        (lambda folder: (folder / "dictionary.json").unlink(), r"dictionary\.json: missing"),
        (lambda folder: (folder / "dictionary.safetensors").unlink(), r"safetensors: missing"),
        (cut, "damaged, not safetensors"),
        (flipped, "damaged, its content differs from its checksum"),
    ],
)
def test_what_is_wrong_with_a_saved_dictionary_is_said_in_one_line(
    damage: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    trained("topk").save(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=says) as caught:
        Dictionary.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".ckpt"])
def test_a_pickle_is_refused_by_name_and_never_run(suffix: str, tmp_path: Path) -> None:
    (path := tmp_path / f"model{suffix}").write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    for given in (path, tmp_path):
        with pytest.raises(UserError, match=rf"model{suffix}: refused: a pickle runs"):
            Dictionary.load(given)
    assert not (tmp_path / "harm").exists()


def test_what_is_no_dictionary_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        Dictionary.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no dictionary; looked for"):
        Dictionary.load(tmp_path)
    with pytest.raises(UserError, match="did you mean 'saelens'"):
        export(trained("topk"), tmp_path, "saelen")
