"""Scores of predictors against scikit-learn's, by hand, and intervals that hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.calibration import calibration_curve

from cutaway.base.errors import UserError
from cutaway.probes.scores.evaluation import (
    confusion_rows,
    drawn_groups,
    judge,
    one_sided,
    reliability,
    reward_hacking,
)


def predictions(classes: int, n: int = 400, seed: int = 0, lead: tuple[int, ...] = ()):
    """Labels, documents, even and natural log-probabilities of a predictor that knows something."""
    generator = torch.Generator().manual_seed(seed)
    prior = torch.tensor([0.85, 0.15] if classes == 2 else [0.6, 0.25, 0.1, 0.05])
    label = torch.multinomial(prior, n, replacement=True, generator=generator)
    z = torch.randn(*lead, n, classes, generator=generator, dtype=torch.float64)
    even = (z + 1.2 * torch.nn.functional.one_hot(label, classes)).log_softmax(-1)
    natural = (even + prior.double().log()).log_softmax(-1)
    return label, torch.randint(20, (n,), generator=generator), even, natural


def forced(called: torch.Tensor, classes: int = 2) -> torch.Tensor:
    """Log-probabilities that decide as told."""
    return (4.0 * torch.nn.functional.one_hot(called, classes)).log_softmax(-1)


def test_binary_scores_are_those_of_scikit_learn():
    label, documents, even, natural = predictions(2)
    row = judge(even, natural, label, documents).rows()[0]
    y, decided, betted = label.numpy(), even.argmax(-1).numpy(), natural.argmax(-1).numpy()
    p = natural[:, 1].exp().numpy()
    expected = {
        "n": 400,
        "balanced_accuracy": metrics.balanced_accuracy_score(y, decided),
        "recall": metrics.recall_score(y, decided),
        "specificity": metrics.recall_score(1 - y, 1 - decided),
        "accuracy": metrics.accuracy_score(y, betted),
        "precision": metrics.precision_score(y, betted),
        "f1": metrics.f1_score(y, betted),
        "auroc": metrics.roc_auc_score(y, p),
        "average_precision": metrics.average_precision_score(y, p),
        "brier": metrics.brier_score_loss(y, p),
        "log_loss": metrics.log_loss(y, p),
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, abs=1e-12), name
    observed, predicted = calibration_curve(y, p, n_bins=15)
    counts = np.histogram(p, bins=np.linspace(0, 1, 16))[0]
    gaps = np.abs(observed - predicted) @ counts[counts > 0] / len(y)
    assert row["expected_calibration_error"] == pytest.approx(gaps, abs=1e-12)


def test_scores_of_four_classes_are_those_of_scikit_learn():
    label, documents, even, natural = predictions(4)
    row = judge(even, natural, label, documents).rows()[0]
    y, decided, betted = label.numpy(), even.argmax(-1).numpy(), natural.argmax(-1).numpy()
    p = natural.exp().numpy()
    one_hot = np.eye(4)[y]
    expected = {
        "balanced_accuracy": metrics.balanced_accuracy_score(y, decided),
        "recall": metrics.recall_score(y, decided, average="macro"),
        "accuracy": metrics.accuracy_score(y, betted),
        "precision": metrics.precision_score(y, betted, average="macro", zero_division=np.nan),
        "f1": metrics.f1_score(y, betted, average="macro"),
        "auroc": metrics.roc_auc_score(y, p, multi_class="ovr"),
        "average_precision": metrics.average_precision_score(one_hot, p, average="macro"),
        "brier": metrics.brier_score_loss(y, p, scale_by_half=False),
        "log_loss": metrics.log_loss(y, p),
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, abs=1e-12), name
    assert math.isnan(row["specificity"])
    observed, predicted = calibration_curve(p.argmax(1) == y, p.max(1), n_bins=15)
    counts = np.histogram(p.max(1), bins=np.linspace(0, 1, 16))[0]
    gaps = np.abs(observed - predicted) @ counts[counts > 0] / len(y)
    assert row["expected_calibration_error"] == pytest.approx(gaps, abs=1e-12)


def test_three_classes_worked_by_hand():
    label = torch.tensor([0, 0, 1, 1, 2])
    called = torch.tensor([0, 1, 1, 1, 0])
    p = torch.tensor([[0.5, 0.3, 0.2]]).expand(5, 3)
    found = judge(forced(called, 3), p.log(), label, torch.arange(5))
    assert found.confusion_even.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert float(found.balanced_accuracy) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found.confusion_natural.tolist() == [[2, 0, 0], [2, 0, 0], [1, 0, 0]]
    assert float(found.accuracy) == pytest.approx(2 / 5)
    assert float(found.precision) == pytest.approx(2 / 5)  # of the one class that was called
    squares = [0.38, 0.38, 0.78, 0.78, 0.98]  # (1 − .5)² + .3² + .2², and so on
    assert float(found.brier) == pytest.approx(sum(squares) / 5)
    assert float(found.expected_calibration_error) == pytest.approx(0.5 - 2 / 5)


def test_even_odds_decide_recall_and_natural_odds_decide_precision():
    label = torch.tensor([1] * 4 + [0] * 96)
    even = torch.where(label[:, None] == 1, torch.tensor([0.2, 0.8]), torch.tensor([0.7, 0.3]))
    natural = (even.log() + torch.tensor([0.96, 0.04]).log()).log_softmax(-1)
    row = judge(even.log(), natural, label, torch.arange(100)).rows()[0]
    assert (row["balanced_accuracy"], row["recall"], row["specificity"]) == (1, 1, 1)
    assert row["accuracy"] == 0.96  # at a prevalence of 4 % nobody would bet on the class
    assert math.isnan(row["precision"])


@pytest.mark.parametrize("classes", [2, 4])
def test_many_predictors_at_once_equal_each_alone(classes: int):
    label, documents, even, natural = predictions(classes, n=150, lead=(2, 3))
    documents %= 7
    labels = torch.stack([label, label.roll(7)])[:, None]
    kept = torch.rand(3, 150, generator=torch.Generator().manual_seed(3)) < 0.7
    every = judge(even, natural, labels, documents, keep=kept, draws=50).rows()
    for index, row in enumerate(every):
        i, j = divmod(index, 3)
        rows = kept[j]
        alone = judge(even[i, j][rows], natural[i, j][rows], labels[i, 0][rows], documents[rows],
                      draws=50).rows()[0]  # fmt: skip
        assert row == pytest.approx(alone, abs=1e-12, nan_ok=True)
        whole = judge(even[i, j], natural[i, j], labels[i, 0], documents, keep=rows, draws=50)
        assert whole.rows()[0] == pytest.approx(alone, abs=1e-12, nan_ok=True)


def test_examples_left_out_may_be_nan_and_others_may_not():
    label, documents, even, natural = predictions(2, n=60)
    broken = even.clone()
    broken[5] = torch.nan
    keep = (torch.arange(60) != 5).expand(1, 60)
    row = judge(broken, natural, label, documents, keep=keep).rows()[0]
    assert row["n"] == 59
    assert math.isfinite(row["balanced_accuracy"])
    with pytest.raises(UserError, match="NaN"):
        judge(broken, natural, label, documents)


def test_intervals_over_documents_hold_the_truth():
    """300 samples of documents, each of its own difficulty; the truth is the mean difficulty."""
    generator = torch.Generator().manual_seed(1)
    samples, docs, each = 300, 60, 16
    ease = 0.5 + 0.5 * torch.rand(samples, docs, 2, generator=generator)  # mean 0.75
    document = torch.arange(docs).repeat_interleave(each)
    label = (torch.arange(docs * each) % 2).expand(samples, -1)
    chance = ease[:, document].gather(-1, label[..., None])[..., 0]
    right = torch.rand(chance.shape, generator=generator) < chance
    even = forced(torch.where(right, label, 1 - label))
    found = judge(even, even, label, document, draws=400)
    held = (found.low <= 0.75) & (found.high >= 0.75)
    assert 0.91 <= held.double().mean() <= 0.98
    # as if every example were a document of its own: too sure
    naive = judge(even, even, label, torch.arange(docs * each), draws=200)
    assert (
        (naive.low <= 0.75) & (naive.high >= 0.75)
    ).double().mean() < held.double().mean() - 0.03


def test_one_document_has_no_interval():
    label, documents, even, natural = predictions(2, n=80)
    keep = torch.stack([documents == documents[0], torch.ones(80, dtype=torch.bool)])
    found = judge(even, natural, label, documents, keep=keep)
    assert found.low.isnan().tolist() == found.high.isnan().tolist() == [True, False]


def test_a_class_that_is_missing_is_said_by_nan_in_two_and_left_out_of_more():
    documents = torch.arange(6)
    even = forced(torch.tensor([0, 1, 0, 0, 0, 1]))
    assert judge(even, even, torch.zeros(6, dtype=int), documents).balanced_accuracy.isnan()
    called, label = torch.tensor([0, 1, 2, 0, 1, 1]), torch.tensor([0, 1, 1, 0, 1, 1])
    three = judge(forced(called, 3), forced(called, 3), label, documents)
    assert float(three.balanced_accuracy) == pytest.approx((1 + 3 / 4) / 2)


def test_predicting_one_class_is_told_from_nearly_and_from_doing_well():
    label = torch.tensor([0] * 200 + [1] * 200)
    nearly, bad, inverse = (torch.ones(400, dtype=int) for _ in range(3))
    nearly[:90] = 0  # 45 % of one, all of the other
    bad[:150], bad[200:230] = 0, 0  # 75 % and 85 %
    inverse[200:395] = 0  # 2.5 % of the second, none of the first
    well = label.clone()
    well[:70] = 1  # 65 % and 100 %: above the line
    called = torch.stack([torch.ones_like(label), nearly, bad, inverse, well])
    found = judge(forced(called), forced(called), label, torch.arange(400), draws=20)
    names = ("other", " the")
    assert one_sided(found, names) == ["predicts only ' the'", None, None, None, None]
    told = reward_hacking(found, names)
    assert told[1] == "one-sided (reward hacking): finds 100.0% of ' the' and 45.0% of 'other'"
    assert [one is not None for one in told] == [True, True, False, True, False]


def test_rare_classes_that_are_missed_are_no_reward_hacking():
    label = torch.tensor([0] * 90 + [1] * 90 + [2] * 5)
    fair = torch.cat([label[:90].clone(), label[90:180], torch.zeros(5, dtype=int)])
    fair[:20], fair[90:95] = 1, 0
    lazy = torch.zeros_like(label)
    lazy[0] = 1
    called = torch.stack([fair, lazy])
    found = judge(forced(called, 3), forced(called, 3), label, torch.arange(185), draws=20)
    assert [one is None for one in reward_hacking(found)] == [True, False]
    assert one_sided(found) == [None, None]


def test_confusion_rows_count_every_example_once_for_each_odds():
    label, documents, even, natural = predictions(4)
    rows = confusion_rows(judge(even, natural, label, documents), ["O", "PER", "LOC", "ORG"])
    assert len(rows) == 32
    assert sum(row["count"] for row in rows if row["odds"] == "even") == 400
    table = metrics.confusion_matrix(label.numpy(), natural.argmax(-1).numpy())
    counts = [row["count"] for row in rows if row["odds"] == "natural"]
    assert counts == table.flatten().tolist()
    assert {row["label"] for row in rows} == {"O", "PER", "LOC", "ORG"}


def rare(n: int = 20_000, seed: int = 0):
    """A calibrated predictor of a class of about 4 %."""
    generator = torch.Generator().manual_seed(seed)
    z = 1.5 * torch.randn(n, generator=generator, dtype=torch.float64) - 4.1
    label = (torch.rand(n, generator=generator) < z.sigmoid()).long()
    natural = torch.stack([-z, z], -1)
    return torch.nn.functional.logsigmoid(natural), label, torch.arange(n) // 50


def test_reliability_is_the_means_within_its_bins():
    natural, label, documents = rare()
    rows = reliability(natural, label, documents)
    p = natural[:, 1].exp()
    assert sum(row["count"] for row in rows) == len(p)
    order, start = p.argsort(), 0
    for row in rows:
        members = order[start : start + row["count"]]
        start += row["count"]
        assert row["predicted"] == pytest.approx(float(p[members].mean()))
        assert row["observed"] == pytest.approx(float(label[members].double().mean()))
        assert row["low"] <= row["observed"] <= row["high"]
        assert float((p[members] * (1 - p[members])).sum()) == pytest.approx(
            float((p * (1 - p)).sum() / 15), rel=0.05
        )


def test_reliability_of_a_rare_class_shows_low_and_high_probabilities():
    rows = reliability(*rare())
    assert len(rows) == 15
    assert rows[0]["predicted"] < 0.01
    assert rows[-1]["predicted"] > 0.4
    assert min(row["observed"] for row in rows) > 0  # no bin too small to see the class
    inside = [row["low"] <= row["predicted"] <= row["high"] for row in rows]
    assert sum(inside) >= 12


def test_equal_probabilities_share_a_bin():
    p = torch.tensor([0.1] * 30 + [0.7] * 10, dtype=torch.float64)
    natural = torch.stack([1 - p, p], -1).log()
    rows = reliability(natural, (torch.arange(40) % 3 == 0).long(), torch.arange(40))
    assert [(row["count"], row["bin"]) for row in rows] == [(30, 0), (10, 1)]
    certain = reliability(
        forced(torch.ones(8, dtype=int)), torch.ones(8, dtype=int), torch.arange(8)
    )
    assert [row["observed"] for row in certain] == [1.0]


def test_reliability_of_many_classes_is_that_of_the_likeliest():
    label, documents, _, natural = predictions(4)
    rows = reliability(natural, label, documents, 5)
    right = (natural.argmax(-1) == label).double().mean()
    assert sum(row["observed"] * row["count"] for row in rows) / 400 == pytest.approx(float(right))


def test_nothing_to_score_and_labels_out_of_range_are_refused():
    label, documents, even, natural = predictions(2, n=20)
    nothing = torch.zeros(20, dtype=torch.bool)
    with pytest.raises(UserError, match="no examples"):
        judge(even, natural, label, documents, keep=nothing)
    with pytest.raises(UserError, match="expected classes 0 to 1"):
        judge(even, natural, label + 1, documents)
    with pytest.raises(UserError, match="do not go together"):
        judge(even, natural[:5], label, documents)


def test_few_documents_are_drawn_in_stretches_of_neighbours() -> None:
    documents = torch.tensor([7] * 300 + [2] * 100)
    groups, whole = drawn_groups(documents)
    assert not whole
    assert len(groups.unique()) == 50
    assert len(groups[:300].unique()) == 38
    assert len(groups[300:].unique()) == 12
    assert bool((groups[:300].diff() >= 0).all())  # neighbours stay together
    assert set(groups[:300].tolist()).isdisjoint(groups[300:].tolist())
    many = torch.arange(10).repeat_interleave(3)
    assert drawn_groups(many)[1]
    assert torch.equal(drawn_groups(many)[0], many)


def test_a_document_of_one_example_is_a_stretch() -> None:
    groups, _ = drawn_groups(torch.tensor([0] * 99 + [1]))
    assert len(groups[:99].unique()) in (49, 50)
    assert groups[99] not in groups[:99]


def test_ten_examples_that_are_all_recognised_are_no_certainty() -> None:
    """Every draw of documents says 1; Wilson's interval of 10 of 10 begins at 0.722."""
    label = torch.tensor([1] * 10 + [0] * 2000)
    even = torch.nn.functional.one_hot(label, 2).double().clamp(min=1e-9).log()
    row = judge(even, even, label, torch.arange(2010) % 40).rows()[0]
    assert row["balanced_accuracy"] == 1
    assert row["low"] == pytest.approx(1 - (1 - 0.722467) / 2, abs=1e-3)


def test_the_interval_of_a_rare_class_holds_the_truth() -> None:
    draw = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(200):
        documents = torch.randint(9, (600,), generator=draw).sort().values
        label = torch.zeros(600, dtype=torch.int64)
        label[torch.randperm(600, generator=draw)[:10]] = 1
        right = torch.rand(600, generator=draw) < torch.where(label == 1, 0.9, 0.85)
        even = torch.nn.functional.one_hot(torch.where(right, label, 1 - label), 2).double()
        groups, _ = drawn_groups(documents)
        row = judge(even.clamp(min=1e-9).log(), even.log(), label, groups, draws=100).rows()[0]
        held += row["low"] <= 0.875 <= row["high"]
    assert held >= 186  # 93 %; by draws of documents alone 38 % of 9 documents' intervals did
