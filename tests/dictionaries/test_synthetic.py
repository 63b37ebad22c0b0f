"""The synthetic truth is what it says, and its scores tell right from wrong."""

from __future__ import annotations

import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.dictionaries.synthetic import SyntheticStream, Truth, matched_f1, recovery


def labelled(truth: Truth, tokens: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    return SyntheticStream(truth, tokens, seed=3).labelled(0)


def test_states_are_sums_of_exactly_the_active_directions():
    truth = Truth(20, 8, active=3)
    x, amplitudes = labelled(truth)
    on = amplitudes > 0
    assert (on.sum(1) == 3).all()
    assert amplitudes[on].min() >= 0.5
    torch.testing.assert_close(x, amplitudes @ truth.directions())
    torch.testing.assert_close(truth.directions().norm(dim=1), torch.ones(20))
    # each feature as often as any other: 3 of 20, within five standard errors
    error = (3 / 20 * 17 / 20 / len(x)) ** 0.5
    assert (on.double().mean(0) - 3 / 20).abs().max() < 5 * error
    # amplitudes 0.5 + Exp(1) have mean 1.5 and variance 1
    assert abs(float(amplitudes[on].mean()) - 1.5) < 5 / on.sum() ** 0.5
    assert abs(float(amplitudes[on].var()) - 1.0) < 0.15


def test_a_batch_is_a_pure_function_of_seed_and_index():
    truth = Truth(20, 8, active=3, seed=5)
    stream, again = SyntheticStream(truth, 32, seed=1), SyntheticStream(truth, 32, seed=1)
    stream.batch(0)
    assert torch.equal(stream.batch(7), again.batch(7))
    assert not torch.equal(again.batch(7), again.batch(8))
    assert not torch.equal(again.batch(7), SyntheticStream(truth, 32, seed=2).batch(7))


def test_children_come_only_with_their_parents():
    _, amplitudes = labelled(Truth(20, 8, active=3, hierarchy=True))
    parents, children = amplitudes[:, 0::2] > 0, amplitudes[:, 1::2] > 0
    assert (parents.sum(1) == 3).all()
    assert not (children & ~parents).any()
    share = float(children.sum() / parents.sum())
    assert abs(share - 0.5) < 0.03


def test_correlated_features_come_in_their_groups():
    def together(correlation: float) -> float:
        on = (labelled(Truth(20, 8, active=4, correlation=correlation))[1] > 0).double()
        return float((on[:, 0] * on[:, 1]).mean() / on[:, 0].mean())

    assert abs(together(0.0) - 3 / 19) < 0.05  # by chance
    assert together(0.9) > 2 * together(0.0)


@pytest.mark.parametrize(
    ("settings", "named"), [({"active": 0}, "active"), ({"active": 11}, "active")]
)
def test_a_truth_that_cannot_be_is_refused(settings: dict, named: str):
    with pytest.raises(UserError, match=named):
        Truth(20, 8, **settings)


@pytest.mark.parametrize("correlation", [-0.1, 1.0])
def test_a_correlation_outside_its_range_is_refused(correlation: float):
    with pytest.raises(UserError, match="correlation"):
        Truth(20, 8, active=3, correlation=correlation)


def test_the_true_dictionary_scores_one_in_any_order_and_scale():
    truth = Truth(20, 8, active=3)
    directions = truth.directions()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    score, match = recovery(directions[order] * torch.arange(1.0, 21.0)[:, None], directions)
    assert score == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(order[match], torch.arange(20))
    _, amplitudes = labelled(truth)
    assert matched_f1(amplitudes[:, order], amplitudes, match) == 1.0


def test_a_dictionary_pointing_the_other_way_recovers_nothing():
    directions = torch.eye(6)
    assert recovery(-directions, directions)[0] <= 0
    half = torch.cat([directions[:3], directions[:3]])
    assert recovery(half, directions)[0] == pytest.approx(0.5)


def test_matched_f1_is_that_of_precision_and_recall_by_hand():
    amplitudes = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    features = torch.tensor([[0.0, 1.0], [0.0, 0.0], [5.0, 1.0], [0.1, 0.0]])
    # feature 0 ← column 1: found 1 of 2, 1 wrong: F1 1/2; feature 1 ← column 0: F1 1
    assert matched_f1(features, amplitudes, torch.tensor([1, 0])) == pytest.approx(0.75)
    assert matched_f1(torch.zeros(4, 2), amplitudes, torch.tensor([1, 0])) == 0.0
