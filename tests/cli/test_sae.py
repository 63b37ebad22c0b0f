"""The `sae` commands on a trained dictionary: judge, read, hand on, use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cutaway.activations.capture import capture
from cutaway.dictionaries.base import Dictionary
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.runs.folder import Run

Cutaway = Callable[..., tuple[int, str, str]]


@pytest.fixture
def own(dictionary_run: Path, tmp_path: Path) -> Path:
    """A copy of the dictionary's run, to write into."""
    return shutil.copytree(dictionary_run, tmp_path / "own")


def test_eval_on_other_text(cutaway: Cutaway, own: Path, corpus: Path) -> None:
    code, out, err = cutaway(
        "sae", "eval", own, "--data", corpus / "text-03.txt", "--tokens", 500, "--json"
    )
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["tokens"] <= 500
    assert found["explained_variance"] > 0.3


def test_features_are_listed_and_one_told_of(cutaway: Cutaway, own: Path, tmp_path: Path) -> None:
    code, out, err = cutaway("sae", "features", own, "--top", 4, "--json")
    assert code == 0, err
    rows = json.loads(out)
    densities = [row["density"] for row in rows]
    assert len(rows) == 4
    assert densities == sorted(densities, reverse=True)
    assert (own / "features" / "features.html").is_file()
    feature = rows[0]["feature"]
    ask = ["sae", "features", own, "--feature", feature, "--examples", 3, "--out", "read"]
    code, out, _ = cutaway(*ask)
    assert (code, out.startswith(f"feature {feature}: fires on")) == (0, True)
    assert (tmp_path / "read" / "features.html").is_file()
    code, out, _ = cutaway(*ask, "--json")
    (row,) = json.loads(out)
    assert (row["feature"], len(row["examples"])) == (feature, 3)
    assert row["density"] == densities[0]


def test_a_run_is_found_by_its_name(cutaway: Cutaway, dictionary_run: Path, tmp_path: Path) -> None:
    shutil.copytree(dictionary_run, tmp_path / "runs" / "mine")
    code, _, err = cutaway("sae", "features", "mine", "--top", 1)
    assert code == 0, err
    assert not (tmp_path / "mine").exists()
    code, _, err = cutaway("sae", "eval", "mine")
    assert code == 0, err


@pytest.mark.parametrize("form", ["saelens", "cutaway"])
def test_an_export_reads_back_the_same(cutaway: Cutaway, dictionary_run, tmp_path, form) -> None:
    code, out, err = cutaway("sae", "export", dictionary_run, "--format", form, "--out", "given")
    assert (code, out.strip()) == (0, "given"), err
    one, other = Dictionary.load(dictionary_run), Dictionary.load(tmp_path / "given")
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)) * 5
    assert one.encode(x).any()
    torch.testing.assert_close(one.encode(x), other.encode(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one(x), other(x), rtol=1e-5, atol=1e-5)


def test_a_file_of_a_dictionary_is_judged_in_its_folder(
    cutaway: Cutaway, dictionary_run, activations, tmp_path
) -> None:
    cutaway("sae", "export", dictionary_run, "--format", "cutaway", "--out", "given")
    code, _, err = cutaway(
        *("sae", "eval", tmp_path / "given" / "dictionary.safetensors"),
        *("--activations", activations),
    )
    assert code == 0, err
    assert (tmp_path / "given" / "evaluation.json").is_file()


def test_an_effect_is_shown_before_and_after(
    cutaway: Cutaway, dictionary_run: Path, corpus: Path
) -> None:
    prompt = "The old king sees the river"
    dictionary, model = Dictionary.load(dictionary_run), model_of(dictionary_run)
    site = dictionary.metadata["site"]
    states = states_of(model, prompt, site)
    feature = int(dictionary.encode(states[-1]).argmax())
    ask = ["sae", "effect", dictionary_run, "--feature", feature, "--prompt", prompt, "--length", 5]
    code, out, err = cutaway(*ask, "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["divergence"] > 0
    assert found["without"].startswith(prompt)
    assert {row["before"] == row["after"] for row in found["tokens"]} == {False}
    code, out, _ = cutaway(*ask)
    assert (code, "KL(before ‖ after)" in out, "without:" in out) == (0, True, True)
    _, same, _ = cutaway(*ask, "--mode", "scale", "--value", 1, "--json")
    (unchanged,) = json.loads(same)
    assert unchanged["divergence"] == pytest.approx(0, abs=1e-8)
    assert unchanged["with"] == unchanged["without"]


def model_of(folder: Path) -> Model:
    about = Run.open(folder).record.resolved["dictionary"]["reference"]
    return open_model(about["id"])


def states_of(model: Model, prompt: str, site: str) -> torch.Tensor:
    (states,) = capture(model, model.tokens(prompt), [site]).values()
    return states[0]
