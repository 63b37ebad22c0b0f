"""Where texts with two labels come from."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cutaway.base.errors import UserError
from cutaway.evaluations.suite.crossed import (
    CrossedTexts,
    cross,
    crossed_docstrings,
    crossed_table,
    crossings,
    with_trait,
)
from cutaway.labelled.files import conll_tasks
from cutaway.labelled.texts import LabelledTexts

COUNT = 120
TEXTS = [f"text {number} of the set" if number % 3 else "without any" for number in range(COUNT)]
GROUPS = [f"document {number // 4}" for number in range(COUNT)]
LANGUAGES = ["en" if number % 2 else "fr" for number in range(COUNT)]


def languages(**other: list[str]) -> LabelledTexts:
    return LabelledTexts(
        "language", TEXTS, other.get("labels", LANGUAGES), other.get("groups", GROUPS)
    )


def test_a_trait_of_the_text_becomes_the_second_label():
    found = with_trait(languages(), r"\d", name="a number")
    assert found.second == ["yes" if number % 3 else "no" for number in range(COUNT)]
    assert found.names == ("en/fr", "a number")
    assert found.classes == (("en", "fr"), ("no", "yes"))
    labels = found.labels_of(found.combined)
    assert labels.shape == (2, COUNT)
    assert labels[0].tolist() == [int(language == "fr") for language in LANGUAGES]
    assert labels[1].tolist() == [int(bool(number % 3)) for number in range(COUNT)]


def test_labels_follow_the_texts_that_are_kept():
    found = with_trait(languages(), r"\d")
    kept = found.combined.limited(40, seed=1)
    labels = found.labels_of(kept)
    assert [bool(label) for label in labels[1]] == [text != "without any" for text in kept.texts]
    assert [("en", "fr")[label] for label in labels[0]] == [
        label.partition(" & ")[0] for label in kept.labels
    ]


def test_of_many_classes_two_are_kept():
    labels = [("en", "fr", "de", "fr")[number % 4] for number in range(COUNT)]
    found = with_trait(languages(labels=labels), r"\d", classes=("en", "de"))
    assert found.classes[0] == ("de", "en")
    assert len(found.texts) == COUNT // 2
    with pytest.raises(UserError, match=r"classes = \['es'\]"):
        with_trait(languages(), r"\d", classes=("en", "es"))


def test_a_pattern_must_be_a_regular_expression():
    with pytest.raises(UserError, match="not a regular expression"):
        with_trait(languages(), "(")


def test_tasks_are_crossed_on_the_same_texts_only():
    numbers = LabelledTexts("number", TEXTS, ["yes" if "x" in t else "no" for t in TEXTS], GROUPS)
    found = cross(languages(), numbers)
    assert found.name == "language x number"
    assert (list(found.first), list(found.second)) == (LANGUAGES, list(numbers.labels))
    with pytest.raises(UserError, match="not the same texts"):
        cross(languages(), numbers.chosen(range(COUNT - 2)))


def test_a_combination_without_texts_is_an_error():
    second = ["yes" if a == "fr" and n % 4 else "no" for n, a in enumerate(LANGUAGES)]
    with pytest.raises(UserError, match="both: no text is en & yes"):
        CrossedTexts("both", TEXTS, LANGUAGES, second, GROUPS)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (["a"] * COUNT, "'second' has a; expected two classes"),
        (["abc"[number % 3] for number in range(COUNT)], "'second' has a, b, c; expected two"),
        (["a", "b"], "120 texts and 2 labels of 'second'"),
    ],
)
def test_each_label_has_two_classes_and_one_per_text(second, message):
    with pytest.raises(UserError, match=message):
        CrossedTexts("both", TEXTS, LANGUAGES, second, GROUPS)


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_a_table_with_two_columns_of_labels(tmp_path: Path, ending: str):
    rows = [
        {"text": f"{text} {number}", "language": language, "long": number % 3 > 0, "group": group}
        for number, (text, language, group) in enumerate(zip(TEXTS, LANGUAGES, GROUPS))
    ]
    path = tmp_path / f"both{ending}"
    with path.open("w", newline="") as file:
        if ending == ".csv":
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    found = crossed_table(path, ("language", "long"))
    assert list(found.first) == LANGUAGES
    assert found.classes[1] == ("False", "True")
    assert list(found.groups) == GROUPS
    with pytest.raises(
        UserError, match=f"both{ending}: line .*no 'short'; columns: text, language"
    ):
        crossed_table(path, ("language", "short"))
    with pytest.raises(UserError, match="two columns of labels"):
        crossed_table(tmp_path / "both.txt")


def test_entity_types_of_one_file_cross(tmp_path: Path):
    path = tmp_path / "names.conll"
    lines = []
    for number in range(200):
        lines += [f"word{number}\tO"]
        lines += ["Anna\tB-PER"] if number % 2 else []
        lines += ["Ghent\tB-LOC"] if number % 3 else []
        lines += [""]
    path.write_text("\n".join(lines))
    found = crossings(conll_tasks(path))
    assert [(one.name, one.names) for one in found] == [("names: LOC x PER", ("LOC", "PER"))]
    assert ["Anna" in text for text in found[0].texts] == [s == "yes" for s in found[0].second]
    assert crossings([languages(), *conll_tasks(path)])[0].names == ("LOC", "PER")


def test_the_docstrings_give_a_task_without_any_file():
    found = crossed_docstrings()
    assert found.classes == (("library", "reference"), ("no", "yes"))
    counts = {label: found.combined.labels.count(label) for label in found.combined.classes}
    assert min(counts.values()) > 200  # of the four combinations
    ids = dict(zip(found.groups, found.first))
    assert ids["argparse"] == "library"
    assert ids["topics:assert"] == "reference"
