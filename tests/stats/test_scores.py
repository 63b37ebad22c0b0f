"""Scores against scikit-learn's, ties and weights included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.calibration import calibration_curve

from cutaway.base.errors import UserError
from cutaway.stats import scores


def sample(seed=0, n=200, ties=True):
    random = np.random.default_rng(seed)
    y = (random.random(n) < 0.3).astype(int)
    p = np.clip(0.4 * y + 0.6 * random.random(n), 0, 1)
    if ties:
        p = np.round(p, 1)
    return y, p, (p > 0.5).astype(int), random.integers(0, 4, n).astype(float)


COUNTED = [
    (scores.accuracy, metrics.accuracy_score),
    (scores.balanced_accuracy, metrics.balanced_accuracy_score),
    (scores.precision, metrics.precision_score),
    (scores.recall, metrics.recall_score),
    (scores.f1, metrics.f1_score),
]
RANKED = [
    (scores.auroc, metrics.roc_auc_score),
    (scores.average_precision, metrics.average_precision_score),
    (scores.brier, metrics.brier_score_loss),
]
NAMES = lambda pair: getattr(pair, "__name__", None)  # noqa: E731


@pytest.mark.parametrize(("ours", "theirs"), COUNTED + RANKED, ids=NAMES)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_scores_are_those_of_scikit_learn(ours, theirs, weighted, ties):
    for seed in range(5):
        y, p, predicted, weight = sample(seed, ties=ties)
        given = p if (ours, theirs) in RANKED else predicted
        weight = weight if weighted else None
        found = ours(
            *map(torch.tensor, (y, given)), None if weight is None else torch.tensor(weight)
        )
        assert float(found) == pytest.approx(theirs(y, given, sample_weight=weight), abs=1e-12)


def test_specificity_is_the_recall_of_the_other_class():
    y, _, predicted, _ = sample()
    expected = metrics.recall_score(1 - y, 1 - predicted)
    assert float(scores.specificity(torch.tensor(y), torch.tensor(predicted))) == pytest.approx(
        expected
    )


def test_confusion_is_that_of_scikit_learn():
    y, _, predicted, _ = sample()
    found = scores.confusion(torch.tensor(y), torch.tensor(predicted))
    tn, fp, fn, tp = metrics.confusion_matrix(y, predicted).ravel()
    assert (float(found.tp), float(found.fp), float(found.fn), float(found.tn)) == (tp, fp, fn, tn)


def test_accuracy_takes_any_number_of_classes():
    assert float(scores.accuracy(torch.tensor([0, 2, 1, 3]), torch.tensor([0, 2, 2, 3]))) == 0.75


@pytest.mark.parametrize("ties", [False, True])
def test_calibration_error_adds_up_scikit_learns_calibration_curve(ties):
    y, p, _, _ = sample(ties=ties)
    share, mean = calibration_curve(y, p, n_bins=15)
    bins = np.searchsorted(np.linspace(0, 1, 16)[1:-1], p)
    sizes = np.bincount(bins, minlength=15)
    expected = (sizes[sizes > 0] / len(y) * np.abs(share - mean)).sum()
    found = scores.expected_calibration_error(torch.tensor(y), torch.tensor(p))
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_a_perfectly_calibrated_forecast_has_no_calibration_error():
    y = torch.tensor([0, 0, 0, 1] * 5 + [1, 1, 1, 0] * 5)
    p = torch.tensor([0.25] * 20 + [0.75] * 20)
    assert float(scores.expected_calibration_error(y, p)) == 0


@pytest.mark.parametrize("ours", [pair[0] for pair in RANKED] + [scores.expected_calibration_error])
def test_leading_axes_of_labels_scores_and_weights_go_together(ours):
    y, p, _, weight = (torch.tensor(one) for one in sample())
    probabilities = torch.stack([p, p.flip(0), p * 0.5])
    weights = torch.stack([torch.ones(200).double(), weight])
    found = ours(y, probabilities[:, None], weights)
    assert found.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            assert float(found[i, j]) == pytest.approx(float(ours(y, probabilities[i], weights[j])))


def test_a_constant_score_ranks_by_chance():
    y = torch.tensor([0, 1, 1, 0, 1])
    assert float(scores.auroc(y, torch.zeros(5))) == 0.5
    assert float(scores.average_precision(y, torch.zeros(5))) == 0.6


def test_what_the_data_do_not_define_is_nan():
    none, all_of_them = torch.zeros(4), torch.ones(4)
    score = torch.tensor([0.1, 0.2, 0.3, 0.4])
    undefined = [
        scores.auroc(none, score),
        scores.auroc(all_of_them, score),
        scores.average_precision(none, score),
        scores.precision(all_of_them, none),
        scores.recall(none, all_of_them),
        scores.specificity(all_of_them, all_of_them),
        scores.balanced_accuracy(none, none),
        scores.f1(none, none),
        scores.brier(none, score, torch.zeros(4)),
        scores.accuracy(none, none, torch.zeros(4)),
        scores.auroc(torch.tensor([0, 1, 0, 1]), torch.tensor([0.1, math.nan, 0.2, 0.3])),
        scores.expected_calibration_error(none, torch.full((4,), math.nan)),
    ]
    assert all(bool(value.isnan()) for value in undefined)


def test_a_nan_score_does_not_reach_its_neighbours():
    y = torch.tensor([0, 1, 0, 1])
    pair = torch.tensor([[0.1, 0.2, 0.3, math.nan], [0.1, 0.9, 0.2, 0.8]])
    assert scores.auroc(y, pair).isnan().tolist() == [True, False]
    assert float(scores.auroc(y, pair)[1]) == 1


def classes_of(seed: int, lead: tuple[int, ...] = ()):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (*lead, 60), generator=generator)
    p = torch.randn(*lead, 60, 4, generator=generator, dtype=torch.float64).softmax(-1)
    return y, p, torch.randint(0, 3, (60,), generator=generator).double()


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_scores_of_many_classes_are_those_of_scikit_learn(weighted):
    y, p, weight = classes_of(0)
    weight = weight if weighted else None
    given = {"sample_weight": None if weight is None else weight.numpy()}
    called = p.argmax(-1)
    counts = scores.class_counts(y, called, 4, weight)
    assert counts.tolist() == metrics.confusion_matrix(y, called, **given).tolist()
    loss = metrics.log_loss(y, p.numpy(), **given)
    assert float(scores.log_loss(y, p.log(), weight)) == pytest.approx(loss, abs=1e-12)
    brier = metrics.brier_score_loss(y, p.numpy(), scale_by_half=False, **given)
    assert float(scores.multiclass_brier(y, p, weight)) == pytest.approx(brier, abs=1e-12)


def test_scores_of_many_classes_take_leading_axes():
    y, p, weight = classes_of(1, (3,))
    for ours, given in (
        (lambda y, called, s: scores.class_counts(y, called, 4, s), p.argmax(-1)),
        (scores.log_loss, p.log()),
        (scores.multiclass_brier, p),
    ):
        every = ours(y, given, weight)
        one_label = ours(y[0], given, weight)
        for index in range(3):
            assert torch.equal(every[index], ours(y[index], given[index], weight))
            assert torch.equal(one_label[index], ours(y[0], given[index], weight))


def test_a_label_ruled_out_costs_everything_unless_it_has_no_weight():
    y, p = torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(scores.log_loss(y, p.log())) == math.inf
    assert float(scores.log_loss(y, p.log(), torch.tensor([1.0, 0.0]))) == 0
    assert bool(scores.log_loss(y, p.log(), torch.zeros(2)).isnan())


@pytest.mark.parametrize(
    ("score", "arguments", "said"),
    [
        ("auroc", ([-1, 1, 1], [0.1, 0.2, 0.3]), "y: expected labels of 0 and 1, found -1"),
        ("average_precision", ([1, 2], [0.1, 0.2]), "y: expected labels of 0 and 1, found 2"),
        ("brier", ([0.5, 1], [0.1, 0.2]), "y: expected labels of 0 and 1, found 0.5"),
        ("f1", (torch.tensor([1, math.nan]), [1, 0]), "y: expected labels of 0 and 1, found nan"),
        ("recall", ([1, 0], torch.tensor([math.nan, 0])), "predicted: expected labels of 0 and 1"),
        ("log_loss", ([0, 2], [[0.0, -1.0]] * 2), "y: expected classes from 0 to 1, found 2"),
        ("multiclass_brier", ([0, -1], [[0.5, 0.5]] * 2), "expected classes from 0 to 1, found -1"),
        ("class_counts", ([0, 1], [0, 2], 2), "predicted: expected classes from 0 to 1, found 2"),
        ("accuracy", ([0, 1, 1], [0, 1]), "predicted: 2 for 3 labels y"),
        ("auroc", ([0, 1], [0.1, 0.2], [1, 2, 3]), "weight: 3 for 2 labels y"),
        ("expected_calibration_error", ([0, 1, 1], [0.1, 0.2]), "probability: 2 for 3 labels y"),
    ],
)
def test_labels_that_are_none_and_lengths_that_differ_are_refused(score, arguments, said):
    with pytest.raises(UserError, match=said):
        getattr(scores, score)(*arguments)


def test_a_calibration_error_needs_a_bin():
    with pytest.raises(UserError, match="bins = 0: expected 1 or more"):
        scores.expected_calibration_error([0, 1], [0.1, 0.2], bins=0)
