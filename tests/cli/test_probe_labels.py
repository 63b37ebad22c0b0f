"""`cutaway probe data --labels`: which rows are kept, which are dropped, and the notices."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import DATA
from cutaway.probes.data.examples import PARTS, ProbeData

Cutaway = Callable[..., tuple[int, str, str]]
Rows = Sequence[dict[str, Any]]


def rows(count: int = 90, **more: Callable[[int], Any]) -> list[dict[str, Any]]:
    held = {"text": lambda n: f"{'cat' if n % 2 else 'dog'} {n} runs", "label": lambda n: n % 2}
    return [{name: make(n) for name, make in {**held, **more}.items()} for n in range(count)]


def write(path: Path, found: Rows) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(found)), path)
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [mark.join(found[0])]
        lines += [mark.join("" if v is None else str(v) for v in row.values()) for row in found]
        path.write_text("\n".join(lines) + "\n")
    return path


def texts_of(data: ProbeData, name: str) -> set[str]:
    part = data.parts[name].compact()
    ends = zip(part.begin.tolist(), part.end.tolist())
    return {data.tokenizer.decode(part.tokens[begin:end].tolist()) for begin, end in ends}


def told(n: int) -> str:
    return ("dev", "test")[n % 5 - 3] if n % 5 > 2 else "training"


KINDS = ("csv", "tsv", "jsonl", "parquet")


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_of_parts_is_kept(cutaway: Cutaway, tiny_folder, tmp_path, kind) -> None:
    found = rows(split=told, group=lambda n: n // 3)
    path = write(tmp_path / f"mine.{kind}", found)
    code, _, err = cutaway("probe", "data", tiny_folder("llama"), "--labels", path, "--out", "d")
    assert code == 0, err
    assert "30 of 30 documents" not in err
    data = ProbeData.load("d")
    for name, alias in zip(PARTS, ("training", "dev", "test")):
        assert texts_of(data, name) == {row["text"] for row in found if row["split"] == alias}
    # rows of one group were put on two sides by that split: kept, and told, and inspect fails
    assert "documents of test are in train too: figures will be too good" in err
    code, _, err = cutaway("probe", "inspect", "d")
    assert (code, "documents in train and in test" in err) == (1, True)


@pytest.mark.parametrize("folder", [False, True])
def test_files_of_their_own_are_kept_as_parts(cutaway, tiny_folder, tmp_path, folder) -> None:
    found = rows()
    place = tmp_path / "news"
    place.mkdir()
    train = write(place / "train.csv", found[:50])
    valid = write(place / "valid.jsonl", found[50:70])
    test = write(place / "test-00000-of-00001.parquet", found[70:])
    options = ["--labels", place if folder else train]
    if not folder:
        options += ["--validation-labels", valid, "--test-labels", test]
    code, _, err = cutaway("probe", "data", tiny_folder("llama"), *options, "--out", "d")
    assert code == 0, err
    data = ProbeData.load("d")
    wanted = (found[:50], found[50:70], found[70:])
    for name, of in zip(PARTS, wanted):
        assert texts_of(data, name) == {row["text"] for row in of}
    assert cutaway("probe", "inspect", "d")[0] == 0


def test_a_test_file_alone_leaves_validation_to_the_training_documents(
    cutaway, tiny_folder, tmp_path
) -> None:
    found = rows()
    train, test = write(tmp_path / "a.csv", found[:70]), write(tmp_path / "b.csv", found[70:])
    code, _, err = cutaway(
        *("probe", "data", tiny_folder("llama"), "--labels", train, "--test-labels", test),
        *("--out", "d"),
    )
    assert code == 0, err
    assert "training texts are taken for validation, by document" in err
    data = ProbeData.load("d")
    assert texts_of(data, "test") == {row["text"] for row in found[70:]}
    again = cutaway(
        *("probe", "data", tiny_folder("llama"), "--labels", train, "--test-labels", train),
        *("--out", "e"),
    )
    assert (again[0], "the file of training itself" in again[2]) == (2, True)


def test_columns_may_have_other_names(cutaway, tiny_folder, tmp_path) -> None:
    found = [
        {"claim": row["text"], "truth": row["label"], "topic": n // 2, "fold": told(n)}
        for n, row in enumerate(rows())
    ]
    path = write(tmp_path / "claims.csv", found)
    names = ["--text-column", "claim", "--label-column", "truth"]
    more = ["--group-column", "topic", "--split-column", "fold"]
    code, _, err = cutaway(
        "probe", "data", tiny_folder("llama"), "--labels", path, *names, *more, "--out", "d"
    )
    assert code == 0, err
    assert texts_of(ProbeData.load("d"), "test") == {
        row["claim"] for row in found if row["fold"] == "test"
    }
    for wrong, said in (
        (["--text-column", "claims"], "no 'claims'; did you mean 'claim'?"),
        ([*names, "--group-column", "subject"], "no 'subject'"),
        (["--label-column", "truth"], "no 'text'"),
    ):
        code, _, err = cutaway(
            "probe", "data", tiny_folder("llama"), "--labels", path, *wrong, "--out", "e"
        )
        assert (code, said in err) == (2, True), err


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_text_are_counted(cutaway, tiny_folder, tmp_path, kind) -> None:
    found = rows(text=lambda n: None if n % 3 == 0 else f"{'cat' if n % 2 else 'dog'} {n} runs")
    path = write(tmp_path / f"gaps.{kind}", found)
    code, _, err = cutaway("probe", "data", tiny_folder("llama"), "--labels", path, "--out", "d")
    assert code == 0, err
    assert "30 rows have no text and are left out (of 90 rows: " in err
    assert sum(map(len, ProbeData.load("d").parts.values())) == 60


def test_repeated_texts_are_told_and_make_inspect_fail(cutaway, tiny_folder, tmp_path) -> None:
    same = rows(text=lambda n: "the same text", group=lambda n: f"g{n}")
    path = write(tmp_path / "dups.csv", same)
    code, _, err = cutaway("probe", "data", tiny_folder("llama"), "--labels", path, "--out", "d")
    assert code == 0, err
    assert "89 of 90 texts repeat an earlier one" in err
    assert "1 text has different labels, 'the same text' for one (0, 1)" in err
    assert "different texts of test are in train too" in err
    code, out, err = cutaway("probe", "inspect", "d")
    assert (code, "have an equal one in train" in err) == (1, True)
    assert "90 examples are of 1 text with different labels: 'the same text' is 0, 1" in out


def test_decimals_of_a_column_with_gaps_are_the_whole_numbers_they_were(
    cutaway, tiny_folder, tmp_path
) -> None:
    path = write(tmp_path / "x.parquet", rows(label=lambda n: None if n == 7 else float(n % 2)))
    code, _, err = cutaway("probe", "data", tiny_folder("llama"), "--labels", path, "--out", "d")
    assert code == 0, err
    assert ProbeData.load("d").classes == ("0", "1")


def test_labels_that_may_be_one_are_told(cutaway, tiny_folder, tmp_path) -> None:
    names = ("True", "true", "no", "No ")
    path = write(tmp_path / "x.csv", rows(label=lambda n: names[n % 4]))
    code, _, err = cutaway("probe", "data", tiny_folder("llama"), "--labels", path, "--out", "d")
    assert (code, "are taken as two classes; write them alike" in err) == (0, True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\na, b,x\n", "line 2: 3 values for 2 columns"),
        ("text,text,label\na,b,x\n", "line 1: two columns are called 'text'"),
        ("text,label,split\na,x,train\nb,y,tset\n", "line 3: split: 'tset'; expected train"),
        ("text,label,split\na,x,train\nb,y,\n", "line 3: split: ''; expected train"),
    ],
)
def test_tables_that_would_be_misread_are_refused(
    cutaway, tiny_folder, tmp_path, content, said
) -> None:
    (tmp_path / "x.csv").write_text(content)
    code, _, err = cutaway(
        "probe", "data", tiny_folder("llama"), "--labels", tmp_path / "x.csv", "--out", "d"
    )
    assert (code, said in err, "Traceback" in err) == (2, True, False), err


def test_official_parts_of_conll_words_are_kept(cutaway, tiny_folder, tmp_path) -> None:
    files = {}
    for part, start in (("train", 0), ("dev", 100), ("test", 200)):
        lines = [
            f"{'Ada B-PER' if n % 2 else 'Rome B-LOC'}\nsees O\n{n} O\n"
            for n in range(start, start + 40)
        ]
        files[part] = tmp_path / f"{part}.conll"
        files[part].write_text("\n".join(lines))
    code, _, err = cutaway(
        *("probe", "data", tiny_folder("llama"), "--labels", files["train"]),
        *("--validation-labels", files["dev"], "--test-labels", files["test"], "--out", "d"),
    )
    assert code == 0, err
    data = ProbeData.load("d")
    assert [len(data.parts[name]) for name in PARTS] == [120, 120, 120]
    assert all("2" in text.split()[-1] for text in texts_of(data, "test"))


def test_real_claims_are_read_by_their_column(cutaway, tiny_folder) -> None:
    if not DATA.is_dir():
        pytest.skip("../shared/data is not there")
    code, _, err = cutaway(
        *("probe", "data", tiny_folder("llama"), "--text-column", "statement", "--out", "d"),
        *("--labels", DATA / "geometry-of-truth" / "cities.csv"),
    )
    assert code == 0, err
    assert ProbeData.load("d").classes == ("0", "1")
