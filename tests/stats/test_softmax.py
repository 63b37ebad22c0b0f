"""The batched multinomial solver against scikit-learn, problem by problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from cutaway.base.errors import UserError
from cutaway.stats import softmax, whitened
from cutaway.stats.logistic import fit_logistic
from cutaway.stats.softmax import fit_softmax


def truth(x, y, c=1.0, weight=None):
    """Newton's method on the whole Hessian, to machine precision."""
    model = LogisticRegression(C=c, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
    model.fit(np.asarray(x, dtype=np.float64), np.asarray(y), weight)
    return model.coef_, model.intercept_ - model.intercept_.mean()


def agree(fit, x, y, c=1.0, weight=None, at=(), within=1e-4):
    expected, bias = truth(x, y, c, weight)
    found = fit.weight[at].double().numpy()
    assert np.linalg.norm(found - expected) <= within * np.linalg.norm(expected)
    assert fit.bias[at].numpy() == pytest.approx(bias, abs=within * (1 + np.abs(bias).max()))
    assert bool(fit.converged[at])


def problem(classes, n=300, d=10, seed=0, noise=1.0):
    """Labels: the largest of as many random scores, each with noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d))
    scores = x @ random.normal(size=(d, classes)) + noise * random.normal(size=(n, classes))
    return x, scores.argmax(1), random


def plain(classes):
    return *problem(classes)[:2], 1.0, None


def separable(classes):
    return *problem(classes, noise=0.0)[:2], 1000.0, None


def collinear(classes):
    x, y, _ = problem(classes)
    return np.concatenate([x, x[:, :3], np.ones((300, 1))], 1), y, 100.0, None


def more_columns_than_rows(classes):
    return *problem(classes, n=100, d=180)[:2], 1.0, None


def unbalanced_with_weights(classes):
    x, y, random = problem(classes, n=600)
    keep = (y != 0) | (random.random(600) < 0.1)
    return (
        x[keep],
        y[keep],
        3.0,
        (1 / np.bincount(y[keep]))[y[keep]] * random.exponential(size=keep.sum()),
    )


def unscaled_and_far_from_zero(classes):
    x, y, _ = problem(classes)
    return x * np.logspace(-2, 3, 10) + 100, y, 1.0, None


def with_a_huge_column(classes):
    x, _, random = problem(classes, n=900, d=80)
    x = x * np.exp(random.normal(size=80))
    x[:, 0] = 20 * x[:, 0] + 1000
    x = x @ np.linalg.qr(random.normal(size=(80, 80)))[0]
    scores = (x - x.mean(0)) @ random.normal(size=(80, classes))
    return x, scores.argmax(1), 0.01, None


CASES = [
    plain,
    separable,
    collinear,
    more_columns_than_rows,
    unbalanced_with_weights,
    unscaled_and_far_from_zero,
    with_a_huge_column,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("classes", [3, 5])
def test_coefficients_are_those_of_scikit_learn(case, classes):
    x, y, c, weight = case(classes)
    given = None if weight is None else torch.tensor(weight)
    fit = fit_softmax(torch.tensor(x), torch.tensor(y), classes, c=c, weight=given)
    agree(fit, x, y, c, weight)
    narrow = torch.tensor(x, dtype=torch.float32)
    fit = fit_softmax(narrow, torch.tensor(y), classes, c=c, weight=given)
    assert fit.weight.dtype == torch.float32
    agree(fit, narrow, y, c, weight, within=1e-3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_states_that_are_never_rotated_give_the_same(case, monkeypatch):
    monkeypatch.setattr(whitened, "_FORMED", 0)
    monkeypatch.setattr(whitened, "_FEW", 0)
    monkeypatch.setattr(whitened, "_BLOCK", 1)
    x, y, c, weight = case(3)
    given = None if weight is None else torch.tensor(weight)
    agree(fit_softmax(torch.tensor(x), torch.tensor(y), 3, c=c, weight=given), x, y, c, weight)


def test_the_gradient_is_zero_at_the_solution():
    x, y, random = problem(4)
    x, y, s = torch.tensor(x), torch.tensor(y), torch.tensor(random.exponential(size=300))
    fit = fit_softmax(x, y, 4, c=2.0, weight=s, tolerance=1e-9)
    w, b = fit.weight.clone().requires_grad_(), fit.bias.clone().requires_grad_()
    each = torch.nn.functional.cross_entropy(x @ w.T + b, y, reduction="none")
    (w.square().sum() / 2 + 2.0 * (s * each).sum()).backward()
    assert float(w.grad.norm()) < 1e-6 * float(fit.weight.norm())
    assert float(b.grad.norm()) < 1e-6 * float(fit.weight.norm())


def test_intercepts_sum_to_zero_and_so_do_the_classes_weights():
    x, y, _ = problem(4)
    fit = fit_softmax(torch.tensor(x) + 5, torch.tensor(y), 4, c=2.0)
    assert float(fit.bias.sum()) == pytest.approx(0, abs=1e-9)
    assert float(fit.weight.sum(0).norm()) < 1e-6 * float(fit.weight.norm())


def test_two_classes_are_half_of_a_logistic_fit_of_twice_the_strength():
    x, y, random = problem(2)
    x, y, s = torch.tensor(x), torch.tensor(y), torch.tensor(random.exponential(size=300))
    two = fit_softmax(x, y, 2, c=0.7, weight=s)
    one = fit_logistic(x, y, c=1.4, weight=s)
    torch.testing.assert_close(
        two.weight, torch.stack([-one.weight, one.weight]) / 2, rtol=1e-5, atol=1e-7
    )
    torch.testing.assert_close(
        two.bias, torch.stack([-one.bias, one.bias]) / 2, rtol=1e-5, atol=1e-7
    )
    logits = two.logits(x)
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], one.logits(x), rtol=1e-5, atol=1e-6)


def test_every_layer_label_and_strength_in_one_call_equals_each_alone(monkeypatch):
    random = np.random.default_rng(2)
    x = torch.tensor(random.normal(size=(2, 200, 6)) * [[[1.0]], [[10.0]]])
    y = torch.tensor(random.integers(0, 3, (2, 200)))
    c = torch.tensor([0.01, 1.0, 50.0])
    fit = fit_softmax(x[:, None, None], y[:, None], 3, c=c)
    assert fit.weight.shape == (2, 2, 3, 3, 6)
    assert fit.bias.shape == (2, 2, 3, 3)
    assert fit.converged.shape == fit.iterations.shape == (2, 2, 3)
    for at in np.ndindex(2, 2, 3):
        agree(fit, x[at[0]], y[at[1]], float(c[at[2]]), at=at)
    logits = fit.logits(x[:, None, None])
    assert logits.shape == (2, 2, 3, 200, 3)
    expected = x[1] @ fit.weight[1, 0, 2].T + fit.bias[1, 0, 2]
    torch.testing.assert_close(logits[1, 0, 2], expected)
    shared = fit_softmax(x[0], y, 3)
    assert shared.logits(x[0]).shape == (2, 200, 3)
    agree(shared, x[0], y[1], at=(1,))
    monkeypatch.setattr(softmax, "WORKING_BYTES", 1)
    torch.testing.assert_close(fit_softmax(x[:, None, None], y[:, None], 3, c=c).weight, fit.weight)


def test_rows_of_weight_zero_are_absent():
    x, y, _ = problem(3)
    kept = np.arange(300) < 200
    fit = fit_softmax(torch.tensor(x), torch.tensor(y), 3, weight=torch.tensor(kept.astype(float)))
    agree(fit, x[kept], y[kept])


def test_constant_states_leave_the_prior_alone():
    y = torch.tensor([0, 1, 1, 2, 2, 2])
    fit = fit_softmax(torch.full((6, 3), 5.0), y, 3)
    assert float(fit.weight.norm()) < 1e-6
    torch.testing.assert_close(fit.bias.softmax(0), torch.tensor([1.0, 2.0, 3.0]) / 6)


def test_too_few_iterations_are_said():
    x, y, c, _ = separable(3)
    fit = fit_softmax(torch.tensor(x), torch.tensor(y), 3, c=c, max_iterations=3)
    assert not bool(fit.converged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.arange(20) % 2}, "y: no row is of class 2; a probe needs all 3"),
        (
            {"y": torch.stack([torch.arange(20) % 3, torch.arange(20) % 2 * 2])},
            "problem 1: no row is of class 1; a probe needs all 3",
        ),
        ({"weight": (torch.arange(20) % 3 != 0).double()}, "y: no row is of class 0"),
        ({"y": torch.arange(20) % 4}, "y: expected whole labels 0 to 2 only"),
        ({"y": torch.arange(20) % 3 - 0.5}, "y: expected whole labels 0 to 2 only"),
        ({"y": torch.ones(19)}, r"y: shape \(19,\), expected \(..., 20\)"),
        ({"n_classes": 1}, "n_classes = 1: expected 2 or more"),
        ({"c": -1.0}, "c = -1.0: expected finite strengths above 0"),
        ({"x": torch.full((20, 3), torch.inf)}, "x: holds values that are not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(change, message):
    asked = {"x": torch.randn(20, 3), "y": torch.arange(20) % 3, "n_classes": 3, **change}
    with pytest.raises(UserError, match=message) as caught:
        fit_softmax(asked.pop("x"), asked.pop("y"), asked.pop("n_classes"), **asked)
    assert "\n" not in str(caught.value)
