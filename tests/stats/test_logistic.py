"""The batched solver against scikit-learn, problem by problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from cutaway.base.errors import UserError
from cutaway.stats import logistic, whitened
from cutaway.stats.logistic import fit_logistic


def truth(x, y, c=1.0, weight=None):
    """Coefficients by Newton's method to machine precision: lbfgs stops early on bad scales."""
    model = LogisticRegression(C=c, tol=1e-8, max_iter=10_000, solver="newton-cholesky")
    model.fit(np.asarray(x, dtype=np.float64), np.asarray(y), weight)
    return model.coef_[0], model.intercept_[0]


def agree(fit, x, y, c=1.0, weight=None, at=(), within=1e-4):
    expected, bias = truth(x, y, c, weight)
    found = fit.weight[at].double().numpy()
    assert np.linalg.norm(found - expected) <= within * np.linalg.norm(expected)
    assert float(fit.bias[at]) == pytest.approx(bias, abs=within * (1 + abs(bias)))
    assert bool(fit.converged[at])


def problem(n=300, d=10, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d))
    return x, (x[:, 0] + random.normal(size=n) > 0.3).astype(np.int64), random


def plain():
    x, y, _ = problem()
    return x, y, 1.0


def separable():
    x, _, _ = problem()
    return x, (x[:, 0] > 0).astype(np.int64), 1000.0


def one_hot_with_a_rare_class():
    random = np.random.default_rng(1)
    return np.eye(50)[random.integers(0, 50, 400)], (random.random(400) < 0.02).astype(int), 10.0


def unscaled_and_far_from_zero():
    x, y, _ = problem()
    return x * np.logspace(-2, 3, 10) + 100, y, 1.0


def collinear():
    x, y, _ = problem()
    return np.concatenate([x, x[:, :3], np.ones((300, 1))], 1), y, 100.0


def more_columns_than_rows():
    x, y, _ = problem(n=100, d=400)
    return x, y, 1.0


def with_a_huge_column():
    """As hidden states are: correlated, one direction a thousand times the others, many columns."""
    x, _, random = problem(n=900, d=200)
    x = x * np.exp(random.normal(size=200))
    x[:, 0] = 20 * x[:, 0] + 1000
    x = x @ np.linalg.qr(random.normal(size=(200, 200)))[0]
    score = x @ random.normal(size=200)
    return x, (score > np.median(score)).astype(np.int64), 0.01


