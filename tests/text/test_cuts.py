"""Cutting a text changes none of its tokens."""

from __future__ import annotations

import random
from functools import lru_cache

from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.text import Tokenizer, train
from cutaway.text.cuts import cut

# Everything GPT-2's pretokenizer treats apart, and every kind of white space there is.
LETTERS = "abst'dlmrev eé漢Ωß1२½.,!-_\u0301\u200b\ufeff\u180e\x00"
SPACES = " \n\t\r\v\f\x1c\x1f\x85\xa0\u1680\u2003\u2028\u3000"
TEXTS = st.text(st.sampled_from(LETTERS + SPACES * 3), max_size=60)


@lru_cache
def tokenizer() -> Tokenizer:
    """Merges that reach across every kind of place where the pretokenizer lets them."""
    drawn = random.Random(0)
    words = ["".join(drawn.choices(LETTERS + SPACES * 3, k=6)) for _ in range(1000)]
    return train([word * 3 for word in words], 2000)


@settings(max_examples=1500, deadline=None)
@given(TEXTS, st.integers(1, 8))
def test_tokens_of_the_parts_are_tokens_of_the_whole(text: str, size: int) -> None:
    parts = list(cut(text, size))
    assert "".join(parts) == text
    ids = [id for part in parts for id in tokenizer().encode(part)]
    assert ids == tokenizer().encode(text)


def test_parts_are_near_the_size_asked_for() -> None:
    parts = list(cut("word and word " * 1000, 100))
    assert all(100 <= len(part) <= 160 for part in parts)


def test_a_text_without_white_space_stays_whole() -> None:
    assert list(cut("x" * 1000, 10)) == ["x" * 1000]
    assert list(cut(" " * 1000, 10)) == [" " * 1000]
    assert list(cut("", 10)) == [""]
