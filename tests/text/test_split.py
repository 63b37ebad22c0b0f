"""Train or validation, by document."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.base.errors import UserError
from cutaway.text import Document
from cutaway.text.split import plan


@dataclass
class Texts:
    texts: list[str]
    name: str = "texts"
    read: int = 0

    def documents(self) -> Iterator[Document]:
        for index, text in enumerate(self.texts):
            self.read += 1
            yield Document(f"{index}", text)

    def fingerprint(self) -> str:
        return repr(self.texts)

    def size(self) -> int:
        return sum(map(len, self.texts))


def validation_share(texts: Texts, fraction: float) -> float:
    split = plan(texts, fraction)
    sizes = {False: 0, True: 0}
    for document in texts.documents():
        for side, part in split.sides(document):
            sizes[side] += len(part.text.encode())
    assert sizes[False]
    assert sizes[True]
    return sizes[True] / sum(sizes.values())


def test_the_choice_among_few_documents_is_the_best_there_is() -> None:
    """Against every subset of ten documents."""
    drawn = random.Random(0)
    for fraction in (0.05, 0.1, 0.3, 0.5):
        sizes = [drawn.randint(100, 10_000) for _ in range(10)]
        sums = {0}
        for size in sizes:
            sums |= {total + size for total in sums}
        best = min(abs(s / sum(sizes) - fraction) for s in sums if 0 < s < sum(sizes))
        found = abs(validation_share(Texts(["x" * size for size in sizes]), fraction) - fraction)
        assert found == pytest.approx(best, abs=5e-4)


@given(
    st.lists(st.integers(1, 10**6), min_size=2, max_size=12),
    st.sampled_from([0.001, 0.1, 0.25, 0.5]),
)
def test_neither_side_is_ever_empty(sizes: list[int], fraction: float) -> None:
    plan_of = plan(Texts(["x" * min(size, 1000) for size in sizes]), fraction)
    assert plan_of.chosen is not None
    assert 0 < len(plan_of.chosen) < len(sizes)


def test_many_documents_are_split_by_a_hash_whatever_their_order() -> None:
    texts = Texts(["text"] * 5000)
    split = plan(texts, 0.1)
    assert texts.read == 200, "200 documents tell that the hash decides"
    sides = {d.id: side for d in texts.documents() for side, _ in split.sides(d)}
    shuffled = [Document(f"{k}", "other") for k in random.Random(1).sample(range(5000), 5000)]
    assert sides == {d.id: side for d in shuffled for side, _ in split.sides(d)}
    assert sum(sides.values()) / 5000 == pytest.approx(0.1, abs=0.015)


def test_a_small_fraction_of_some_hundred_documents_is_not_left_to_chance() -> None:
    share = validation_share(Texts(["x" * 100] * 1000), 0.002)
    assert share == pytest.approx(0.002)


def test_a_single_document_is_cut_at_the_nearest_paragraph() -> None:
    paragraphs = [f"{k} " + "word " * 30 + "\n\n" for k in range(100)]
    texts = Texts(["".join(paragraphs)])
    split = plan(texts, 0.1)
    (_, train), (_, validation) = split.sides(next(texts.documents()))
    assert train.text + validation.text == texts.texts[0]
    assert validation.text.startswith("90 ")
    assert "a single document" in split.notices[0]


@pytest.mark.parametrize(
    "text", ["one two three four five six", "x" * 50, "ab", "a\n\n\n\n\n\n\n\nb"]
)
def test_a_single_short_document_still_has_two_sides(text: str) -> None:
    split = plan(Texts([text]), 0.5)
    (_, train), (_, validation) = split.sides(Document("0", text))
    assert train.text + validation.text == text
    assert train.text.strip()
    assert validation.text.strip()


def test_two_equal_documents_allow_no_tenth_and_say_so() -> None:
    split = plan(Texts(["x" * 100, "y" * 100]), 0.1)
    assert "validation holds 50.0% of the text" in split.notices[0]


@pytest.mark.parametrize("fraction", [0, -0.1, 0.6, 1, float("nan")])
def test_fractions_out_of_range_are_refused(fraction: float) -> None:
    with pytest.raises(UserError, match=r"validation_fraction = .* over 0 and at most 0.5"):
        plan(Texts(["a"]), fraction)


def test_no_documents_are_an_empty_corpus() -> None:
    with pytest.raises(UserError, match="texts: empty corpus"):
        plan(Texts([]), 0.1)
