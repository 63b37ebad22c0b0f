"""The text probes are shown on when nobody names one: documents that no training saw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cutaway.base.errors import UserError
from cutaway.probes.data import METADATA, ProbeData
from cutaway.runs.folder import Run
from cutaway.text.sources import source


def data_folder(probes: str | Path) -> Path | None:
    """Where the data of a run of probes lie; None where they cannot be found any more."""
    for folder in (Path(probes), Path("runs") / probes):
        if (folder / "run.json").is_file():
            said = Run.open(folder).record.config.get("data")
            return Path(said) if said and (Path(said) / METADATA).is_file() else None
    return None


def test_texts(data: ProbeData) -> Iterator[str] | None:
    """The texts of the test part's documents, from the source they came from.

    None where the data are not from a source, or their documents are sections of longer ones.
    """
    place = data.source.get("data")
    names = {data.documents[one] for one in data.parts["test"].document.unique().tolist()}
    if place is None:
        return None
    try:
        texts = source(place)
    except UserError:
        return None
    known = {document.id for document in texts.documents()}
    if not names <= known:
        return None
    return (document.text for document in texts.documents() if document.id in names)
