"""Text that was held out is found again, and nothing else is taken for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cutaway.probes.data.examples import ProbeData
from cutaway.probes.data.windows import token_data
from cutaway.probes.other_data.held_out import (
    data_folder,
    held_out,
    held_out_of,
    held_out_texts,
    trained_on,
)
from cutaway.probes.train.run import train_probes
from cutaway.text.sources import source
from cutaway.text.tokenizers import Tokenizer


def made(gpt2_run: Path, texts: Path, out: Path, **settings: int) -> Path:
    settings = {"context_length": 12, "max_chunks_per_class": 200, **settings}
    tokenizer = Tokenizer.load(gpt2_run / "tokenizer")
    return token_data(source(str(texts)), tokenizer, " the", **settings).save(out)


@pytest.fixture(scope="module")
def place(gpt2_run: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus `texts`, probe data of it in `data` and a run in `run`; tests copy what they change."""
    root = tmp_path_factory.mktemp("held-out")
    shutil.copytree(corpus, root / "texts")
    made(gpt2_run, root / "texts", root / "data")
    settings = {"model": str(gpt2_run), "data": str(root / "data"), "layers": "embed"}
    train_probes({**settings, "method": "mass_mean", "controls": "none"}, root / "run")
    return root


def test_it_is_the_test_documents_whole_and_no_others(place: Path) -> None:
    data = ProbeData.load(place / "data")
    documents = {one.id: one.text for one in source(str(place / "texts")).documents()}
    of = {
        part: {data.documents[one] for one in examples.document.tolist()}
        for part, examples in data.parts.items()
    }
    found = held_out(place / "run")
    assert found is not None
    assert {one.id: one.text for one in found.documents()} == {
        id: documents[id] for id in of["test"]
    }
    assert not found.ids & (of["train"] | of["validation"])
    assert 0 < len(found.ids) < len(documents) / 2
    assert found.name.endswith("texts held out")
    assert list(held_out_texts(data) or ()) == [one.text for one in found.documents()]


def test_one_probe_of_a_run_finds_the_run_s_documents(place: Path, monkeypatch) -> None:
    probe = place / "run" / "probes" / "embed"
    assert held_out(probe).fingerprint() == held_out(place / "run").fingerprint()
    monkeypatch.chdir(probe)
    assert data_folder(Path()) == place / "data"


def test_documents_have_a_fingerprint_of_their_own(place: Path) -> None:
    found = held_out(place / "run")
    fewer = type(found)(found.whole, frozenset(list(found.ids)[:1]))
    assert len({found.fingerprint(), fewer.fingerprint(), found.whole.fingerprint()}) == 3


def test_of_sections_there_are_no_whole_documents(gpt2_run, corpus, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    text = "\n".join(one.read_text() for one in sorted(corpus.iterdir()))
    (tmp_path / "one" / "book.txt").write_text(text)
    data = ProbeData.load(made(gpt2_run, tmp_path / "one", tmp_path / "data"))
    assert data.source["split"] == "sections"
    assert held_out_of(data) is None


def test_a_source_that_changed_is_not_trusted(gpt2_run, corpus, tmp_path: Path) -> None:
    texts = shutil.copytree(corpus, tmp_path / "texts")
    data = ProbeData.load(made(gpt2_run, texts, tmp_path / "data"))
    assert held_out_of(data) is not None
    (texts / "text-00.txt").write_text("other words than there were before")
    assert held_out_of(data) is None


def test_data_or_texts_that_were_moved_are_not_found(place: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(place, tmp_path / "copy")
    config = (copy / "run" / "run.json").read_text()
    (copy / "run" / "run.json").write_text(config.replace(str(place), str(copy)))
    assert held_out(copy / "run") is not None
    (copy / "data").rename(copy / "elsewhere")
    assert held_out(copy / "run") is None
    assert data_folder(copy / "run") is None
    (copy / "elsewhere").rename(copy / "data")
    metadata = copy / "data" / "metadata.json"
    metadata.write_text(metadata.read_text().replace(str(place / "texts"), str(copy / "gone")))
    assert held_out(copy / "run") is None


def test_labels_and_bare_probes_have_none(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run" / "probes", tmp_path / "bare")
    assert held_out(tmp_path / "bare") is None
    assert held_out(tmp_path) is None


def test_text_is_known_again_by_its_content(place: Path, corpus: Path, tmp_path: Path) -> None:
    assert trained_on(place / "run", str(place / "texts"))
    assert trained_on(place / "run" / "probes" / "embed", str(place / "texts"))
    (tmp_path / "other.txt").write_text("the river")
    assert not trained_on(place / "run", str(tmp_path / "other.txt"))
    assert not trained_on(place / "run", str(tmp_path / "missing"))
    assert not trained_on(place / "run", str(place / "data"))
    assert not trained_on(tmp_path, str(place / "texts"))
