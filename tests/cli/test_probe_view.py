"""`cutaway probe view` as it is typed."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
import torch

from cutaway.nets.reference import open_model
from cutaway.probes.states.probe import Probe, ProbeAbout
from cutaway.text.tokenizers import Tokenizer


@pytest.fixture(scope="module")
def probes(gpt2_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two probes of the tiny GPT-2."""
    model = open_model(gpt2_run, device="cpu")
    out = tmp_path_factory.mktemp("probes")
    for number, site in enumerate(("residual.0", "embed")):
        about = ProbeAbout(
            reference=model.reference,
            site=site,
            method="exact",
            task="next",
            classes=("other", "target"),
            prior=(0.95, 0.05),
            trained_prior=(0.5, 0.5),
            target=" the",
            target_id=model.reads.encode(" the")[0],
            context_length=16,
        )
        weight = torch.full((1, model.width), 0.1 + number)
        Probe(about, weight, torch.zeros(1), torch.zeros(model.width), torch.tensor(1.0)).save(
            out / site
        )
    return out


def text_of(page: Path) -> str:
    return "".join(
        word if isinstance(word, str) else word[0]
        for data in [data_of(page)]
        for word in (data["words"][one] for one in data["tokens"])
    )


def data_of(page: Path) -> dict:
    found = re.search(r'id="probabilities-data">(.*?)</script>', page.read_text("utf-8"), re.S)
    return json.loads(found[1])


def test_a_page_of_a_corpus_is_written_and_summed_up_in_a_line(cutaway, probes, corpus, tmp_path):
    code, out, err = cutaway("probe", "view", probes, "--data", corpus, "--tokens", "300")
    assert code == 0, err
    page = tmp_path / "view.html"
    size = page.stat().st_size
    assert out == f"view.html: 300 tokens, 2 layers, {size / 1000:.1f} KB\n"
    data = data_of(page)
    assert [one["name"] for one in data["layers"]] == ["embed", "residual.0"]
    first = (corpus / "text-00.txt").read_text()
    assert text_of(page) == first[: len(text_of(page))]
    assert len(base64.b64decode(data["values"])) == 2 * 2 * 300


def test_the_documents_own_option_names_work(cutaway, probes, tmp_path):
    (tmp_path / "notes").write_text("the cat sees the river")
    code, out, err = cutaway(
        *("probe", "view", "--probe-dir", probes, "--text-source", "file", "--text-file", "notes"),
        *("--num-tokens", 1000, "--output", "made/it.html"),
    )
    assert code == 0, err
    assert out.startswith("made/it.html: ")
    assert "asked for" in err
    assert text_of(tmp_path / "made" / "it.html") == "the cat sees the river"


def test_a_text_is_read_from_the_command_line(cutaway, probes, gpt2_run, tmp_path):
    text = "the old king\nsees the sea"
    code, _, err = cutaway("probe", "view", probes, "--text", text, "--model", gpt2_run)
    assert code == 0, err
    data = data_of(tmp_path / "view.html")
    assert text_of(tmp_path / "view.html") == text
    tokenizer = Tokenizer.load(gpt2_run / "tokenizer")
    ids, the = tokenizer.encode(text), tokenizer.encode(" the")[0]
    assert data["labels"] == [*(int(one == the) for one in ids[1:]), -1]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["nowhere"], "nowhere: no probes there"),
        (["PROBES", "--text", "a", "--data", "docstrings"], "choose one"),
        (["PROBES", "--text", " "], "no text in it"),
        (["PROBES", "--text-file", "missing.txt"], "missing.txt"),
        (["PROBES", "--tokens", "0"], "tokens = '0'"),
        (["PROBES", "--text", "a", "--out", "."], "is a folder"),
        (["PROBES", "--language", "fr"], "fr"),
        (["PROBES", "--text", "a", "--language", "fr"], "fr"),
        (["PROBES", "--text", "a", "--model", "OTHER"], "not the one the probes were trained"),
    ],
)
def test_wrong_requests_end_with_one_line(cutaway, probes, tiny_folder, tmp_path, given, complaint):
    places = {"PROBES": probes, "OTHER": tiny_folder("gpt2")}
    code, out, err = cutaway("probe", "view", *(places.get(one, one) for one in given))
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.startswith("cutaway: ")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "view.html").exists()
