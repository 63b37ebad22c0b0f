"""Ties: what only a rounding could decide is decided by a rule."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutaway.probes.scores.evaluation import judge
from cutaway.stats.ties import TIE, agreement, best, decided, largest, least

NOISE = torch.Generator().manual_seed(0)


def noise(*shape: int) -> torch.Tensor:
    """Roundings of zero, positive and negative."""
    return 1e-15 * torch.randn(*shape, generator=NOISE, dtype=torch.float64)


def test_a_logit_that_is_a_rounding_counts_half() -> None:
    truth = torch.arange(200) % 2
    assert agreement(noise(200), truth).unique().tolist() == [0.5]
    assert agreement(torch.tensor([2.0, -2.0, 2.0, -2.0]), torch.tensor([1, 1, 0, 0])).tolist() == [
        1, 0, 0, 1,
    ]  # fmt: skip


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_predictions_that_know_nothing_score_chance_whatever_their_roundings(classes) -> None:
    """Balanced accuracy 1 / C and AUROC one half, with no spread: the same on every machine."""
    label = torch.arange(40 * classes) % classes
    even = noise(20, len(label), classes) - math.log(classes)
    found = judge(even, even, label, torch.arange(len(label)))
    assert found.balanced_accuracy.tolist() == pytest.approx([1 / classes] * 20, abs=1e-12)
    assert found.auroc.tolist() == pytest.approx([0.5] * 20, abs=1e-12)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 30))
def test_the_largest_are_those_of_a_stable_sort(values, count) -> None:
    given_ = torch.tensor([values, values[::-1]], dtype=torch.float32)
    count = min(count, len(values))
    expected = given_.sort(descending=True, stable=True)
    found, places = largest(given_, count)
    assert torch.equal(found, expected.values[:, :count])
    assert torch.equal(places, expected.indices[:, :count])


def test_what_is_no_number_is_never_among_the_largest() -> None:
    values = torch.tensor([math.nan, 1.0, math.inf, -math.inf, 1.0])
    assert largest(values, 3)[1].tolist() == [2, 1, 4]
    assert least(torch.tensor([math.nan, 2.0, 1.0])).tolist() == 2


def test_the_first_of_those_a_rounding_apart_is_chosen() -> None:
    near = TIE / 3
    assert least(torch.tensor([1.0, 0.5 + near, 0.5, 0.5 - near], dtype=torch.float64)) == 1
    assert decided(torch.tensor([0.1, 0.7, 0.7 + near, 0.2], dtype=torch.float64)) == 1
    assert best("abc", {"a": 0.2, "b": 0.9, "c": 0.9 + near}.__getitem__) == "b"


def test_a_logit_that_is_no_number_agrees_with_nothing() -> None:
    found = agreement(torch.tensor([math.nan, 1.0]), torch.tensor([1, 1]))
    assert found.isnan().tolist() == [True, False]
