"""Sources by name."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import pytest

from cutaway.base.errors import UserError
from cutaway.text import Document, SourceInfo, known, source
from cutaway.text.docstrings import DocstringsSource
from cutaway.text.sources import SOURCES


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("docstring", "did you mean 'docstrings'?"),
        ("wikipeda:fr", "did you mean 'wikipedia'?"),
        ("xyz", "known: docstrings, europarl"),
        ("./docstrings", "docstrings: no such file or folder"),
        ("missing.txt", "missing.txt: no such file or folder"),
        ("missing.jsonl::body", "missing.jsonl: no such file or folder"),
        ("", "expected a path"),
        ("docstrings:some", "expected docstrings or docstrings:all"),
        ("europarl:en-xx", "unknown language 'xx'; accepted: bg, cs, da"),
        ("europarl:en", "not a pair of languages"),
        ("europarl:en-en", "not a pair of languages"),
        ("europarl:en-fr:de", "expected europarl[:en-fr]"),
        ("gutenberg:xx", "unknown language 'xx'; accepted: de, en, es, fr, it, nl, pl, pt, ru, sv"),
        ("wikipedia:*", "expected wikipedia[:lang[:date]]"),
        ("wikipedia:fr:yesterday", "expected wikipedia[:lang[:date]]"),
        ("truthfulqa:generation", "which has no parts"),
        ("truthfulqa@", "a folder is missing behind '@'"),
        ("truthfulqa@/no/such", "/no/such: no such folder"),
    ],
)
def test_wrong_names_are_answered_with_what_is_accepted(
    spec: str, complaint: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        source(spec)
    assert complaint in str(caught.value)


def test_every_known_name_without_its_options_is_a_source() -> None:
    for info in known():
        if info.name != "PATH":
            assert source(info.name.partition("[")[0]).name in info.name


class Counting:
    """`counting:N`: as many documents as its name says."""

    def __init__(self, spec: str):
        self.name, self.count = spec, int(spec.partition(":")[2] or "2")

    @classmethod
    def infos(cls) -> list[SourceInfo]:
        return [SourceInfo("counting[:N]", "numbers", "tiny", "nothing")]

    def documents(self):
        yield from (Document(str(number), f"number {number}") for number in range(self.count))

    def fingerprint(self) -> str:
        return self.name

    def size(self) -> int | None:
        return None


def test_a_class_in_the_registry_is_a_source_by_its_prefix(monkeypatch) -> None:
    monkeypatch.setitem(SOURCES, "counting", Counting)
    assert len(list(source("counting:5").documents())) == 5
    assert len(list(source("counting").documents())) == 2
    assert "counting[:N]" in [info.name for info in known()]
    with pytest.raises(UserError, match="did you mean 'counting'"):
        source("countin")
    with pytest.raises(UserError, match=r"known: .*counting"):
        source("xyz")


def test_every_prefix_of_the_registry_is_listed() -> None:
    listed = {re.split(r"[\[:]", info.name)[0] for info in known()}
    assert listed == {*SOURCES, "PATH"}


def test_a_file_named_like_a_corpus_is_mentioned(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "docstrings").mkdir()
    (tmp_path / "docstrings" / "a.txt").write_text("own text")
    monkeypatch.chdir(tmp_path)
    assert isinstance(source("docstrings"), DocstringsSource)
    assert "write ./docstrings" in capsys.readouterr().err
    assert [d.text for d in source("./docstrings").documents()] == ["own text"]
    assert [d.text for d in source(Path("docstrings")).documents()] == ["own text"]


def test_docstrings_are_the_english_of_this_python() -> None:
    import argparse
    import inspect

    found = source("docstrings")
    documents = {d.id: d.text for d in found.documents()}
    assert inspect.getdoc(argparse) in documents["argparse"]
    assert inspect.getdoc(argparse.Action) in documents["argparse"]
    assert documents["topics:assert"].startswith('The "assert" statement')
    assert not any(id.startswith("test.") or ".test" in id for id in documents)
    assert sum(len(text.split()) for text in documents.values()) > 250_000
    assert list(source("docstrings").documents()) == list(found.documents())
    assert source("docstrings").fingerprint() == found.fingerprint()
    assert source("docstrings:all").fingerprint() != found.fingerprint()


def test_docstrings_all_adds_installed_packages(tmp_path: Path, monkeypatch) -> None:
    """Of the folder where this Python has its packages, whatever else is found elsewhere."""
    (tmp_path / "mine.py").write_text('"""What a package of mine is for."""\n')
    place = sysconfig.get_path
    monkeypatch.setattr(
        sysconfig,
        "get_path",
        lambda key: str(tmp_path) if key.endswith("lib") and key != "stdlib" else place(key),
    )
    ids = (document.id for document in source("docstrings:all").documents())
    assert next(ids) == "__future__"
    assert [id for id in ids if id.startswith("installed:")] == ["installed:mine"]


def test_a_python_without_sources_is_refused(tmp_path: Path, monkeypatch) -> None:
    import sysconfig

    monkeypatch.setattr(sysconfig, "get_path", lambda key: str(tmp_path))
    with pytest.raises(UserError, match="carries no library sources"):
        source("docstrings")
