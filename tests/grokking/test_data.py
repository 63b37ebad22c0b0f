"""Pairs and splits: exact, disjoint, right."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.grokking.data import all_pairs, results, split

OPERATIONS = ("add", "subtract", "multiply", "divide")


def test_all_pairs_come_a_first() -> None:
    pairs = all_pairs(5)
    assert pairs.shape == (25, 2)
    assert [tuple(pair) for pair in pairs[:6].tolist()] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (0, 3),
        (0, 4),
        (1, 0),
    ]
    assert len({tuple(pair) for pair in pairs.tolist()}) == 25


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_result_undoes_itself_modulo_p(operation) -> None:
    p = 13
    pairs = all_pairs(p)
    if operation == "divide":
        pairs = pairs[pairs[:, 1] != 0]
    a, b = pairs.unbind(1)
    c = results(pairs, p, operation)
    back = {"add": c - b, "subtract": c + b, "multiply": a * b, "divide": c * b}[operation]
    expected = c if operation == "multiply" else a
    assert torch.equal(back % p, expected)
    assert int(c.min()) >= 0
    assert int(c.max()) < p


@given(
    st.sampled_from([5, 7, 17, 23]), st.sampled_from(OPERATIONS),
    st.floats(0.1, 0.9), st.integers(0, 5),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_split_is_exact_and_disjoint(p, operation, train_frac, data_seed) -> None:
    made = split(p, operation, train_frac, data_seed)
    count = p * (p - 1) if operation == "divide" else p * p
    assert len(made.train_pairs) == round(train_frac * count)
    train, test = (
        {tuple(pair) for pair in pairs.tolist()} for pairs in (made.train_pairs, made.test_pairs)
    )
    assert not train & test
    assert len(train) + len(test) == len(train | test) == count
    assert torch.equal(results(made.train_pairs, p, operation), made.train_labels)
    assert torch.equal(results(made.test_pairs, p, operation), made.test_labels)
    if operation == "divide":
        assert 0 not in made.train_pairs[:, 1].tolist() + made.test_pairs[:, 1].tolist()


def test_the_data_seed_alone_decides_the_split() -> None:
    one, same, other = (split(17, "add", 0.5, seed) for seed in (3, 3, 4))
    assert torch.equal(one.train_pairs, same.train_pairs)
    assert not torch.equal(one.train_pairs, other.train_pairs)


def test_training_pairs_are_spread_over_both_numbers() -> None:
    """No residue is left out of a half, as a split that cut the sorted list would do."""
    pairs = split(23, "add", 0.5, 0).train_pairs
    assert set(pairs[:, 0].tolist()) == set(pairs[:, 1].tolist()) == set(range(23))