CASES = [
    plain,
    separable,
    one_hot_with_a_rare_class,
    unscaled_and_far_from_zero,
    collinear,
    more_columns_than_rows,
    with_a_huge_column,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_coefficients_are_those_of_scikit_learn(case, dtype):
    x, y, c = case()
    x = torch.tensor(x, dtype=dtype)
    fit = fit_logistic(x, torch.tensor(y), c=c)
    assert fit.weight.dtype == dtype
    agree(fit, x, y, c)


@pytest.mark.parametrize("direct", [0, 1000], ids=["conjugate gradients", "Cholesky"])
def test_both_ways_to_a_newton_step_find_the_same(direct, monkeypatch):
    monkeypatch.setattr(logistic, "_DIRECT", direct)
    for case in CASES:
        x, y, c = case()
        agree(fit_logistic(torch.tensor(x), torch.tensor(y), c=c), x, y, c)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_states_that_are_never_rotated_give_the_same(case, dtype, monkeypatch):
    monkeypatch.setattr(whitened, "_FORMED", 0)
    monkeypatch.setattr(whitened, "_FEW", 0)
    monkeypatch.setattr(whitened, "_BLOCK", 1)
    x, y, c = case()
    x = torch.tensor(x, dtype=dtype)
    agree(fit_logistic(x, torch.tensor(y), c=c), x, y, c)


def random_problem(seed):
    """Rows, columns, scales, means, balance, strength and weights all drawn; every third problem
    separable, every third collinear, some both wide and separable."""
    random = np.random.default_rng(seed)
    n, d = int(random.integers(60, 600)), int(random.integers(2, 160))
    x = random.normal(size=(n, d)) @ random.normal(size=(d, d)) + random.normal(size=d) * 10
    if seed % 3 == 1:
        x = np.concatenate([x, x @ random.normal(size=(d, 5)), np.full((n, 1), 7.0)], 1)
    score = (x - x.mean(0)) @ random.normal(size=x.shape[1])
    if seed % 3:
        score = score + score.std() * random.normal(size=n)
    y = (score > np.quantile(score, random.uniform(0.2, 0.8))).astype(np.int64)
    return x, y, float(10 ** random.uniform(-4, 2)), random.exponential(size=n)


@pytest.mark.parametrize("seed", range(10))
def test_ten_random_problems_have_scikit_learns_coefficients_and_free_intercept(seed):
    x, y, c, weight = random_problem(seed)
    fit = fit_logistic(torch.tensor(x), torch.tensor(y), c=c, weight=torch.tensor(weight))
    agree(fit, x, y, c, weight)
    # Free: were it penalised, weights could not have the labels' own sum.
    predicted = torch.sigmoid(fit.logits(torch.tensor(x))).numpy()
    assert (weight * predicted).sum() == pytest.approx((weight * y).sum(), rel=1e-5)
    narrow = torch.tensor(x, dtype=torch.float32)
    fit = fit_logistic(narrow, torch.tensor(y), c=c, weight=torch.tensor(weight))
    agree(fit, narrow, y, c, weight, within=1e-3)


@pytest.mark.parametrize("unit", [2.0**40, 2.0**-40])
@pytest.mark.parametrize("formed", [0, 128])
def test_the_unit_of_the_states_does_not_matter(unit, formed, monkeypatch):
    monkeypatch.setattr(whitened, "_FORMED", formed)
    x, y, _ = problem()
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    fit, scaled = fit_logistic(x, y), fit_logistic(x * unit, y, c=unit**-2)
    torch.testing.assert_close(scaled.weight * unit, fit.weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scaled.bias, fit.bias, rtol=1e-4, atol=1e-6)


def test_layers_of_one_call_may_need_different_care(monkeypatch):
    """One whose directions float32 tells, one it does not, one with directions that are absent."""
    monkeypatch.setattr(whitened, "_FORMED", 0)
    x, y, random = problem(n=400, d=12)
    turn = np.linalg.qr(random.normal(size=(12, 12)))[0]
    layers = [x, x * np.logspace(0, 4, 12) @ turn, np.concatenate([x[:, :8], x[:, :4]], 1)]
    for some in ([0], [0, 1], [1, 2], [0, 1, 2]):
        fit = fit_logistic(torch.tensor(np.stack([layers[at] for at in some])), torch.tensor(y))
        for row, at in enumerate(some):
            agree(fit, layers[at], y, at=(row,))


def test_the_loss_cannot_be_lowered_by_moving_a_coefficient():
    x, y, _ = problem()
    fit = fit_logistic(torch.tensor(x), torch.tensor(y), c=3.0)

    def loss(weight, bias):
        z = torch.tensor(x) @ weight + bias
        data = torch.nn.functional.softplus(z) - torch.tensor(y) * z
        return float(weight.square().sum() / 2 + 3.0 * data.sum())

    least = loss(fit.weight, fit.bias)
    for index in range(10):
        for step in (-1e-3, 1e-3):
            moved = fit.weight.clone()
            moved[index] += step
            assert loss(moved, fit.bias) > least
    assert loss(fit.weight, fit.bias + 1e-3) > least < loss(fit.weight, fit.bias - 1e-3)


def test_every_layer_label_and_strength_in_one_call_equals_each_alone():
    random = np.random.default_rng(2)
    x = torch.tensor(random.normal(size=(3, 200, 6)) * [[[1.0]], [[10.0]], [[0.1]]])
    y = torch.tensor((random.random((2, 200)) < 0.4).astype(int))
    c = torch.tensor([0.01, 1.0, 50.0, 3.0])
    fit = fit_logistic(x[:, None, None], y[:, None], c=c)
    assert fit.weight.shape == (3, 2, 4, 6)
    assert fit.bias.shape == fit.converged.shape == (3, 2, 4)
    for layer in range(3):
        for label in range(2):
            for strength in range(4):
                at = (layer, label, strength)
                agree(fit, x[layer], y[label], float(c[strength]), at=at)
    logits = fit.logits(x[:, None, None])
    assert logits.shape == (3, 2, 4, 200)
    expected = x[1] @ fit.weight[1, 0, 3] + fit.bias[1, 0, 3]
    torch.testing.assert_close(logits[1, 0, 3], expected)


def test_layers_may_stand_behind_the_labels():
    random = np.random.default_rng(3)
    x = torch.tensor(random.normal(size=(2, 100, 4)))
    y = torch.tensor((random.random((3, 1, 100)) < 0.4).astype(int))
    fit = fit_logistic(x, y)
    assert fit.weight.shape == (3, 2, 4)
    agree(fit, x[1], y[2, 0], at=(2, 1))


def test_labels_that_share_x_equal_each_alone_and_memory_limits_change_nothing(monkeypatch):
    x, _, random = problem(d=5)
    y = torch.tensor((random.random((7, 300)) < 0.4).astype(int))
    whole = fit_logistic(torch.tensor(x), y)
    for label in range(7):
        agree(whole, x, y[label], at=(label,))
    monkeypatch.setattr(logistic, "WORKING_BYTES", 1)
    torch.testing.assert_close(fit_logistic(torch.tensor(x), y).weight, whole.weight)
    torch.testing.assert_close(
        whole.logits(torch.tensor(x))[3], torch.tensor(x) @ whole.weight[3] + whole.bias[3]
    )


def test_sample_weights_are_those_of_scikit_learn_and_zero_means_absent():
    x, y, random = problem()
    weight = random.exponential(size=300)
    fit = fit_logistic(torch.tensor(x), torch.tensor(y), c=2.0, weight=torch.tensor(weight))
    agree(fit, x, y, 2.0, weight)
    kept = np.arange(300) < 200
    fold = fit_logistic(torch.tensor(x), torch.tensor(y), weight=torch.tensor(kept.astype(float)))
    agree(fold, x[kept], y[kept])


def test_constant_states_leave_the_prior_alone():
    y = torch.tensor([1, 1, 1, 0])
    fit = fit_logistic(torch.full((4, 3), 5.0), y)
    assert float(fit.weight.norm()) < 1e-6
    assert float(fit.bias) == pytest.approx(np.log(3), abs=1e-5)


def test_too_few_iterations_are_said():
    x, y, c = separable()
    assert not bool(fit_logistic(torch.tensor(x), torch.tensor(y), c=c, max_iterations=3).converged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.ones(20)}, "y: all labels are 1; a probe needs both classes"),
        ({"y": torch.zeros(2, 20)}, "problem 0: all labels are 0; a probe needs both classes"),
        ({"y": torch.arange(20)}, "y: expected labels 0 and 1 only"),
        ({"y": torch.ones(19)}, r"y: shape \(19,\), expected \(..., 20\)"),
        ({"c": 0.0}, "c = 0.0: expected finite strengths above 0"),
        ({"weight": -torch.ones(20)}, "weight: expected finite sample weights"),
        ({"weight": (torch.arange(20) % 2).double()}, "y: all labels are 1"),
        ({"x": torch.full((20, 3), torch.nan)}, "x: holds values that are not finite"),
        ({"x": torch.ones(20, 3, dtype=torch.int64)}, "x: expected floats"),
        (
            {"x": torch.ones(2, 20, 3), "y": torch.ones(3, 20)},
            "leading axes that do not go together",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(change, message):
    asked = {"x": torch.randn(20, 3), "y": torch.arange(20) % 2, **change}
    with pytest.raises(UserError, match=message) as caught:
        fit_logistic(asked.pop("x"), asked.pop("y"), **asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", [37, 150, 1001])
def test_rows_that_are_all_the_same_get_no_weight_at_all(rows: int) -> None:
    """A mean with rounding in it would leave a column that looks like a direction."""
    row = torch.randn(1, 8, generator=torch.Generator().manual_seed(rows)) * 3 + 1
    x, y = row.expand(rows, 8).clone(), (torch.arange(rows) % 3 == 0).long()
    found = fit_logistic(x, y)
    assert not found.weight.any()
    assert float(found.bias) == pytest.approx(float(torch.logit(y.double().mean())), abs=1e-5)
