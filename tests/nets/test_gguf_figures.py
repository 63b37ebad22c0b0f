"""Beside the figures of a dequantised model stands how its weights were stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("gguf")
pytest.importorskip("accelerate")

from cutaway.cli.main import run
from cutaway.runs.folder import Run
from nets.gguf_files import write

WORDS = "dequantised from 4 bits (Q4_0)"
TEXT = "the cat saw the dog near the old house by the sea while the rain fell on the road. " * 30


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "texts").mkdir()
    for number in range(12):
        (folder / "texts" / f"{number}.txt").write_text(f"{number} {TEXT}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(folder / "cache"))
        write(folder / "tiny.gguf", "Q4_0", file_type=2)
        yield folder


def command(*arguments: object) -> None:
    assert run([str(one) for one in arguments]) == 0


@pytest.fixture(scope="module")
def store(place) -> Path:
    data = ["--data", place / "texts", "--tokens", "6000", "--layers", "1"]
    command("extract", place / "tiny.gguf", *data, "--out", place / "states")
    return place / "states"


@pytest.fixture(scope="module")
def dictionary(place, store) -> Path:
    small = ["--d-hidden", "32", "--epochs", "1", "--eval-tokens", "500"]
    command("sae", "train", store, *small, "--out", place / "dictionary")
    return place / "dictionary" / "residual.1"


@pytest.fixture(scope="module")
def probes(place) -> Path:
    command(
        *(
            "probe",
            "data",
            place / "tiny.gguf",
            "--target-token",
            " the",
            "--data",
            place / "texts",
        ),
        *("--out", place / "data"),
    )
    command(
        *("probe", "train", place / "tiny.gguf", "--data", place / "data", "--layers", "1"),
        *("--out", place / "probes"),
    )
    return place / "probes"


def test_extract_says_it_before_and_after(place, capsys):
    data = ["--data", place / "texts", "--tokens", "600", "--layers", "0"]
    command("extract", place / "tiny.gguf", *data, "--out", place / "first")
    said = capsys.readouterr()
    assert f"weights {WORDS}; " in said.err
    assert f"weights {WORDS}" in said.out
    manifest = json.loads((place / "first" / "manifest.json").read_text())
    assert manifest["reference"]["quantisation"] == "4 bits (Q4_0)"


def test_runs_show_says_it(store, dictionary, probes, capsys):
    for folder in (store, dictionary, probes):
        command("runs", "show", folder)
        assert WORDS in capsys.readouterr().out
        assert any("quantisation" in parent for parent in Run.open(folder).record.parents)


def test_dictionaries_say_it_in_tables_files_and_pages(dictionary, place, capsys):
    command("sae", "eval", dictionary, "--tokens", "500", "--out", place / "judged")
    assert WORDS in capsys.readouterr().out
    assert WORDS in (place / "judged" / "evaluation.csv").read_text()
    command("sae", "eval", dictionary, "--tokens", "500", "--json")
    assert json.loads(capsys.readouterr().out)[0]["quantisation"] == "4 bits (Q4_0)"
    command("sae", "features", dictionary, "--tokens", "500", "--out", place / "features")
    assert WORDS in (place / "features" / "features.html").read_text()
    effect = ["--prompt", "the cat", "--feature", "1", "--value", "40", "--mode", "add"]
    capsys.readouterr()
    command("sae", "effect", dictionary, *effect, "--length", "3")
    assert WORDS in capsys.readouterr().out
    command("sae", "effect", dictionary, *effect, "--length", "3", "--json")
    assert json.loads(capsys.readouterr().out)[0]["weights"] == WORDS


def test_probes_say_it_in_tables_and_pages(probes, place, capsys):
    capsys.readouterr()
    command("probe", "eval", probes, "--data", place / "texts", "--tokens", "500")
    assert WORDS in capsys.readouterr().out
    command("probe", "train", "--out", probes, "--resume")
    assert WORDS in capsys.readouterr().out
    command("probe", "view", probes, "--text", "the cat saw the dog", "--out", place / "view.html")
    assert WORDS in (place / "view.html").read_text()


def test_a_dense_models_tables_have_no_such_column(place, capsys):
    write(place / "dense.gguf", "F32")
    data = ["--data", place / "texts", "--tokens", "600", "--layers", "0"]
    command("extract", place / "dense.gguf", *data, "--out", place / "dense")
    said = capsys.readouterr()
    assert "weights" not in said.out + said.err
    assert "quantisation" not in (place / "dense" / "manifest.json").read_text()
    assert "quantisation" not in (place / "dense" / "run.json").read_text()
