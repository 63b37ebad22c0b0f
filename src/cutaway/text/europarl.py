"""The plain Europarl release: proceedings with `<CHAPTER>`, `<SPEAKER>` and `<P>` on lines of their own.

Koehn 2005, "Europarl: A Parallel Corpus for Statistical Machine Translation".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_OPENING = re.compile(r"^<(?:CHAPTER|SPEAKER) ID=[^<>\n]*>\s*$", re.MULTILINE)
_TAG = re.compile(r"^\s*</?([A-Z]+)\b[^<>]*>\s*$")


def is_europarl(beginning: str) -> bool:
    """Whether a file that begins like this carries Europarl's tags."""
    return bool(_OPENING.search(beginning))


def chapters(lines: Iterable[str]) -> Iterator[str]:
    """The text of each chapter, tags stripped, an empty line between speaker turns.

    What stands before the first chapter is a chapter of its own; empty ones are left out.
    """
    kept: list[str] = []
    for line in lines:
        tag = _TAG.match(line)
        if tag is None:
            if stripped := line.strip():
                kept.append(stripped)
        elif tag[1] == "CHAPTER":
            yield from _joined(kept)
            kept = []
        elif tag[1] == "SPEAKER" and kept and kept[-1]:
            kept.append("")
    yield from _joined(kept)


def _joined(lines: list[str]) -> Iterator[str]:
    if text := "\n".join(lines).strip():
        yield text
