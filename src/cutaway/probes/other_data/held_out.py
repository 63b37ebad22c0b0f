"""Text that no training of some probes saw: the test documents of their run's data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cutaway.base.errors import UserError
from cutaway.probes.data.examples import METADATA, ProbeData
from cutaway.probes.states.probe import FILE
from cutaway.runs.folder import Run
from cutaway.text.documents import Document, Source
from cutaway.text.sources import source


@dataclass(frozen=True)
class HeldOut:
    """The documents of a source whose ids are among `ids`, a source itself."""

    whole: Source
    ids: frozenset[str]

    @property
    def name(self) -> str:
        return f"{self.whole.name} held out"

    def documents(self) -> Iterator[Document]:
        return (one for one in self.whole.documents() if one.id in self.ids)

    def fingerprint(self) -> str:
        named = hashlib.sha256("\0".join(sorted(self.ids)).encode()).hexdigest()
        return f"of {named[:32]}:{self.whole.fingerprint()}"

    def size(self) -> int | None:
        return None


def held_out(probes: str | Path) -> HeldOut | None:
    """The test documents of the data of a run (or of one of its probes).

    None where the run's data or their source cannot be found any more, and as `held_out_of`.
    """
    folder = data_folder(probes)
    if folder is None:
        return None
    try:
        return held_out_of(ProbeData.load(folder))
    except UserError:
        return None


def held_out_of(data: ProbeData) -> HeldOut | None:
    """The documents of the test part, in the source they came from.

    None where the data are not from a source, where that has changed, or their documents are
    sections of longer ones. UserError where the source is gone.
    """
    place, split = data.source.get("data"), data.source.get("split")
    if place is None or split != "documents":
        return None
    texts = source(place)
    if texts.fingerprint() != data.source.get("content"):
        return None
    names = {data.documents[one] for one in data.parts["test"].document.unique().tolist()}
    return HeldOut(texts, frozenset(names))


def held_out_texts(data: ProbeData) -> Iterator[str] | None:
    """The texts of `held_out_of`."""
    found = held_out_of(data)
    return None if found is None else (document.text for document in found.documents())


def trained_on(probes: str | Path, data: str) -> bool:
    """Whether a source of text is, by its content, the one the probes' examples were made from."""
    folder = data_folder(probes)
    if folder is None or (Path(data) / METADATA).is_file():
        return False
    try:
        content = ProbeData.load(folder).source.get("content")
        return content is not None and source(data).fingerprint() == content
    except UserError:  # of labels, say: no source of text
        return False


def data_folder(probes: str | Path) -> Path | None:
    """The folder of probe data of a run, or of the run one of whose probes is named."""
    for place in (Path(probes), Path("runs") / probes):
        run = place.resolve().parents[1] if (place / FILE).is_file() else place
        if (run / "run.json").is_file():
            said = Run.open(run).record.config.get("data")
            return Path(said) if said and (Path(said) / METADATA).is_file() else None
    return None
