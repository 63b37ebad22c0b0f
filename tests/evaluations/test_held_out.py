"""What `sae eval` judges on, what it says of it, and where it keeps the figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cutaway.activations.extraction import extract
from cutaway.activations.model_stream import ModelStream
from cutaway.activations.store import ActivationStore
from cutaway.activations.stream import ActivationStream
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.evaluations import held_out as judging
from cutaway.evaluations.evaluate import Evaluation, table
from cutaway.features.table import Features
from cutaway.runs.folder import Run
from cutaway.studies.train import train
from cutaway.workbench import pipeline
from cutaway.workbench import session as using

Cutaway = Callable[..., tuple[int, str, str]]
SMALL = {"layer": "0", "d_hidden": 64, "target_l0": 6, "batch_size": 64, "max_steps": 30}
SMALL |= {"eval_tokens": 500, "kernels": "sparse", "precision": "float32", "device": "cpu"}
MAYBE = "so this may be what it was trained on"


@pytest.fixture
def own(dictionary_run: Path, tmp_path: Path) -> Path:
    """A copy of the dictionary's run that was judged before."""
    folder = shutil.copytree(dictionary_run, tmp_path / "own")
    (folder / "evaluation.json").write_text("before")
    return folder


@pytest.fixture(scope="module")
def streamed(gpt2_run: Path, corpus: Path, tmp_path_factory) -> Path:
    """A run that streamed, in contexts of 8 tokens, and kept a fifth of them for validation."""
    settings = {"streaming": True, "model": str(gpt2_run), "data": str(corpus), "tokens": 4_000}
    settings |= {"context_length": 8, "validation_fraction": 0.2}
    out = tmp_path_factory.mktemp("streamed") / "run"
    train("dictionary", {**SMALL, **settings}, out)
    return out


