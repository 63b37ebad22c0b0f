"""Measures against the truth, on dictionaries made by hand."""

from __future__ import annotations

import pytest
import torch

from cutaway.dictionaries.synthetic.stream import SyntheticStream
from cutaway.dictionaries.synthetic.truth import Hierarchy, Superposition
from cutaway.evaluations.known_truth.measures import (
    Comparison,
    absorption,
    alignment,
    matched_f1,
    recovery,
    splitting,
)

P, C = 5, 3
TRUTH = Hierarchy(P, C, 40, parent_rate=0.3, child_rate=0.6, magnitude_spread=0.2)
DIRECTIONS = TRUTH.directions()
AMPLITUDES = SyntheticStream(TRUTH, 4000, seed=1).labelled(0)[1]
ON = AMPLITUDES[:, :P] > 0
WITH_CHILD = (AMPLITUDES[:, P:] > 0).reshape(-1, P, C).any(2)


def absorbing(lean: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Children's rows that carry `lean` of the parent, whose own feature is then silent."""
    rows = DIRECTIONS.clone()
    rows[P:] += lean * DIRECTIONS[TRUTH.parent_of[P:]]
    features = AMPLITUDES.clone()
    features[:, :P] = torch.where(WITH_CHILD, 0.0, features[:, :P])
    lengths = rows.norm(dim=1)
    return rows / lengths[:, None], features * lengths


# -- recovery and F1 -------------------------------------------------------------------------------


def test_the_true_dictionary_scores_one_in_any_order_and_scale():
    truth = Superposition(20, 8, active=3)
    directions = truth.directions()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    score, match = recovery(directions[order] * torch.arange(1.0, 21.0)[:, None], directions)
    assert score == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(order[match], torch.arange(20))
    _, amplitudes = SyntheticStream(truth, 4000).labelled(0)
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


# -- whose row -------------------------------------------------------------------------------------


def test_a_row_belongs_to_what_it_is_nearest_to():
    child, parent = DIRECTIONS[P], DIRECTIONS[0]
    nowhere = torch.linalg.svd(DIRECTIONS).Vh[-1]  # at right angles to all of them
    rows = torch.stack(
        [
            DIRECTIONS[1],  # a parent's own
            parent + 0.2 * DIRECTIONS[P : P + C].sum(0),  # a parent with a little of its children
            child,
            child + parent,  # as they come together: the child's, though as near to the parent
            2 * parent + 1.2 * child,  # nearer to the parent than to the child: the child's
            1.8 * nowhere + parent,  # 61° from it
            torch.zeros(40),
        ]
    )
    found = alignment(rows, TRUTH)
    assert found.feature.tolist() == [1, 0, P, P, P, -1, -1]
    assert found.leaning.tolist() == [False, False, False, True, True, False, False]


def test_how_children_usually_come_decides_what_leans():
    """With strong parents a row mostly of the parent is still the child's."""
    strong = Hierarchy(P, C, 40, parent_rate=0.3, parent_magnitude=3.0, child_magnitude=1.0)
    directions = strong.directions()
    row = (3 * directions[0] + directions[P])[None]
    assert torch.nn.functional.cosine_similarity(row[0], directions[0], dim=0) > 0.94
    assert alignment(row, strong).feature.tolist() == [P]


def test_rows_of_each_feature_are_counted():
    rows = torch.cat([DIRECTIONS[:3], DIRECTIONS[:1], torch.zeros(4, 40)])
    counted = splitting(rows, TRUTH)
    assert counted.rows.tolist() == [2, 1, 1] + [0] * (P * (1 + C) - 3)
    assert not counted.over_children.any()
    # of parent 0 all children lean and its own row is gone; of parent 1 the row is still there
    rows, _ = absorbing()
    rows[0] = 0
    split = splitting(rows[: P + 2 * C], TRUTH)
    assert split.over_children.tolist() == [True, False, False, False, False]
    assert splitting(torch.eye(6)[:4], Superposition(8, 6, 2)).over_children is None


# -- absorption ------------------------------------------------------------------------------------


def test_a_perfect_dictionary_absorbs_nothing():
    found = absorption(DIRECTIONS, AMPLITUDES, AMPLITUDES, TRUTH)
    assert (found.rate, found.missing) == (0.0, 0.0)
    assert found.tokens.tolist() == ON.sum(0).tolist()


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_children_that_stand_for_their_parent_absorb_exactly_their_share(scale: float):
    """Whatever the rows' length, which the features then make up for."""
    rows, features = absorbing()
    found = absorption(rows * scale, features / scale, AMPLITUDES, TRUTH)
    assert found.rate == float(WITH_CHILD.sum().double() / ON.sum())
    assert found.missing == 0.0
    expected = WITH_CHILD.sum(0).double() / ON.sum(0)
    torch.testing.assert_close(found.per_parent, expected)


def test_a_parent_that_fires_beside_its_child_is_seen_however_weakly():
    rows, features = absorbing()
    features[:, :P] += 1e-3 * WITH_CHILD
    assert absorption(rows, features, AMPLITUDES, TRUTH).rate == 0.0


def test_a_silent_parent_nobody_stands_for_is_missing_not_absorbed():
    features = AMPLITUDES.clone()
    features[:, 0] = 0.0  # dead
    found = absorption(DIRECTIONS, features, AMPLITUDES, TRUTH)
    assert found.rate == 0.0
    assert found.missing_per_parent.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    without = torch.cat([torch.zeros(1, 40), DIRECTIONS[1:]])  # and without a row as well
    again = absorption(without, AMPLITUDES, AMPLITUDES, TRUTH)
    assert (again.rate, again.missing) == (0.0, found.missing)


def test_without_a_row_of_its_own_a_parent_is_absorbed_where_a_child_is_on():
    rows, features = absorbing()
    rows[:P] = 0.0
    found = absorption(rows, features, AMPLITUDES, TRUTH)
    assert found.rate == float(WITH_CHILD.sum().double() / ON.sum())
    assert found.missing == pytest.approx(1 - found.rate)


@pytest.mark.parametrize(("share", "absorbed"), [(0.41, True), (0.39, False)])
def test_four_tenths_of_the_parent_must_be_carried(share: float, absorbed: bool):
    """Without spread a child's feature of value 1 carries its lean times the parent's amplitude."""
    truth = Hierarchy(P, C, 40, parent_rate=0.3, child_rate=0.6, magnitude_spread=0.0)
    _, amplitudes = SyntheticStream(truth, 500, seed=1).labelled(0)
    rows = truth.directions()
    rows[P:] += share * truth.directions()[truth.parent_of[P:]]
    features = amplitudes.clone()
    with_child = (amplitudes[:, P:] > 0).reshape(-1, P, C).any(2)
    features[:, :P][with_child] = 0.0
    found = absorption(rows, features, amplitudes, truth)
    gone = float(with_child.sum().double() / (amplitudes[:, :P] > 0).sum())
    assert (found.rate, found.missing) == ((gone, 0.0) if absorbed else (0.0, gone))


def test_anothers_child_absorbs_nothing():
    """A row of parent 1's child that carries parent 0 as well is no child's feature of parent 0."""
    rows, features = DIRECTIONS.clone(), AMPLITUDES.clone()
    features[:, 0] = 0.0
    rows[P + C] += 0.6 * DIRECTIONS[0]
    assert alignment(rows, TRUTH).feature[P + C] == P + C
    assert absorption(rows, features, AMPLITUDES, TRUTH).per_parent[0] == 0.0


def test_a_comparison_of_batches_is_that_of_all_tokens():
    rows, features = absorbing()
    features[::3, P:] = 0.0
    whole = absorption(rows, features, AMPLITUDES, TRUTH)
    compared = Comparison(rows, TRUTH)
    for at in range(0, 4000, 1500):
        compared.add(features[at : at + 1500], AMPLITUDES[at : at + 1500])
    score, match = recovery(rows, DIRECTIONS)
    assert 0 < whole.rate < 1
    assert 0 < whole.missing < 1
    assert compared.figures() == {
        "mmcs": score,
        "matched_f1": matched_f1(features, AMPLITUDES, match),
        "absorption": whole.rate,
        "parents_missing": whole.missing,
    }
    plain = Comparison(torch.eye(6), Superposition(8, 6, 2))
    assert set(plain.figures()) == {"mmcs", "matched_f1"}
