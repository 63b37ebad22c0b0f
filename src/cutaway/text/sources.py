"""Sources: where documents come from, asked for by name or by path.

A source streams its documents, can be read again from the start, and has a fingerprint that
changes when its content does, so that what is built from it can be kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

from cutaway.base.display import notice
from cutaway.base.errors import UserError, nearest
from cutaway.base.files import as_path


@dataclass(frozen=True, slots=True)
class Document:
    """One document: the unit that is split into train and validation. `id` is unique in its source."""

    id: str
    text: str


@runtime_checkable
class Source(Protocol):
    """Documents by name. `name` is the spec it was made from: `docstrings`, `europarl:en-fr`, a path."""

    name: str

    def documents(self) -> Iterator[Document]:
        """Stream the documents from the start, in the same order each time; none is blank."""
        ...

    def fingerprint(self) -> str:
        """A short text that changes when the content does; cheap to compute."""
        ...

    def size(self) -> int | None:
        """Bytes of text, roughly, where that is known without reading it all; None elsewhere."""
        ...


@dataclass(frozen=True, slots=True)
class First:
    """The first `count` documents of a source, a source itself."""

    whole: Source
    count: int

    @property
    def name(self) -> str:
        return f"the first {self.count:,} documents of {self.whole.name}"

    def documents(self) -> Iterator[Document]:
        return islice(self.whole.documents(), self.count)

    def fingerprint(self) -> str:
        return f"first {self.count}:{self.whole.fingerprint()}"

    def size(self) -> int | None:
        return None


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What `cutaway corpus ls` tells of a source."""

    name: str
    what: str
    size: str
    needs: str


def source(spec: str | os.PathLike[str]) -> Source:
    """The source for a spec.

    - `docstrings`, `docstrings:all`: the English of the running Python (`text/docstrings.py`);
    - `europarl[:en-fr]`, `wikipedia[:lang[:date]]`, `gutenberg[:lang]`, `truthfulqa`: from the
      Hugging Face hub, or from a local folder in its layout: `wikipedia:fr@/data/wikipedia`
      (`text/hub.py`);
    - a path to a file or folder of .txt, .text, .md, .jsonl, .json, .parquet, each also .gz;
      `records.jsonl::body` names the text column (`text/files.py`).

    A path object is always a path. Raises UserError for an unknown name or a missing path.
    """
    from cutaway.text import docstrings, files, hub

    if isinstance(spec, os.PathLike):
        return files.FilesSource(Path(spec))
    if not isinstance(spec, str):
        raise TypeError(f"spec: expected a name or a path, got {type(spec).__name__}")
    if not spec.strip():
        raise UserError("data = '': expected a path or one of " + ", ".join(_names()))
    name = spec.partition("@")[0].partition(":")[0]
    if name == "docstrings" or name in hub.CORPORA:
        if os.path.exists(as_path(spec)):
            notice(
                f"{spec}: taken as the corpus of that name; write ./{spec} for the file or folder"
            )
        return docstrings.DocstringsSource(spec) if name == "docstrings" else hub.HubSource(spec)
    path, column = files.split_column(spec)
    as_path(path)
    if path.exists():
        return files.FilesSource(path, column=column, name=spec)
    if os.sep in spec or path.suffix:
        raise UserError(f"{path}: no such file or folder")
    raise UserError(
        f"data = {spec!r}: no such file or folder, and no source of that name"
        f"{nearest(name, _names()) or '; known: ' + ', '.join(_names())}"
    )


def known() -> list[SourceInfo]:
    """The sources that have a name, and what a path may hold."""
    from cutaway.text import files, hub

    embedded = [
        SourceInfo(
            "docstrings",
            "docstrings and language reference of the Python that runs this",
            "2.3 MB",
            "nothing",
        ),
        SourceInfo("docstrings:all", "the same and every installed package", "varies", "nothing"),
    ]
    hubs = [
        SourceInfo(corpus.usage, f"{corpus.what} ({corpus.repository})", corpus.size, "extra: hub")
        for corpus in hub.CORPORA.values()
    ]
    paths = SourceInfo(
        "PATH", "a file or folder of " + ", ".join(files.SUFFIXES) + ", also .gz", "any", "nothing"
    )
    return [*embedded, *hubs, paths]


def _names() -> list[str]:
    from cutaway.text import hub

    return ["docstrings", *hub.CORPORA]
