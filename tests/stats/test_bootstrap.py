"""Intervals: coverage, groups drawn whole, and seeds against Student's t."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from cutaway.base.errors import UserError
from cutaway.stats import scores
from cutaway.stats.bootstrap import (
    group_draws,
    mean_interval,
    paired_difference,
    score_interval,
    seed_interval,
    student_quantile,
)


def test_a_draw_takes_as_many_groups_as_there_are_and_each_of_them_whole():
    groups = torch.tensor([7, 7, 3, 9, 9, 9])
    counts, member = group_draws(groups, draws=500, seed=1)
    assert counts.shape == (500, 3)
    assert (counts.sum(1) == 3).all()
    assert member.tolist() == [1, 1, 0, 2, 2, 2]
    assert counts.mean(0).tolist() == pytest.approx([1, 1, 1], abs=0.15)
    assert torch.equal(counts, group_draws(groups, draws=500, seed=1)[0])
    assert not torch.equal(counts, group_draws(groups, draws=500, seed=2)[0])


def test_the_interval_of_a_mean_is_that_of_theory():
    values = torch.tensor(np.random.default_rng(0).normal(3, 2, 400))
    mean, low, high = mean_interval(values, torch.arange(400), draws=4000)
    half = 1.96 * float(values.std()) / 20
    assert float(mean) == pytest.approx(float(values.mean()))
    assert float(low) == pytest.approx(float(mean) - half, abs=0.03)
    assert float(high) == pytest.approx(float(mean) + half, abs=0.03)


def test_copies_within_a_document_do_not_make_the_interval_smaller():
    values = torch.tensor(np.random.default_rng(0).normal(size=50))
    _, low, high = mean_interval(values, torch.arange(50))
    copied = mean_interval(values.repeat_interleave(20), torch.arange(50).repeat_interleave(20))
    naive = mean_interval(values.repeat_interleave(20), torch.arange(1000))
    assert float(copied[2] - copied[1]) == pytest.approx(float(high - low))
    assert float(naive[2] - naive[1]) < 0.4 * float(high - low)


def test_an_interval_of_nineteen_in_twenty_covers_the_truth_about_that_often():
    random = np.random.default_rng(4)
    means = random.normal(size=(400, 60, 1)) + random.normal(size=(400, 60, 5))
    values = torch.tensor(means.reshape(400, 300))
    _, low, high = mean_interval(values, torch.arange(60).repeat_interleave(5))
    covered = float(((low <= 0) & (high >= 0)).double().mean())
    assert 0.90 <= covered <= 0.98


def test_any_weighted_score_has_an_interval_and_a_mean_has_the_same_both_ways():
    random = np.random.default_rng(5)
    y = torch.tensor((random.random(200) < 0.4).astype(int))
    p = torch.tensor(0.3 * y.numpy() + random.random(200))
    groups = torch.arange(200) // 4
    low, high = score_interval(lambda weight: scores.auroc(y, p, weight), groups)
    assert float(low) < float(scores.auroc(y, p)) < float(high)
    assert 0.05 < float(high - low) < 0.3
    right = ((p > 0.6).int() == y).double()
    found = score_interval(lambda weight: (right * weight).sum(-1) / weight.sum(-1), groups)
    _, *expected = mean_interval(right, groups)
    assert [float(one) for one in found] == pytest.approx([float(one) for one in expected])


def test_each_draw_is_scored_as_its_samples_would_be():
    random = np.random.default_rng(6)
    y, p = (random.random(30) < 0.5).astype(int), np.round(random.random(30), 1)
    groups = np.arange(30) // 3
    counts, member = group_draws(torch.tensor(groups), draws=20)
    found = scores.auroc(torch.tensor(y), torch.tensor(p), counts[:, member])
    for draw in range(20):
        taken = np.concatenate(
            [np.repeat(np.flatnonzero(groups == g), int(c)) for g, c in enumerate(counts[draw])]
        )
        expected = scores.auroc(torch.tensor(y[taken]), torch.tensor(p[taken]))
        assert float(found[draw]) == pytest.approx(float(expected))


def test_one_document_says_nothing_about_others():
    _, low, high = mean_interval(torch.ones(5), torch.zeros(5, dtype=torch.int64))
    assert bool(low.isnan() & high.isnan())


def test_draws_without_a_class_are_left_out():
    y = torch.tensor([1, 0, 0, 0])
    low, high = score_interval(
        lambda weight: scores.auroc(y, torch.tensor([3.0, 2, 1, 0]), weight), torch.arange(4)
    )
    assert (float(low), float(high)) == (1, 1)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_the_interval_over_seeds_is_students(level):
    values = [0.71, 0.74, 0.69, 0.75, 0.70]
    found = seed_interval(values, level)
    expected = stats.t.interval(level, 4, np.mean(values), stats.sem(values))
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx(expected)


def test_students_quantiles_are_scipys():
    for degrees in (1, 2, 3, 4, 9, 30, 101):
        assert student_quantile(0.975, degrees) == pytest.approx(stats.t.ppf(0.975, degrees))


def test_a_difference_between_paired_seeds_is_seen_where_single_ones_overlap():
    a = [0.50, 0.60, 0.70, 0.80]
    b = [value - 0.02 - 0.001 * index for index, value in enumerate(a)]
    found = paired_difference(a, b)
    assert found.mean == pytest.approx(0.0215)
    assert not found.within_noise
    assert seed_interval(a).low < seed_interval(b).high
    assert paired_difference(a, a[::-1]).within_noise
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_seed_has_no_interval_and_its_difference_counts_as_noise():
    found = seed_interval([0.4])
    assert found.value == 0.4
    assert math.isnan(found.low)
    assert paired_difference([0.9], [0.1]).within_noise
    assert paired_difference([0.9, math.nan], [0.1, 0.2]).within_noise


def test_seeds_that_do_not_pair_are_refused():
    with pytest.raises(UserError, match="2 values against 1"):
        paired_difference([1, 2], [1])
    with pytest.raises(UserError, match="got none"):
        seed_interval([])
