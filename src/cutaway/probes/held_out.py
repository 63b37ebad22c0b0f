"""The text probes are shown on when nobody names one: documents that no training saw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cutaway.base.errors import UserError
from cutaway.probes.data import METADATA, ProbeData
from cutaway.runs.folder import Run
from cutaway.text.sources import source


def held_out(probes: str | Path) -> tuple[Iterator[str], str] | None:
    """The texts of the test documents of a run's data, and what to call them.

    None where the run's data or their source cannot be found any more.
    """
    folder = _data_folder(probes)
    if folder is None:
        return None
    try:
        data = ProbeData.load(folder)
        texts = held_out_texts(data)
    except UserError:
        return None
    return None if texts is None else (texts, f"{data.source['data']} held out")


def held_out_texts(data: ProbeData) -> Iterator[str] | None:
    """The texts of the test part's documents, from the source they came from.

    None where the data are not from a source, where that has changed, or their documents are
    sections of longer ones.
    """
    place, split = data.source.get("data"), data.source.get("split")
    if place is None or split != "documents":
        return None
    texts = source(place)
    if texts.fingerprint() != data.source.get("content"):
        return None
    names = {data.documents[one] for one in data.parts["test"].document.unique().tolist()}
    return (document.text for document in texts.documents() if document.id in names)


def _data_folder(probes: str | Path) -> Path | None:
    for folder in (Path(probes), Path("runs") / probes):
        if (folder / "run.json").is_file():
            said = Run.open(folder).record.config.get("data")
            return Path(said) if said and (Path(said) / METADATA).is_file() else None
    return None
