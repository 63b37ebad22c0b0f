"""Labelled texts, and the split in which no document is on two sides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cutaway.base.errors import UserError
from cutaway.labelled import LabelledTexts, split_by_group
from cutaway.labelled.texts import SHARES


def task(count=60, classes="ab", each=4) -> LabelledTexts:
    return LabelledTexts(
        "letters",
        [f"text {index}" for index in range(count)],
        [classes[index % len(classes)] for index in range(count)],
        [f"document {index // each}" for index in range(count)],
    )


# -- the split -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_no_document_is_on_two_sides_and_the_shares_hold_for_every_class(seed):
    random = np.random.default_rng(seed)
    groups = random.integers(0, 150, 2000)
    labels = random.integers(0, 3, 2000)
    labels[random.random(2000) < 0.5] = 0
    part = split_by_group(labels, groups, seed=seed)
    for group in range(150):
        assert len(set(part[groups == group].tolist())) == 1
    for c in range(3):
        shares = np.bincount(part[labels == c], minlength=3) / (labels == c).sum()
        assert shares == pytest.approx(SHARES, abs=0.04)


def test_the_split_is_the_seeds():
    groups, labels = np.arange(300), np.arange(300) % 2
    one = split_by_group(labels, groups, seed=1)
    assert (one == split_by_group(labels, groups, seed=1)).all()
    assert (one != split_by_group(labels, groups, seed=2)).any()


def test_three_documents_a_class_are_enough_and_two_are_not():
    labels = np.repeat([0, 0, 0, 1, 1, 1], 10)
    part = split_by_group(labels, np.repeat(np.arange(6), 10))
    for c in range(2):
        assert set(part[labels == c].tolist()) == {0, 1, 2}
    with pytest.raises(UserError, match="no document left for"):
        split_by_group(labels[:40], np.repeat(np.arange(4), 10))


# -- tasks -----------------------------------------------------------------------------------------


def test_a_limit_takes_equally_many_of_each_class_and_of_each_document():
    labels = ["a"] * 300 + ["b"] * 60
    groups = ["large"] * 200 + [f"small {index % 5}" for index in range(100)]
    groups += [f"other {index % 6}" for index in range(60)]
    whole = LabelledTexts("two", [str(index) for index in range(360)], labels, groups)
    kept = whole.limited(100)
    assert Counter(kept.labels) == {"a": 50, "b": 50}
    of_a = Counter(group for group, label in zip(kept.groups, kept.labels) if label == "a")
    assert max(of_a.values()) - min(of_a.values()) <= 1
    assert kept.texts == whole.limited(100).texts != whole.limited(100, seed=1).texts
    assert whole.limited(1000) is whole


def test_ids_are_places_in_the_sorted_classes():
    made = task(classes="ba")
    assert made.classes == ("a", "b")
    assert made.label_ids[:2].tolist() == [1, 0]
    assert made.group_ids[[0, 3, 4]].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        (["a"] * 40, range(40), "every text has the label 'a'"),
        (["a"] * 36 + ["b"] * 4, range(40), "label 'b' has 4 texts; expected 10 or more"),
        (["a"] * 39 + ["b"], range(40), "label 'b' has 1 text; expected 10 or more"),
        (["a"] * 20 + ["b"] * 20, [0] * 20 + list(range(20)), r"'a' comes from 1 document\(s\)"),
        (["a"] * 39, range(40), "40 texts, 39 labels"),
    ],
)
def test_a_task_that_cannot_be_probed_is_refused(labels, groups, message):
    with pytest.raises(UserError, match=message):
        LabelledTexts("bad", ["text"] * 40, labels, [str(group) for group in groups])
