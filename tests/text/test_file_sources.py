"""Files and folders as sources."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cutaway.base.errors import UserError
from cutaway.text import Source, source
from cutaway.text.files import FilesSource


def texts(path: Path | str, **options) -> dict[str, str]:
    found = [(d.id, d.text) for d in FilesSource(path, **options).documents()]
    assert len(dict(found)) == len(found), "ids repeat"
    return dict(found)


def test_a_folder_is_read_recursively_in_the_order_of_its_paths(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b.text", "ç é/ü ñ.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/x.txt").write_text("no")
    expected = ["a/b.text", "a/z.md", "b.txt", "ç é/ü ñ.txt"]
    assert texts(tmp_path) == {name: f"text of {name}" for name in expected}


def test_other_kinds_in_a_folder_are_left_out_and_said(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    assert list(texts(tmp_path)) == ["a.txt"]
    assert ".png (1)" in capsys.readouterr().err


def test_a_source_can_be_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    found = source(tmp_path)
    assert isinstance(found, Source)
    assert list(found.documents()) == list(found.documents())


def test_line_ends_are_made_the_same_everywhere(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "one\r\ntwo"}))
    assert texts(tmp_path) == {"a.txt": "one\ntwo\nthree\n", "b.jsonl:1": "one\ntwo"}


@pytest.mark.parametrize(
    ("written", "encoding"),
    [
        ("plain", "ascii"),
        ("naïve Ω 漢字", "utf-8"),
        ("naïve Ω 漢字", "utf-8-sig"),
        ("naïve Ω 漢字", "utf-16"),
        ("naïve Ω 漢字", "utf-32"),
        ("the caf\u00e9 \u201cquoted\u201d \u20ac5", "cp1252"),
        ("caf\u00e9 \u0081", "latin-1"),
    ],
)
def test_encodings_are_found(tmp_path: Path, written: str, encoding: str, capsys) -> None:
    (tmp_path / "a.txt").write_bytes(written.encode(encoding))
    with gzip.open(tmp_path / "b.txt.gz", "wb") as file:
        file.write(written.encode(encoding))
    assert texts(tmp_path) == {"a.txt": written, "b.txt.gz": written}
    said = capsys.readouterr().err
    assert (f"not UTF-8, read as {encoding}" in said) == (encoding in ("cp1252", "latin-1"))


def test_the_whole_file_decides_about_utf8(tmp_path: Path) -> None:
    """More stray letters than whole ones, a megabyte in, and a letter cut by the end of a chunk."""
    head = "é" * 600_000
    (tmp_path / "a.txt").write_bytes(b"x" + head.encode() + "\u201c\n".encode("cp1252") * 600_001)
    (tmp_path / "b.txt").write_bytes(b"x" + head.encode())
    found = texts(tmp_path)
    assert found["b.txt"] == "x" + head
    assert found["a.txt"].startswith("xÃ©Ã©")


def test_a_file_that_ends_inside_a_letter_is_not_utf8(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.txt").write_bytes("café".encode()[:-1])
    assert texts(tmp_path) == {"a.txt": "cafÃ"}
    assert "read as cp1252" in capsys.readouterr().err


def test_records_give_a_document_per_row(tmp_path: Path) -> None:
    rows = [{"id": k, "title": "t", "text": text} for k, text in enumerate(("a", "", None, "d"))]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "s.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    with gzip.open(tmp_path / "u.parquet.gz", "wb") as file:
        file.write((tmp_path / "t.parquet").read_bytes())
    expected = {
        f"{name}:{k}" for name in ("r.jsonl", "s.json", "t.parquet", "u.parquet.gz") for k in (1, 4)
    }
    assert set(texts(tmp_path)) == expected


def test_the_text_column_is_text_else_passage_else_the_only_one_else_named(tmp_path: Path) -> None:
    def first(row: dict, column: str | None = None) -> str:
        path = tmp_path / "r.jsonl"
        path.write_text(json.dumps(row))
        return next(iter(texts(path, column=column).values()))

    assert first({"passage": "p", "text": "t"}) == "t"
    assert first({"question": "q", "passage": "p"}) == "p"
    assert first({"n": 1, "body": "b"}) == "b"
    assert first({"text": "t", "body": "b"}, "body") == "b"
    (tmp_path / "r.jsonl").write_text(json.dumps({"title": "t", "body": "b"}))
    spec = f"{tmp_path / 'r.jsonl'}::body"
    assert [d.text for d in source(spec).documents()] == ["b"]
    with pytest.raises(UserError, match="columns: title, body"):
        texts(tmp_path / "r.jsonl")
    with pytest.raises(UserError, match="no text column 'boddy'; its text columns: title, body"):
        texts(tmp_path / "r.jsonl", column="boddy")


def test_half_a_surrogate_pair_in_json_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"text": "a\\ud800b"}')
    assert texts(tmp_path) == {"r.jsonl:1": "a?b"}


def test_a_large_file_is_cut_at_paragraphs_and_nothing_is_lost(tmp_path: Path) -> None:
    paragraph = "word " * 60 + "end.\n\n"
    written = paragraph * 20_000
    (tmp_path / "big.txt").write_text(written)
    with gzip.open(tmp_path / "big.txt.gz", "wt", compresslevel=1) as file:
        file.write(written)
    found = texts(tmp_path / "big.txt")
    assert list(found)[:2] == ["big.txt#0001", "big.txt#0002"]
    assert "".join(found.values()) == written
    assert all(500_000 < len(text) <= 1_000_000 for text in list(found.values())[:-1])
    assert all(text.endswith("end.\n\n") for text in found.values())
    assert list(texts(tmp_path / "big.txt.gz").values()) == list(found.values())


def test_a_large_file_without_line_ends_is_cut_too(tmp_path: Path) -> None:
    (tmp_path / "big.txt").write_text("x" * 5_000_000)
    assert [len(text) for text in texts(tmp_path).values()] == [1_000_000] * 5


EUROPARL = """<CHAPTER ID=1>
Resumption of the session
<SPEAKER ID=1 NAME="President">
I declare resumed the session.
<P>
Please rise.
<SPEAKER ID=2 NAME="Evans, Robert J">
Madam President, a < b.
<CHAPTER ID="011-02">
<SPEAKER ID=3 LANGUAGE="DE" NAME="Ç">
<P>
Second chapter.
<CHAPTER ID=3>
"""


def test_europarl_gives_a_document_per_chapter_without_tags(tmp_path: Path) -> None:
    (tmp_path / "ep.txt").write_text(EUROPARL)
    assert texts(tmp_path) == {
        "ep.txt#0001": "Resumption of the session\n\nI declare resumed the session.\nPlease rise.\n\n"
        "Madam President, a < b.",
        "ep.txt#0002": "Second chapter.",
    }


def test_real_europarl_loses_its_tags_and_nothing_else(shared_data: Path) -> None:
    folder = shared_data / "europarl" / "en-fr"
    found = texts(folder)
    assert len(found) == 42
    raw = [line for f in sorted(folder.rglob("*.txt")) for line in f.read_text("utf-8").split("\n")]
    kept = [line.strip() for line in raw if not line.startswith("<") and line.strip()]
    assert [line for text in found.values() for line in text.split("\n") if line] == kept


def test_real_novels_in_mixed_encodings_are_read(shared_data: Path, capsys) -> None:
    found = texts(shared_data / "gutenberg")
    assert len(found) == 13
    assert "\r" not in "".join(found.values())
    assert "chesterton-ball.txt: not UTF-8" in capsys.readouterr().err


def broken_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(b"text " * 1000)[:-20])


def not_gzip(path: Path) -> None:
    path.write_bytes(b"plain")


def broken_parquet(path: Path) -> None:
    pq.write_table(pa.table({"text": ["a" * 1000]}), path)
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("name", "write", "complaint"),
    [
        ("a.txt", b"\x00\x01", "a.txt: a binary file, not text (byte 0x00 at offset 0)"),
        ("a.txt", b"x" * 3_000_000 + b"\x02", "(byte 0x02 at offset 3000000)"),
        ("a.txt", "text".encode("utf-16-le"), "binary"),
        ("a.txt", b"\xef\xbb\xbfab\xff", "a.txt: begins as utf-8-sig, but"),
        ("a.txt", b"", "no text in it"),
        ("a.txt", b" \n\n ", "no text in it"),
        ("a.jsonl", b"", "no text in it"),
        ("a.jsonl", b'{"text": ""}', "no text in it"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "a.jsonl: line 2: not JSON"),
        ("a.jsonl", b'{"text": "a"}\n[1]', "a.jsonl: line 2: expected a JSON object"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}', "a.jsonl:2: no column 'text'; it has: body"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": 3}',
            "a.jsonl:2: column 'text' is int, expected text",
        ),
        ("a.jsonl", b'{"n": 3}', "which column holds the text?"),
        ("a.json", b'[{"text": "a"}', "a.json: line 1: not JSON"),
        ("a.csv", b"a,b", "convert it first"),
        ("a.txt.gz", broken_gzip, "a.txt.gz: broken gzip"),
        ("a.txt.gz", not_gzip, "a.txt.gz: broken gzip"),
        ("a.parquet", broken_parquet, "a.parquet: broken Parquet file"),
        ("a.parquet", b"PAR1", "a.parquet: broken Parquet file"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, write, complaint: str) -> None:
    path = tmp_path / name
    if callable(write):
        write(path)
    else:
        path.write_bytes(write)
    with pytest.raises(UserError) as caught:
        texts(path)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_file_is_found_before_the_first_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "z.txt").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"z\.txt"):
        next(FilesSource(tmp_path).documents())


def test_missing_and_empty_folders_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        FilesSource(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no \.txt, .* in this folder"):
        FilesSource(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("which", ["folder", "file"])
def test_what_may_not_be_read_is_named(request: pytest.FixtureRequest, which: str) -> None:
    """In a child without root's rights, which chmod does not bind."""
    # pytest's own folders are closed to others, so one beside them
    open_to_all = Path(tempfile.mkdtemp())
    request.addfinalizer(lambda: shutil.rmtree(open_to_all))
    open_to_all.chmod(0o755)
    (open_to_all / "sub").mkdir()
    (open_to_all / "sub" / "a.txt").write_text("secret")
    list(FilesSource(open_to_all).documents())  # what it imports may be closed to others too
    locked = open_to_all / "sub" if which == "folder" else open_to_all / "sub" / "a.txt"
    locked.chmod(0)
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            list(FilesSource(open_to_all).documents())
        except UserError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as said:
        assert said.read() == f"{locked}: cannot be read: Permission denied"
    locked.chmod(0o755)


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("same")
    one, two = (FilesSource(tmp_path / folder).fingerprint() for folder in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "a.txt").write_text("Same")
    assert FilesSource(tmp_path / "two").fingerprint() != one
    (tmp_path / "two" / "a.txt").write_text("same")
    (tmp_path / "two" / "a.txt").rename(tmp_path / "two" / "b.txt")
    assert FilesSource(tmp_path / "two").fingerprint() != one
    assert FilesSource(tmp_path / "one", column="x").fingerprint() != one
