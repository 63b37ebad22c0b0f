"""Texts, labels and groups of any kind give the data that lists give, always by position."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from column_kinds import KINDS, TABLES
from conftest import sentences
from cutaway.base.errors import UserError
from cutaway.labelled.tables import Columns
from cutaway.labelled.texts import LabelledTexts
from cutaway.probes import fit
from cutaway.probes.data.examples import PARTS
from cutaway.probes.data.labels import data_of
from cutaway.text.tokenizers import Tokenizer, train

TEXTS = [f"{'the cat' if n % 2 else 'a small dog'} sees {n} rivers" for n in range(90)]
LABELS = [n % 2 for n in range(90)]
GROUPS = [n // 3 for n in range(90)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([sentences(seed, 200) for seed in range(5)], 400)


@pytest.fixture(scope="module")
def listed(tokenizer) -> str:
    return data_of(TEXTS, LABELS, tokenizer, groups=GROUPS).sha256()


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_every_kind_are_read_by_position(kind, tokenizer, listed) -> None:
    make = KINDS[kind]
    texts = make(TEXTS)
    texts = TEXTS if texts is None else texts  # a tensor holds no texts
    found = data_of(texts, make(LABELS), tokenizer, groups=make(GROUPS))
    assert found.sha256() == listed
    task = LabelledTexts("x", texts if kind != "generator" else TEXTS, make(LABELS), make(GROUPS))
    assert list(task.labels) == [str(one) for one in LABELS]
    assert list(task.texts) == TEXTS


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_every_kind_are_read_by_column_names(kind, tokenizer, listed) -> None:
    made = TABLES[kind]({"statement": TEXTS, "truth": LABELS, "topic": GROUPS})
    columns = Columns("statement", "truth", "topic")
    assert data_of(made, None, tokenizer, columns=columns).sha256() == listed
    with pytest.raises(UserError, match="text = 'text': no column of that name"):
        data_of(made, None, tokenizer)


def test_a_shuffled_frame_leaves_out_the_rows_that_have_no_label(tokenizer, capsys) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS, "label": LABELS, "group": GROUPS})
    frame.loc[5, "label"] = None
    frame = frame.sample(frac=1, random_state=0)
    found = data_of(frame, None, tokenizer)
    place = frame.index.tolist().index(5)
    said = capsys.readouterr().err
    assert f"1 texts have no label and are left out (position {place})" in said
    assert found.classes == ("0", "1")  # not 0.0: the column became one of decimals
    read = set()
    for part in found.parts.values():
        for row in range(len(part)):
            context = int(part.context[row])
            tokens = part.tokens[part.begin[context] : part.end[context]].tolist()
            read.add((tokenizer.decode(tokens), int(part.label[row])))
    assert read == {(text, label) for n, (text, label) in enumerate(zip(TEXTS, LABELS)) if n != 5}


def test_words_of_every_kind_are_read_by_position(tokenizer) -> None:
    words = [["the", "cat", str(n)] for n in range(60)]
    tags = [["a", "b", None] for _ in range(60)]
    wanted = data_of(words, tags, tokenizer).sha256()
    assert data_of(tuple(map(tuple, words)), tags, tokenizer).sha256() == wanted
    arrays = [np.array(one) for one in words], [np.array(one, dtype=object) for one in tags]
    assert data_of(*arrays, tokenizer).sha256() == wanted
    pandas = pytest.importorskip("pandas")
    index = list(range(59, -1, -1))
    series = pandas.Series(words, index=index), pandas.Series(tags, index=index)
    assert data_of(*series, tokenizer).sha256() == wanted


@pytest.mark.parametrize("given", ["column", "named", "tables", "pairs"])
def test_a_split_that_came_with_the_data_is_kept(given, tokenizer, capsys) -> None:
    names = ["dev" if n % 5 == 3 else "Test" if n % 5 == 4 else "training" for n in range(90)]
    part = {"training": "train", "dev": "validation", "Test": "test"}
    held = {"text": TEXTS, "label": LABELS, "group": GROUPS}
    if given == "column":
        found = data_of(TEXTS, LABELS, tokenizer, groups=GROUPS, split=names)
    elif given == "named":
        columns = Columns(split="part")
        found = data_of(held | {"part": names}, None, tokenizer, columns=columns)
    else:
        rows = {one: [n for n, name in enumerate(names) if name == one] for one in part}
        of = {
            part[one]: {name: [values[n] for n in rows[one]] for name, values in held.items()}
            for one in part
        }
        if given == "pairs":
            of = {name: (one["text"], one["label"]) for name, one in of.items()}
        found = data_of(of, None, tokenizer)
    for name in PARTS:
        one = found.parts[name]
        texts = {
            tokenizer.decode(one.tokens[begin:end].tolist())
            for begin, end in zip(one.begin.tolist(), one.end.tolist())
        }
        assert texts == {text for text, told in zip(TEXTS, names) if part[told] == name}
    said = capsys.readouterr().err
    assert ("documents of test are in train too" in said) == (given != "pairs")


def test_a_split_without_validation_takes_it_from_training_and_equal_texts_are_told(
    tokenizer, capsys
) -> None:
    texts = [*TEXTS[:80], *TEXTS[:10]]  # test repeats ten texts of train
    names = ["train"] * 80 + ["test"] * 10
    found = data_of(texts, LABELS, tokenizer, groups=range(90), split=names)
    assert [len(found.parts[name]) for name in PARTS] == [70, 10, 10]
    said = capsys.readouterr().err
    assert "10 of the 80 training texts are taken for validation, by document" in said
    assert "10 of 90 texts repeat an earlier one" in said
    assert "9 of 10 different texts of test are in train too: figures will be too good" in said
    assert "1 different texts of validation are in test too" in said


@pytest.mark.parametrize(
    ("split", "said"),
    [
        (["train"] * 89, "90 texts, 90 labels, 89 parts"),
        (["train"] * 89 + ["tset"], "'tset'; expected train, validation or test"),
        (["train"] * 89 + [None], "split: missing at position 89"),
        (["dev", "test"] * 45, "no text is of train"),
        (["train"] * 60 + ["test"] + ["train"] * 29, "test has no text of 1 of the 2 labels"),
    ],
)
def test_a_split_that_cannot_be_kept_is_refused(tokenizer, split, said) -> None:
    with pytest.raises(UserError, match=said):
        data_of(TEXTS, LABELS, tokenizer, split=split)


@pytest.mark.parametrize("again", [False, True])
def test_probes_of_a_shuffled_frame_are_those_of_lists(tiny_folder, again) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"statement": TEXTS, "truth": LABELS, "topic": GROUPS})
    frame.index = frame.index[::-1]
    settings = {"layers": "embed", "controls": "none", "device": "cpu"}
    model = tiny_folder("llama")
    wanted = fit(model, TEXTS, LABELS, groups=GROUPS, **settings)
    if again:
        names = {"text": "statement", "label": "truth", "group": "topic"}
        found = fit(model, frame, **names, **settings)
    else:
        found = fit(model, frame.statement, frame.truth, groups=frame.topic, **settings)
    assert found.layers == wanted.layers


def test_what_does_not_go_together_is_refused(tiny_folder) -> None:
    model = tiny_folder("llama")
    for arguments, settings, said in (
        ((TEXTS,), {}, "labels: expected one for each text"),
        ((), {}, "texts: expected texts with labels"),
        ((), {"train": (TEXTS, LABELS)}, "expected train and, beside it, test"),
        ((TEXTS, LABELS), {"train": (TEXTS, LABELS)}, "given beside texts"),
        ((TEXTS, "truth"), {}, "the name of a column goes with a table"),
        (([*TEXTS[:5], 7], LABELS[:6]), {}, "texts: int at position 5"),
        ((TEXTS, {"a": LABELS}), {}, "labels: a table, expected one column"),
        ((set(TEXTS), LABELS), {}, "texts: set"),
    ):
        with pytest.raises(UserError, match=said):
            fit(model, *arguments, **settings)


def test_what_is_blank_is_missing_wherever_it_stands(tokenizer, capsys) -> None:
    texts, labels = [*TEXTS[:88], "", " \n"], [" ", "", *LABELS[2:]]
    groups = ["" if n == 5 else one for n, one in enumerate(GROUPS)]
    found = data_of(texts, labels, tokenizer, groups=groups)
    assert found.classes == ("0", "1")
    assert sum(map(len, found.parts.values())) == 86
    assert len(found.documents) == 31  # each group has a text left, and one text has none
    said = capsys.readouterr().err
    assert "2 texts have no text and are left out (positions 88, 89)" in said
    assert "2 texts have no label and are left out (positions 0, 1)" in said
    assert "1 texts have no group (position 5)" in said


def test_arrays_of_one_column_and_pairs_in_lists_are_columns(tokenizer, listed) -> None:
    one, labels = np.array(TEXTS)[:, None], torch.tensor(LABELS)[:, None]
    assert data_of(one, labels, tokenizer, groups=GROUPS).sha256() == listed
    parts = {"train": [TEXTS[:60], LABELS[:60]], "test": [TEXTS[60:], LABELS[60:]]}
    tuples = {part: tuple(pair) for part, pair in parts.items()}
    wanted = data_of(tuples, None, tokenizer).sha256()
    assert data_of(parts, None, tokenizer).sha256() == wanted


def test_columns_may_have_numbers_for_names(tokenizer, listed) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(list(zip(TEXTS, LABELS, GROUPS)))
    assert data_of(frame, None, tokenizer, columns=Columns(0, 1, 2)).sha256() == listed


def test_messages_name_labels_as_they_were_given(tokenizer) -> None:
    labels = ["no" if n % 2 else "yes" for n in range(90)]
    with pytest.raises(UserError, match="no document left for validation with label 'no'"):
        data_of([["a", "b"]] * 90, [["no", "yes"]] * 90, tokenizer, groups=[1] * 90)
    few = {"groups": ["a", "b"] * 45, "split": ["train"] * 60 + ["test"] * 30}
    with pytest.raises(UserError, match="too few documents to take validation from them"):
        data_of(TEXTS, labels, tokenizer, **few)
    with pytest.raises(UserError, match="text 0: None is no word"):
        data_of([["a", None]] * 90, [["no", "yes"]] * 90, tokenizer)
