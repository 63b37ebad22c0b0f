"""Sources: where documents come from, asked for by name or by path.

A source streams its documents, can be read again from the start, and has a fingerprint that
changes when its content does, so that what is built from it can be kept (`documents.Source`).
"""

from __future__ import annotations

import os
from pathlib import Path

from cutaway.base.display import notice
from cutaway.base.errors import UserError, nearest
from cutaway.base.files import as_path
from cutaway.text.docstrings import DocstringsSource
from cutaway.text.documents import NamedSource, Source, SourceInfo
from cutaway.text.files import FilesSource, split_column
from cutaway.text.hub import CORPORA, HubSource

# The name before the first `:` or `@` of a spec → the class that reads it. A new source is a class
# that keeps `documents.NamedSource`, and a line here.
SOURCES: dict[str, type[NamedSource]] = {
    "docstrings": DocstringsSource,
    **dict.fromkeys(CORPORA, HubSource),
}


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
    if isinstance(spec, os.PathLike):
        return FilesSource(Path(spec))
    if not isinstance(spec, str):
        raise TypeError(f"spec: expected a name or a path, got {type(spec).__name__}")
    if not spec.strip():
        raise UserError("data = '': expected a path or one of " + ", ".join(SOURCES))
    name = spec.partition("@")[0].partition(":")[0]
    if name in SOURCES:
        if os.path.exists(as_path(spec)):
            notice(
                f"{spec}: taken as the corpus of that name; write ./{spec} for the file or folder"
            )
        return SOURCES[name](spec)
    path, column = split_column(spec)
    as_path(path)
    if path.exists():
        return FilesSource(path, column=column, name=spec)
    if os.sep in spec or path.suffix:
        raise UserError(f"{path}: no such file or folder")
    raise UserError(
        f"data = {spec!r}: no such file or folder, and no source of that name"
        f"{nearest(name, SOURCES) or '; known: ' + ', '.join(SOURCES)}"
    )


def known() -> list[SourceInfo]:
    """The sources that have a name, and what a path may hold."""
    kinds = dict.fromkeys(SOURCES.values())
    return [info for kind in (*kinds, FilesSource) for info in kind.infos()]
