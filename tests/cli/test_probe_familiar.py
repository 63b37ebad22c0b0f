"""`probe eval` recognises the text that probes were trained on, and says which decision figures are of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import sentences

Cutaway = Callable[..., tuple[int, str, str]]


def table(path: Path, numbers: range) -> Path:
    lines = [f"{'the cat' if n % 2 else 'a small dog'} sees {n} rivers,{n % 2}" for n in numbers]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def labelled(cutaway: Cutaway, tiny_folder, tmp_path: Path) -> Path:
    """A run of probes of labels, trained on the table `mine.csv`."""
    table(tmp_path / "mine.csv", range(90))
    code, _, err = cutaway(
        "probe", "data", tiny_folder("llama"), "--labels", tmp_path / "mine.csv", "--out", "data"
    )
    assert code == 0, err
    code, _, err = cutaway(
        *("probe", "train", tiny_folder("llama"), "--data", "data", "--layers", "embed,0"),
        *("--controls", "none", "--out", "run"),
    )
    assert code == 0, err
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("name", "numbers", "share"),
    [
        ("copy.csv", range(90), 0.8),
        ("half.csv", range(45, 135), 0.4),
        ("new.csv", range(90, 180), 0),
    ],
)
def test_labelled_texts_of_training_are_recognised_under_any_name(
    cutaway, labelled, tmp_path, name, numbers, share
) -> None:
    path = table(tmp_path / name, numbers)
    code, out, err = cutaway("probe", "eval", labelled, "--data", path, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert len(rows) == 2
    for row in rows:
        assert row["in_training"] == pytest.approx(share, abs=0.06)
    assert ("of the examples are of text the probes were trained on" in err) == (share > 0)


def test_the_training_part_itself_is_recognised_and_the_test_part_is_not(cutaway, labelled) -> None:
    for part, share in (("train", 1.0), ("test", 0.0)):
        code, out, err = cutaway("probe", "eval", labelled, "--part", part)
        assert code == 0, err
        assert ("100.0% of the examples are of text the probes were trained on" in err) == (
            share == 1
        )
        assert ("in_training" in out) == (share == 1)
    code, out, _ = cutaway("probe", "eval", labelled, "--part", "train", "--json")
    assert {row["in_training"] for row in json.loads(out)} == {1.0}


def test_where_the_data_of_training_are_gone_that_is_said(cutaway, labelled, tmp_path) -> None:
    path = table(tmp_path / "copy.csv", range(90))
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    code, out, err = cutaway("probe", "eval", labelled, "--data", path, "--json")
    assert code == 0, err
    assert {row["in_training"] for row in json.loads(out)} == {None}
    assert "in_training: not known" in err


def test_a_text_of_training_is_recognised_in_a_file_of_another_name(
    cutaway, tiny_folder, tmp_path
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.txt").write_text(sentences(number, 60))
    model = tmp_path / "longer"
    shutil.copytree(tiny_folder("llama"), model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 128}))
    code, _, err = cutaway(
        *("probe", "data", model, "--data", folder, "--context-length", 64, "--out", "data"),
        *("--max-chunks-per-class", 3000),
    )
    assert code == 0, err
    ask = ["--layers", "embed", "--controls", "none", "--out", "run"]
    code, _, err = cutaway("probe", "train", model, "--data", "data", *ask)
    assert code == 0, err
    shares = {}
    for name, text in (
        ("old", " ".join(sentences(number, 60) for number in range(12))),
        ("new", sentences(99, 400)),
    ):
        (tmp_path / f"{name}.txt").write_text(text)
        code, out, err = cutaway(
            *("probe", "eval", "run", "--data", tmp_path / f"{name}.txt", "--tokens", "5k"),
            "--json",
        )
        assert code == 0, err
        shares[name] = json.loads(out)[0]["in_training"]
    assert shares["old"] > 0.5  # documents of validation and test are not of training
    assert shares["new"] < 0.3  # sentences of a small grammar


# -- decisions -------------------------------------------------------------------------------------

OF = {
    "even": ("balanced_accuracy", "recall", "specificity"),
    "natural": ("accuracy", "precision", "f1"),
}


def test_every_score_of_a_decision_has_a_name_that_says_which(cutaway, labelled) -> None:
    code, out, err = cutaway("probe", "eval", labelled, "--json")
    assert code == 0, err
    for row in json.loads(out):
        for which, names in OF.items():
            for name in names:  # the older names stay, beside those that say it
                assert row[name] == pytest.approx(row[f"{name}_{which}"], nan_ok=True)
        assert {
            f"{name}_{which}" for names in OF.values() for name in names for which in OF
        } <= set(row)
    bare = {name for names in OF.values() for name in names}
    for command in (["probe", "eval", labelled], ["probe", "train", "--resume", "--out", labelled]):
        code, out, err = cutaway(*command)
        assert code == 0, err
        head = set(out.split())
        assert not head & bare
        assert {"balanced_accuracy_even", "recall_even", "precision_natural", "f1_natural"} <= head
        assert "even: decided as if classes were equally frequent" in err


# -- other tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("0.0", "1.0"), "label '1.0': taken for the probes' class '1'"),
        (("a", "b"), "examples of 'a'"),
    ],
)
def test_labels_written_otherwise_are_the_probes_classes(
    cutaway, labelled, tmp_path, names, said
) -> None:
    lines = [f"{'the cat' if n % 2 else 'a small dog'} eats {n},{names[n % 2]}" for n in range(90)]
    (tmp_path / "other.csv").write_text("claim,truth\n" + "\n".join(lines))
    ask = ["--data", tmp_path / "other.csv", "--text-column", "claim", "--label-column", "truth"]
    code, _, err = cutaway("probe", "eval", labelled, *ask, "--json")
    assert code == (0 if names[0] == "0.0" else 2), err
    assert said in err
