"""Windows of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.text import gather, spaced_windows, starts


def test_starts_belong_to_seed_and_step_alone() -> None:
    first = starts(1000, 16, 8, seed=1, step=5)
    assert (first == starts(1000, 16, 8, seed=1, step=5)).all()
    assert (first != starts(1000, 16, 8, seed=1, step=6)).any()
    assert (first != starts(1000, 16, 8, seed=2, step=5)).any()
    assert first.dtype == np.int64


def test_every_place_is_drawn_and_none_beyond() -> None:
    drawn = starts(20, 16, 10_000, seed=0, step=0)
    assert sorted(set(drawn.tolist())) == [0, 1, 2, 3]
    counts = np.bincount(drawn)
    assert (abs(counts - 2500) < 5 * np.sqrt(10_000 * 0.25 * 0.75)).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_windows_are_the_tokens_at_their_starts(tmp_path: Path, dtype: type) -> None:
    np.arange(70, dtype=dtype).tofile(tmp_path / "t.bin")
    tokens = np.memmap(tmp_path / "t.bin", dtype, mode="r")
    found = gather(tokens, np.array([0, 5, 53]), 16)
    assert found.dtype == torch.int64
    assert found.tolist() == [list(range(at, at + 17)) for at in (0, 5, 53)]


def test_evaluation_windows_reach_from_end_to_end_without_overlap() -> None:
    tokens = np.zeros(1000, np.uint16)
    found = spaced_windows(tokens, 99, 10)
    assert found.tolist() == list(range(0, 1000, 100))
    found = spaced_windows(tokens, 99, 4)
    assert (found[0], found[-1]) == (0, 900)
    assert (np.diff(found) >= 100).all()
    assert found.tolist() == spaced_windows(tokens, 99, 4).tolist()


def test_evaluation_windows_of_a_short_text() -> None:
    assert spaced_windows(np.zeros(17, np.uint16), 16, 10).tolist() == [0]
    assert spaced_windows(np.zeros(19, np.uint16), 16, 10).tolist() == [0, 1, 2]
    assert spaced_windows(np.zeros(500, np.uint16), 16, 1).tolist() == [0]


def test_a_text_shorter_than_a_window_is_refused_with_both_counts() -> None:
    with pytest.raises(UserError, match=r"validation has 57 tokens, .* block_size \+ 1 = 129"):
        spaced_windows(np.zeros(57, np.uint16), 128, 4)
    with pytest.raises(UserError, match=r"train has 128 tokens, fewer than block_size \+ 1 = 129"):
        starts(128, 128, 4, seed=0, step=0, what="train")
    assert starts(129, 128, 4, seed=0, step=0).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("tokens", "starts", "block_size"),
    [
        (np.arange(50), [-1], 4),  # an index that would be read from the end
        (np.arange(50), [46], 4),
        (np.arange(50), [0.5], 4),
        (np.arange(50), np.array([True, False]), 4),
        (np.arange(50), [10**30], 4),
        (np.arange(50), [0], 0),
        (np.arange(50), [0], 50),
        (np.full(50, np.nan), [0], 4),
        (np.zeros((5, 10)), [0], 4),
        (np.zeros(0, int), [0], 4),
        (np.array(3), [0], 4),
    ],
)
def test_windows_that_are_none_are_refused(tokens, starts, block_size) -> None:
    with pytest.raises(UserError):
        gather(tokens, starts, block_size)


def test_tokens_and_places_may_be_any_column_of_whole_numbers() -> None:
    pandas = pytest.importorskip("pandas")
    places = pandas.Series([0, 5], index=[5, 0])
    expected = [[0, 1, 2], [5, 6, 7]]
    assert gather(list(range(50)), places, 2).tolist() == expected
    assert gather(torch.arange(50), range(0, 6, 5), 2).tolist() == expected
