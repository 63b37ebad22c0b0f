"""JSON and YAML of any shape: read, or refused in one line; nothing runs out of stack or memory."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cutaway.base import files, json_text
from cutaway.base.errors import CutawayError, UserError
from cutaway.studies.yaml_file import read_yaml
from cutaway.text import decoding
from cutaway.text.files import FilesSource
from laws.bad_files import CONTENTS, write_bad_files

DEEP = {
    "arrays": "[" * 100_000 + "]" * 100_000,
    "objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "cut off": "[" * 100_000,
    "just too deep": "[" * 102 + "]" * 102,
    "mixed": '{"a": [' * 60 + "]}" * 60,
}


@pytest.mark.parametrize("kind", [str, str.encode])
@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_json_nested_too_deeply_is_a_value_error(text: str, kind) -> None:
    with pytest.raises(ValueError, match=r"levels deep|Expecting value"):
        json_text.loads(kind(text))


def test_json_that_is_only_wide_or_a_hundred_deep_is_read() -> None:
    wide = json.dumps([{"a": [1]}] * 500)
    assert json_text.loads(wide) == json_text.loads(wide.encode()) == json.loads(wide)
    deep = "[" * 100 + "]" * 100
    assert json_text.loads(deep) == json.loads(deep)


def test_json_files_have_a_largest_size_and_an_encoding(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(b'"' + b"x" * 98 + b'"')
    assert files.read_json(path, limit=100) == "x" * 98
    with pytest.raises(OSError, match="more than the 99 B"):
        files.read_json(path, limit=99)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="UTF-8"):
        files.read_json(path)


def complaint(work: Callable[[], object]) -> str:
    """The one line with which something is refused; empty where it is not."""
    try:
        work()
    except CutawayError as error:
        said = str(error)
    else:
        return ""
    assert said
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", [name for name in CONTENTS if name.endswith((".yaml", ".json"))])
def test_every_bad_yaml_file_is_one_line(name: str, bad_files: Path) -> None:
    """Or read, where YAML takes it; what is read holds no more than a settings file may."""
    said = complaint(lambda: read_yaml(bad_files / name))
    assert not said or str(bad_files / name) in said


YAML = {
    "nested.yaml": "nested more than 100 levels",
    "nested-map.yaml": "nested more than 100 levels",
    "nested-block.yaml": "nested more than 100 levels",
    "bomb.yaml": "its anchors unfold to more than 1,000,000 values",
    "recursive.yaml": "nested more than 100 levels",
    "twice.yaml": "line 3",
    "binary.yaml": "not a text file",
}


@pytest.mark.parametrize(("name", "said"), YAML.items())
def test_yaml_says_what_is_wrong(name: str, said: str, bad_files: Path) -> None:
    with pytest.raises(UserError, match=said):
        read_yaml(bad_files / name)


def test_a_settings_file_of_hundreds_of_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with open(path, "wb") as file:  # sparse: takes no room
        file.truncate(300_000_000)
    with pytest.raises(UserError, match=r"more than the 5\.0 MB"):
        read_yaml(path)


def test_anchors_that_unfold_to_little_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "anchors.yaml"
    path.write_text("some: &some [1, 2]\nsweep:\n  p: *some\n  n_layers: *some\n")
    assert read_yaml(path)["sweep"] == {"p": [1, 2], "n_layers": [1, 2]}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    write_bad_files(root)
    return root


TEXTS = [name for name in CONTENTS if name.rpartition("/")[0] == ""]


@pytest.mark.parametrize("name", TEXTS)
def test_every_bad_file_as_a_corpus_is_read_or_refused_by_name(name: str, bad_files: Path) -> None:
    said = complaint(lambda: list(FilesSource(bad_files / name).documents()))
    assert not said or str(bad_files / name) in said


def test_text_in_parquet_that_is_not_utf8_is_named(bad_files: Path) -> None:
    with pytest.raises(UserError, match="a text in it is not UTF-8"):
        list(FilesSource(bad_files / "not-utf8.parquet").documents())


def test_a_record_without_an_end_is_refused_when_it_is_too_long(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(decoding, "LONGEST_LINE", 1000)
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "short"}\n{"text": "' + b"a" * 100_000))
    documents = FilesSource(path).documents()
    with pytest.raises(UserError, match="line 2 has more than 1,000 characters"):
        list(documents)


@pytest.mark.parametrize("name", ["array.json", "array.json.gz", "table.parquet.gz"])
def test_what_is_read_whole_has_a_largest_size(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(decoding, "LARGEST_WHOLE", 1000)
    content = b'[{"text": "' + b"a" * 2000 + b'"}]'
    packed = gzip.compress(content) if name.endswith(".gz") else content
    (tmp_path / name).write_bytes(packed)
    with pytest.raises(UserError, match=r"more than 1\.0 KB unpacked"):
        list(FilesSource(tmp_path / name).documents())


@pytest.mark.parametrize("path", ["a\0b", "n" * 256, "é" * 128, "x/" * 3000, Path("n" * 300)])
def test_paths_that_no_file_system_holds_are_named(path) -> None:
    with pytest.raises(UserError, match="no path"):
        files.as_path(path)


@pytest.mark.parametrize("path", ["n" * 255, "é" * 127, "x/" * 2000, "", "\udcff"])
def test_other_paths_are_paths(path: str) -> None:
    assert files.as_path(path) == Path(path)
