"""A line longer than any row is refused before it fills the memory, packed or not."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest

from cutaway.base.errors import UserError
from cutaway.labelled.rows import labelled_rows
from cutaway.text import decoding
from cutaway.text.sources import source


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LONGEST_LINE", 1 << 20)


def packed(path: Path, before: str, times: int, after: str) -> Path:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.write(before)
        for _ in range(times):
            file.write("abc def " * 4096)
        file.write(after)
    return path


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl"])
def test_a_row_of_text(tmp_path: Path, short_limit, name: str) -> None:
    path = packed(tmp_path / name, '{"text": "ok"}\n{"text": "', 1024, '"}\n')
    tracemalloc.start()
    with pytest.raises(UserError, match="line 2 has more than 1,048,576 characters"):
        list(source(str(path)).documents())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20  # of the 33 MB of that line


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_labelled_row(tmp_path: Path, short_limit, name: str) -> None:
    before = "text,label\n" if name.endswith("csv") else '{"label": "a", "text": "'
    path = packed(tmp_path / name, before, 64, ",a\n" if name.endswith("csv") else '"}\n')
    with pytest.raises(UserError, match="has more than 1,048,576 characters"):
        list(labelled_rows(path))


def test_text_without_line_ends_is_read_in_pieces(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.txt.gz", "", 1024, "")
    tracemalloc.start()
    letters = sum(len(one.text) for one in source(str(path)).documents())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert letters == 1024 * 4096 * 8
    assert peak < 24 << 20
