"""Tasks from files: folders of classes, tables, CoNLL tokens, docstrings."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import DATA
from cutaway.base.errors import UserError
from cutaway.labelled.files import conll_tasks, passages, read_tasks

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def prose(seed: int, paragraphs: int) -> str:
    random = np.random.default_rng(seed)
    return "\n\n".join(" ".join(random.choice(WORDS, 60)) for _ in range(paragraphs))


# -- reading ---------------------------------------------------------------------------------------


def test_passages_end_at_paragraphs_and_lose_no_word():
    text = prose(0, 30) + "\n\n" + " ".join(WORDS * 100) + "\n\nend"
    found = passages(text, 400)
    assert " ".join(found).split() == text.split()
    assert all(300 <= len(passage) <= 1300 for passage in found)
    starts = {paragraph.split("\n")[0][:40] for paragraph in text.split("\n\n")}
    assert sum(passage[:40] in starts for passage in found) >= 12
    assert passages("a" * 2000, 400) == ["a" * 800, "a" * 800, "a" * 400]
    assert passages("  \n\n ", 400) == []


def test_a_folder_of_folders_is_a_class_each_and_documents_are_groups(tmp_path):
    for c in "ab":
        (tmp_path / c).mkdir()
        for number in range(4):
            (tmp_path / c / f"{c}{number}.txt").write_text(prose(number, 10))
    (found,) = read_tasks(tmp_path)
    assert found.classes == ("a", "b")
    assert set(found.groups) == {f"{c}{number}.txt" for c in "ab" for number in range(4)}
    assert all(group[0] == label for group, label in zip(found.groups, found.labels))


def test_a_text_and_its_translation_are_one_group(tmp_path):
    for c in "ab":
        (tmp_path / c).mkdir()
        for number in range(4):
            (tmp_path / c / f"{number}.txt").write_text(prose(number, 10))
    (found,) = read_tasks(tmp_path)
    assert len(set(found.groups)) == 4


def test_a_passage_that_documents_of_a_class_share_comes_once(tmp_path):
    for seed, c in enumerate("ab"):
        (tmp_path / c).mkdir()
        for number in range(4):
            own = prose(10 * seed + number, 10)
            (tmp_path / c / f"{c}{number}.txt").write_text(f"{'licence ' * 60}\n\n{own}")
    (found,) = read_tasks(tmp_path)
    assert len(set(found.texts)) == len(found) - 1  # once in each class
    assert sum(text.startswith("licence") for text in found.texts) == 2


def test_a_class_that_is_one_file_is_divided_into_sections_and_that_is_said(tmp_path, capsys):
    for seed, c in enumerate("ab"):
        (tmp_path / f"{c}.txt").write_text(prose(seed, 120))
    (found,) = read_tasks(tmp_path)
    assert found.classes == ("a", "b")
    sizes = Counter(found.groups)
    assert len(sizes) > 6
    assert max(sizes.values()) == 10
    assert "a, b: fewer than 3 documents, divided into sections" in capsys.readouterr().err


ROWS = [
    {"text": f"a text of {index}", "label": index % 2, "group": f"g{index // 5}"}
    for index in range(40)
]


def write_table(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [mark.join(rows[0]), *(mark.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_tables_of_every_kind_give_the_same_task(tmp_path, kind):
    (found,) = read_tasks(write_table(tmp_path / f"mine.{kind}", ROWS))
    assert found.name == "mine"
    assert list(found.texts) == [row["text"] for row in ROWS]
    assert list(found.labels) == [str(row["label"]) for row in ROWS]
    assert list(found.groups) == [row["group"] for row in ROWS]


@pytest.mark.parametrize(
    ("name", "line", "without"),
    [
        ("x.csv", '"{text}",{label}\n', ("", " ")),
        ("x.jsonl", '{{"text": "{text}", "label": {label}}}\n', ("null", "NaN", '""')),
    ],
)
def test_rows_without_a_label_are_left_out_and_said(tmp_path, capsys, name, line, without):
    rows = [line.format(text=f"text {n}", label=n % 2) for n in range(40)]
    rows += [line.format(text=f"bare {n}", label=one) for n, one in enumerate(without)]
    head = "text,label\n" if name.endswith("csv") else ""
    (tmp_path / name).write_text(head + "".join(rows))
    (found,) = read_tasks(tmp_path / name)
    assert (found.classes, len(found)) == (("0", "1"), 40)
    assert (
        f"x.{name[2:]}: {len(without)} rows have no label and are left out"
        in capsys.readouterr().err
    )


def test_without_groups_equal_texts_belong_together(tmp_path):
    rows = [{"text": f"text {index // 2}", "label": str(index % 2)} for index in range(40)]
    (found,) = read_tasks(write_table(tmp_path / "pairs.jsonl", rows))
    assert len(set(found.groups)) == 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.jsonl",
            '{"text": "a"}\n',
            r"line 1: no 'label'; expected text and label, columns: text",
        ),
        ("x.jsonl", '{"text": "a", "label": [1]}\n', "line 1: 'label' is list"),
        ("x.jsonl", "[1]\n", "line 1: expected a JSON object"),
        ("x.jsonl", "{\n", "line 1: not JSON"),
        ("x.jsonl", "", "no text in it"),
        ("x.csv", "body,label\na,b\n", "line 2: no 'text'"),
        ("x.parquet", "no parquet", "broken Parquet file"),
        ("x.conll", "", "no sentence in it"),
        ("x.conll", "Paris is\n", "line 1: 'Paris is'; expected a token and its tag"),
        ("x.conll", "Paris B-LOC\n\nhere O\n", "no entity type is in 10 or more sentences"),
        ("x.pdf", "", "not a file of labelled texts"),
    ],
)
def test_a_file_that_is_not_right_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_tasks(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_without_classes_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file or folder; expected one, or docstrings"):
        read_tasks(tmp_path / "nothing")
    with pytest.raises(UserError, match="expected two or more sub-folders or text files"):
        read_tasks(tmp_path)


def test_conll_sentences_say_which_entities_they_name(tmp_path):
    lines = []
    for number in range(30):
        lines += [
            "She O",
            "met O",
            "Ms B-PER" if number % 3 == 0 else "it O",
            "Ode I-PER" if number % 3 == 0 else "in O",
            "Rome B-LOC" if number % 2 else "town O",
            ". O",
            "",
        ]
    path = tmp_path / "small.conll"
    path.write_text("\n".join(lines))
    place, person = conll_tasks(path)
    assert (place.name, person.name) == ("small: LOC", "small: PER")
    assert person.texts[0] == "She met Ms Ode town."
    assert list(person.labels[:4]) == ["yes", "no", "no", "yes"]
    assert list(place.labels[:4]) == ["no", "yes", "no", "yes"]
    assert len(set(place.groups)) == 3
    marked = "\n".join(
        ["-DOCSTART- O", "", *lines, "-DOCSTART- O", "", *lines, "-DOCSTART- O", "", *lines]
    )
    path.write_text(marked)
    assert set(conll_tasks(path)[0].groups) == {f"document {number}" for number in (1, 2, 3)}


def test_the_docstrings_of_any_python_make_a_task():
    (found,) = read_tasks("docstrings")
    assert 4 <= len(found.classes) <= 6
    assert all(group.startswith(f"{label}.") for group, label in zip(found.groups, found.labels))
    assert min(Counter(found.labels).values()) >= 50


def test_real_texts_can_be_read():
    if not DATA.is_dir():
        pytest.skip("../shared/data is not there")
    (languages,) = read_tasks(DATA / "europarl" / "en-fr")
    assert languages.classes == ("en", "fr")
    entities = read_tasks(DATA / "europarl" / "ner" / "en-europarl.test.conll02")
    assert [one.name.partition(": ")[2] for one in entities] == ["LOC", "MISC", "ORG", "PER"]
    assert len(entities[0]) == 799


def test_a_quote_that_is_never_closed_is_refused_and_lines_in_quotes_are_not(tmp_path) -> None:
    rows = [f'"text {n},\nof two ""lines""",{"ab"[n % 2]}' for n in range(40)]
    path = tmp_path / "x.csv"
    path.write_text("text,label\n" + "\n".join(rows))
    assert len(read_tasks(path)[0]) == 40
    rows[30] = '"text 30,a'
    rows[31:] = [f"text {n},{'ab'[n % 2]}" for n in range(31, 40)]
    path.write_text("text,label\n" + "\n".join(rows))
    with pytest.raises(UserError, match="line 62: a quote is opened and never closed"):
        read_tasks(path)


def test_a_parquet_column_that_is_there_twice_is_refused(tmp_path) -> None:
    columns = [pa.array(["x"] * 40), pa.array(["a", "b"] * 20), pa.array(["b", "a"] * 20)]
    table = pa.Table.from_arrays(columns, names=["text", "label", "label"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(UserError, match="two columns are called 'label'"):
        read_tasks(tmp_path / "x.parquet")


def test_rows_without_a_group_beside_others_are_counted(tmp_path, capsys) -> None:
    path = tmp_path / "x.csv"
    rows = [f"text {n},{'ab'[n % 2]},{n // 3 if n % 4 else ''}" for n in range(40)]
    path.write_text("text,label,group\n" + "\n".join(rows))
    assert len(set(read_tasks(path)[0].groups)) == 14 + 10
    assert (
        "10 of 40 rows have no group; those of equal texts are a group" in capsys.readouterr().err
    )
