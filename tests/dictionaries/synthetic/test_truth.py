"""The synthetic truth is what it says, and its batches are pure functions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.dictionaries.synthetic.stream import SyntheticStream
from cutaway.dictionaries.synthetic.truth import Hierarchy, Superposition, Truth, truth_from

FAMILIES = Hierarchy(6, 3, 20, parent_rate=0.3, child_rate=0.6)


def labelled(truth: Truth, tokens: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    return SyntheticStream(truth, tokens, seed=3).labelled(0)


def near(share: torch.Tensor, expected: float, tokens: float) -> bool:
    """Within five standard errors of a share of so many tokens."""
    return bool(((share - expected).abs() < 5 * (expected * (1 - expected) / tokens) ** 0.5).all())


# -- superposition ---------------------------------------------------------------------------------


def test_states_are_sums_of_exactly_the_active_directions():
    truth = Superposition(20, 8, active=3)
    x, amplitudes = labelled(truth)
    on = amplitudes > 0
    assert (on.sum(1) == 3).all()
    assert amplitudes[on].min() >= 0.5
    torch.testing.assert_close(x, amplitudes @ truth.directions())
    torch.testing.assert_close(truth.directions().norm(dim=1), torch.ones(20))
    assert near(on.double().mean(0), 3 / 20, len(x))
    # amplitudes 0.5 + Exp(1) have mean 1.5 and variance 1
    assert abs(float(amplitudes[on].mean()) - 1.5) < 5 / on.sum() ** 0.5
    assert abs(float(amplitudes[on].var()) - 1.0) < 0.15


def test_every_set_of_active_features_is_as_likely():
    on = labelled(Superposition(6, 4, active=3), 20_000)[1] > 0
    codes = (on * 2 ** torch.arange(6)).sum(1)
    sets = [sum(2**i for i in chosen) for chosen in itertools.combinations(range(6), 3)]
    shares = torch.bincount(codes, minlength=64)[sets].double() / len(on)
    assert shares.sum() == 1
    assert near(shares, 1 / 20, len(on))


def test_correlated_features_come_in_their_groups():
    def together(correlation: float) -> float:
        on = (labelled(Superposition(20, 8, 4, correlation))[1] > 0).double()
        return float((on[:, 0] * on[:, 1]).mean() / on[:, 0].mean())

    assert abs(together(0.0) - 3 / 19) < 0.05  # by chance
    assert together(0.9) > 2 * together(0.0)


# -- hierarchy -------------------------------------------------------------------------------------


def test_children_come_one_at_a_time_and_only_with_their_parent():
    x, amplitudes = labelled(FAMILIES)
    torch.testing.assert_close(x, amplitudes @ FAMILIES.directions())
    parents = amplitudes[:, :6] > 0
    children = (amplitudes[:, 6:] > 0).reshape(-1, 6, 3)
    assert parents.any(1).all()  # no state of zeros
    assert (children.sum(2) <= parents).all()
    assert torch.equal(FAMILIES.parent_of[6:], torch.arange(6).repeat_interleave(3))
    assert (FAMILIES.parent_of[:6] == -1).all()


@pytest.mark.parametrize("rate", [1 / 6, 0.3, 1.0])
def test_parents_and_children_are_on_as_often_as_set(rate: float):
    truth = Hierarchy(6, 3, 20, parent_rate=rate, child_rate=0.6)
    x, amplitudes = labelled(truth, 20_000)
    on = (amplitudes > 0).double()
    assert near(on[:, :6].mean(0), rate, len(x)) or rate == 1.0
    assert on[:, :6].mean() == pytest.approx(rate, abs=0.01)
    assert near(on[:, 6:].sum(0) / on[:, :6].sum(0).repeat_interleave(3), 0.2, rate * len(x))
    assert on.sum(1).mean() == pytest.approx(truth.l0, rel=0.02)


def test_amplitudes_lie_within_their_spread_of_their_magnitude():
    truth = Hierarchy(
        4, 2, 12, parent_rate=0.5, parent_magnitude=3.0, child_magnitude=2.0, magnitude_spread=0.25
    )
    _, amplitudes = labelled(truth)
    for part, magnitude in ((amplitudes[:, :4], 3.0), (amplitudes[:, 4:], 2.0)):
        sizes = part[part > 0]
        assert sizes.min() >= 0.75 * magnitude
        assert sizes.max() <= 1.25 * magnitude
        assert sizes.mean() == pytest.approx(magnitude, rel=0.01)


def test_a_familys_directions_are_at_right_angles_and_no_others():
    directions = FAMILIES.directions()
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(24))
    families = torch.cat([directions[:6, None], directions[6:].reshape(6, 3, 20)], dim=1)
    within = families @ families.mT
    torch.testing.assert_close(within, torch.eye(4).expand(6, 4, 4), rtol=0, atol=1e-6)
    across = (directions[:6] @ directions[:6].T).fill_diagonal_(0)
    assert across.abs().max() > 0.1


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("truth", [Superposition(20, 8, 3, seed=5), FAMILIES])
def test_a_batch_is_a_pure_function_of_seed_part_and_index(truth: Truth):
    stream, again = SyntheticStream(truth, 32, seed=1), SyntheticStream(truth, 32, seed=1)
    stream.batch(0)
    assert torch.equal(stream.batch(7), again.batch(7))
    assert torch.equal(stream.batch(7), again.labelled(7)[0])
    other = [
        again.batch(8),
        SyntheticStream(truth, 32, seed=2).batch(7),
        SyntheticStream(truth, 32, seed=1, part="validation").batch(7),
        SyntheticStream(truth, 32, seed=1, part="test").batch(7),
    ]
    for states in other:  # no token in common
        assert not (stream.batch(7)[:, None] == states).all(2).any()


def test_blocks_are_an_epochs_rows():
    stream = SyntheticStream(FAMILIES, 32, rows=70, part="validation")
    blocks = list(stream.blocks())
    assert [len(block) for block in blocks] == [32, 32, 6]
    assert torch.equal(blocks[2], stream.batch(2)[:6])


def test_a_truth_is_the_same_after_its_file():
    for truth in (Superposition(20, 8, 3, 0.5, 7), FAMILIES):
        assert truth_from(truth.to_json()) == truth


# -- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"active": 0}, "active = 0: expected 1 to 10"),
        ({"active": 11}, "active = 11: expected 1 to 10"),
        ({"active": 3, "correlation": -0.1}, "correlation = -0.1"),
        ({"active": 3, "correlation": 1.0}, "correlation = 1.0"),
    ],
)
def test_a_superposition_that_cannot_be_is_refused(settings: dict[str, Any], named: str):
    with pytest.raises(UserError, match=named):
        Superposition(20, 8, **settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"parents": 0}, "parents = 0"),
        ({"children": 0}, "children = 0"),
        ({"width": 3}, "d_model = 3: too narrow for a parent and its 3 children"),
        ({"parent_rate": 0.0}, "parent_rate = 0.0: expected above 0 to 1"),
        ({"parent_rate": 0.1}, r"parent_rate = 0.1: expected at least 1 / parents = 0.1667"),
        ({"child_rate": 1.5}, "child_rate = 1.5: expected above 0 to 1"),
        ({"child_magnitude": 0.0}, "child_magnitude = 0.0"),
        ({"magnitude_spread": 1.0}, "magnitude_spread = 1.0"),
    ],
)
def test_a_hierarchy_that_cannot_be_is_refused(settings: dict[str, Any], named: str):
    with pytest.raises(UserError, match=named):
        Hierarchy(**{"parents": 6, "children": 3, "width": 20, "parent_rate": 0.3, **settings})


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"part": "all"}, "part = 'all'"), ({"rows": 0}, "tokens = 0"), ({"batch_size": 0}, "batch_")],
)
def test_a_stream_of_nothing_is_refused(settings: dict[str, Any], named: str):
    with pytest.raises(UserError, match=named):
        SyntheticStream(FAMILIES, **{"batch_size": 8, **settings})
