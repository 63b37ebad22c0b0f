"""Text that is not quite right: broken bytes, rows without text, columns that begin late."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cutaway.base.errors import UserError
from cutaway.labelled.files import read_tasks
from cutaway.text import source
from cutaway.text.files import FilesSource


def texts(path: Path) -> dict[str, str]:
    return {document.id: document.text for document in FilesSource(path).documents()}


PROSE = "Le château était fermé, et la clé perdue. 日本語のテキスト。\n"


@pytest.mark.parametrize(
    ("before", "stray", "after"),
    [
        (PROSE * 3, "語".encode()[:2], ""),  # cut in the middle of a letter
        (f"{PROSE}one ", b"\xff", f" two\n{PROSE}"),
        (f"{PROSE * 40_000}one ", b"\xe9", f" two\n{PROSE}"),
        (PROSE, b"\xe6\x97", PROSE),
        ("The only accent: é. And ", b"\xff", " is broken."),
        ("Plain English, and one sign at the end ", "😀".encode()[:3], ""),
    ],
)
@pytest.mark.parametrize("kind", ["a.txt", "a.txt.gz", "bom.txt"])
def test_broken_bytes_of_utf8_are_read_as_such_and_told(
    tmp_path, capsys, before: str, stray: bytes, after: str, kind: str
) -> None:
    mark = b"\xef\xbb\xbf" if kind == "bom.txt" else b""
    written = mark + before.encode() + stray + after.encode()
    path = tmp_path / kind
    path.write_bytes(gzip.compress(written, 1) if kind.endswith("gz") else written)
    assert "".join(texts(path).values()) == f"{before}\ufffd{after}"
    line, byte = before.count("\n") + 1, len(mark + before.encode())
    assert (
        f"{path}: 1 place is broken UTF-8 (line {line:,}, byte {byte:,}); read as U+FFFD"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("written", [b"caf\xe9", b"\xc3\xa9 \xe9 \xe9", b"na\xefve \x93q\x94"])
def test_other_encodings_are_not_taken_for_broken_utf8(tmp_path, capsys, written) -> None:
    """One whole letter of UTF-8 comes about by chance, beside letters that are none."""
    (tmp_path / "a.txt").write_bytes(written)
    assert texts(tmp_path) == {"a.txt": written.decode("cp1252")}
    assert "not UTF-8, read as cp1252" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "conll"])
def test_broken_bytes_do_no_harm_to_the_rest_of_a_table(tmp_path, capsys, kind) -> None:
    words = {"csv": "é{n},{l}", "tsv": "é{n}\t{l}", "conll": "é{n} B-{l}\nein O\n"}
    words["jsonl"] = '{{"text": "é{n}", "label": "{l}"}}'
    head = {"csv": "text,label\n", "tsv": "text\tlabel\n"}.get(kind, "")
    lines = [words[kind].format(n=n, l="ab"[n % 2]) for n in range(40)]
    written = (head + "\n".join(lines)).encode().replace("é7".encode(), b"\xe97")
    path = tmp_path / f"x.{kind}"
    path.write_bytes(written)
    (found, *_) = read_tasks(path)
    assert sum("é" in text for text in found.texts) == 39
    assert sum("\ufffd" in text for text in found.texts) == 1
    assert "1 place is broken UTF-8" in capsys.readouterr().err


def test_token_files_of_a_broken_file_are_not_those_of_its_old_reading(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes((PROSE * 3).encode())
    clean = source(path).fingerprint()
    path.write_bytes((PROSE * 3).encode()[:-3])
    broken = source(path)
    old = f"files:{hashlib.sha256(_facts(path).encode()).hexdigest()}"
    assert len({clean, broken.fingerprint(), old}) == 3


def _facts(path: Path) -> str:
    """What the fingerprint of a file is made of where nothing in it is broken."""
    from cutaway.text import files, rows

    content = files.fingerprint([(path, path.name)])
    return f"{content} {files.PIECE} {files._WHOLE} {rows.BLOCK} None"


def test_what_holds_no_text_is_counted(tmp_path, capsys) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text(" \n")
    (tmp_path / "c.txt").write_text("")
    rows = [{"text": text} for text in ("a", "", None, " ")]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "s.parquet")
    found = source(tmp_path)
    for _ in range(2):
        assert len(list(found.documents())) == 3
    said = capsys.readouterr().err
    assert said.count("2 of 5 files hold no text") == 1
    for name in ("r.jsonl", "s.parquet"):
        assert said.count(f"{name}: 3 of 4 rows have no text and are left out") == 1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"text": None, "title": "t"}, {"text": "body", "title": "u"}], ["body"]),
        ([{"title": "t", "text": None}] * 300 + [{"title": "t", "text": "body"}], ["body"]),
        ([{"passage": None, "title": "t"}, {"passage": "p", "title": "u"}], ["p"]),
        ([{"n": 1, "body": None}, {"n": 2, "body": "b"}], ["b"]),
        (
            [{"translation": {"en": "one"}}, {"translation": {"en": "two", "fr": "deux"}}],
            ["one\ntwo", "deux"],
        ),
    ],
)
def test_the_first_rows_do_not_decide_what_a_column_is(tmp_path, rows, expected) -> None:
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert list(texts(tmp_path / "r.jsonl").values()) == expected


def test_a_column_of_text_and_numbers_is_refused_and_not_another_taken(tmp_path) -> None:
    rows = [{"text": 5, "title": "t"}, {"text": "body", "title": "u"}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"r\.jsonl:1: column 'text' is int, expected text"):
        texts(tmp_path / "r.jsonl")


@pytest.mark.parametrize("coding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_refused_with_a_way_on(tmp_path, coding) -> None:
    (tmp_path / "a.txt").write_bytes(PROSE.encode(coding))
    with pytest.raises(UserError, match="if it is UTF-16 without a byte order mark, convert it"):
        texts(tmp_path)
