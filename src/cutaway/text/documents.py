"""Documents and what a source of them is: the contract that every kind of source keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable


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


class NamedSource(Source, Protocol):
    """A kind of source that is asked for by name: `name[:part...]`, as `sources.SOURCES` lists them."""

    def __init__(self, spec: str):
        """The source for a spec. Raises UserError for one that it does not have."""
        ...

    @classmethod
    def infos(cls) -> list[SourceInfo]:
        """What `cutaway corpus ls` shows of this kind."""
        ...