def test_a_streaming_run_is_judged_on_its_own_validation_part(
    cutaway: Cutaway, streamed: Path, corpus: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(streamed, tmp_path / "own")
    code, out, err = cutaway("sae", "eval", folder, "--tokens", "1M", "--json")
    assert code == 0, err
    assert MAYBE not in err
    (found,) = json.loads(out)
    assert (found["held_out"], found["text"]) == (True, str(corpus))
    assert found["baselines"].keys() == {"pca", "random", "random_scaled"}
    _, model = using.opened(folder)
    settings = {"tokens": 4_000, "context_length": 8, "validation_fraction": 0.2}
    rest = ModelStream(model, str(corpus), "0", part="validation", **settings)
    assert found["tokens"] == found["dead_tokens"] == rest.rows < 1_000
    assert Evaluation.load(folder).tokens == rest.rows
    x = torch.cat(list(rest.blocks()))
    active = Dictionary.load(folder, device="cpu").encode(x) > 0
    assert found["l0"] == pytest.approx(float(active.sum()) / len(x), rel=1e-3)
    about = Run.open(folder).record.resolved["dictionary"]
    assert about["validation_fraction"] == 0.2
    assert (about["context_length"], about["bos"], about["model_dtype"]) == (8, False, "float32")


def test_other_text_is_packed_as_that_of_the_training(streamed: Path, corpus: Path) -> None:
    dictionary, model = using.opened(streamed)
    text = judging.packed_as_trained(dictionary, model, str(corpus), 500)
    assert text.context_length == 8
    dictionary.metadata["context_length"] = None
    assert judging.packed_as_trained(dictionary, model, str(corpus), 500).context_length == 16


def read_features(path: Path, data: Path | None = None) -> Features:
    given = None if data is None else str(data)
    return using.Session(path, data=given).features(600, 2)


def test_features_of_a_streaming_run_are_read_over_its_own_text(streamed, corpus) -> None:
    own, named = read_features(streamed), read_features(streamed, corpus)
    assert own.table.equals(named.table)
    assert own.facts["tokens"] == named.facts["tokens"] > 0


def test_features_are_read_over_the_text_of_a_store_that_is_gone(
    gpt2_run: Path, corpus: Path, tmp_path: Path
) -> None:
    extract({"model": str(gpt2_run), "data": str(corpus), "tokens": 4_000}, tmp_path / "store")
    train("dictionary", {**SMALL, "activations": str(tmp_path / "store")}, tmp_path / "run")
    (tmp_path / "store").rename(tmp_path / "gone")
    run = tmp_path / "run"
    assert read_features(run).table.equals(read_features(run, corpus).table)


@pytest.mark.parametrize("inside", ["", "text-03.txt"])
def test_text_of_the_training_is_said_to_be_that(
    cutaway: Cutaway, own: Path, corpus: Path, inside: str, tmp_path: Path
) -> None:
    ask = ["sae", "eval", own, "--data", corpus / inside, "--tokens", 500, "--json"]
    code, out, err = cutaway(*ask)
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["held_out"] is False
    assert err.count(MAYBE) == 1
    assert "--out FOLDER" in err
    assert (own / "evaluation.json").read_text() == "before"
    code, _, err = cutaway(*ask, "--out", "judged")
    assert code == 0, err
    kept = Evaluation.load(tmp_path / "judged")
    assert (kept.held_out, kept.text) == (False, str(corpus / inside))
    assert kept.threshold is not None  # from the run's history


def test_of_new_text_nothing_is_claimed(cutaway: Cutaway, own: Path, corpus: Path, tmp_path):
    new = shutil.copy(corpus / "text-03.txt", tmp_path / "new.txt")
    code, out, err = cutaway("sae", "eval", own, "--data", new, "--tokens", 500, "--json")
    assert code == 0, err
    assert json.loads(out)[0]["held_out"] == "unknown"
    assert MAYBE not in err


def test_another_store_of_the_same_text_is_said_to_be_that(
    cutaway: Cutaway, own: Path, gpt2_run: Path, corpus: Path, tmp_path: Path
) -> None:
    extract({"model": str(gpt2_run), "data": str(corpus), "tokens": 4_000}, tmp_path / "other")
    ask = ["sae", "eval", own, own, "--activations", "other", "--json", "--out", "judged"]
    code, out, err = cutaway(*ask)
    assert code == 0, err
    assert [one["held_out"] for one in json.loads(out)] == ["unknown", "unknown"]
    assert MAYBE in err
    assert (own / "evaluation.json").read_text() == "before"
    for name in ("own", "own-2"):
        assert Evaluation.load(tmp_path / "judged" / name).held_out is None


def test_dead_is_silent_on_the_whole_held_out_part(
    cutaway: Cutaway, own: Path, activations: Path
) -> None:
    code, out, err = cutaway("sae", "eval", own, "--tokens", 100, "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["held_out"] is True
    rest = ActivationStream(ActivationStore(activations), "0", part="validation")
    x = torch.cat(list(rest.blocks()))
    silent = (Dictionary.load(own, device="cpu").encode(x) > 0).sum(0) == 0
    assert found["tokens"] < found["dead_tokens"] == len(x)
    assert found["dead_share"] == pytest.approx(float(silent.double().mean()))
    assert table([Evaluation.load(own)])[0]["dead over"] == len(x)


def test_a_store_of_a_bfloat16_model_is_judged_on_that(
    gpt2_run: Path, corpus: Path, tmp_path: Path
) -> None:
    settings = {"model": str(gpt2_run), "data": str(corpus), "tokens": 4_000, "dtype": "bfloat16"}
    store = extract({**settings, "layers": "0"}, tmp_path / "store")
    assert pipeline.model_of(store, device="cpu").dtype == torch.bfloat16
    train("dictionary", {**SMALL, "activations": str(store.path)}, tmp_path / "run")
    assert using.opened(tmp_path / "run")[1].dtype == torch.bfloat16
    (tmp_path / "store").rename(tmp_path / "moved")
    assert using.opened(tmp_path / "run")[1].dtype == torch.bfloat16
    session = using.Session(tmp_path / "run", activations=tmp_path / "moved")
    assert session.evaluation(200).held_out is True
