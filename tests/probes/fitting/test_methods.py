"""Exact probes: scikit-learn's coefficients, an honest strength, probabilities that are true."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.probes.fitting.methods import (
    class_weights,
    evened,
    fit_layer,
    fit_mass_mean,
    normalisation,
    normalised,
    trained_prior,
)

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)


def drawn(rows: int, *, classes: int = 2, width: int = 6, signal: float = 1.0, seed: int = 0):
    """States with large means, of which a few directions tell the classes apart in part."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (rows,), generator=draw)
    directions = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    x = torch.randn(rows, width, generator=draw) + signal * directions[label]
    return 3 * x + 20, label


def fits_of(train, validation, documents=None, **over):
    (x, label), (held_x, held) = train, validation
    documents = torch.arange(held.shape[-1]) // 5 if documents is None else documents
    sets, held = (one[None] if one.ndim == 1 else one for one in (label, held))
    known = {"n_classes": 2, "strengths": STRENGTHS}
    return fit_layer(x, sets, held_x, held, documents, **{**known, **over})


def balanced_loss(even: Tensor, label: Tensor) -> float:
    """By hand: the mean over classes of −log p of their examples."""
    lost = -even[torch.arange(len(label)), label]
    return float(torch.stack([lost[label == one].mean() for one in label.unique()]).mean())


# -- normalisation and weights ---------------------------------------------------------------------


def test_the_median_column_of_normalised_states_has_variance_one() -> None:
    x, _ = drawn(4000, width=7)
    x = x * torch.tensor([1.0, 2, 3, 4, 5, 6, 1000])
    mean, scale = normalisation(x)
    found = normalised(x, mean, scale)
    assert found.mean(0).abs().max() < 1e-2
    spread = found.double().var(0, correction=0)
    assert float(spread.median()) == pytest.approx(1, rel=1e-4)
    assert float(spread.max()) > 1e4  # one number for all columns
    assert scale.shape == ()


def test_columns_that_never_vary_do_not_count_for_the_scale() -> None:
    x, _ = drawn(500, width=3)
    padded = torch.cat([x, torch.full((500, 9), 4.0)], 1)
    torch.testing.assert_close(normalisation(padded)[1], normalisation(x)[1])


def test_a_column_of_huge_noise_costs_the_others_nothing() -> None:
    train, held, test = (
        drawn(n, width=40, signal=0.3, seed=k) for k, n in enumerate((800, 800, 2000))
    )

    def with_noise(pair, seed):
        noise = 1e4 * torch.randn(len(pair[0]), 1, generator=torch.Generator().manual_seed(seed))
        return torch.cat([pair[0], noise], 1), pair[1]

    def score(*parts) -> float:
        found = fits_of(parts[0], parts[1], extend=True)
        return float((found.even(parts[2][0])[0].argmax(-1) == parts[2][1]).double().mean())

    plain = score(train, held, test)
    noisy = score(*(with_noise(pair, seed) for seed, pair in enumerate((train, held, test))))
    assert plain > 0.7
    assert noisy > plain - 0.02


def test_constant_states_are_normalised_to_zero_and_not_to_nan() -> None:
    x = torch.full((10, 4), 3.0)
    assert normalised(x, *normalisation(x)).tolist() == [[0.0] * 4] * 10


@pytest.mark.parametrize(
    ("counts", "cap", "weights", "prior"),
    [
        ((50, 50), 5.0, (1, 1), (0.5, 0.5)),
        ((80, 20), 5.0, (1, 4), (0.5, 0.5)),
        ((95, 5), 5.0, (1, 5), (95 / 120, 25 / 120)),
        ((5, 95), 5.0, (5, 1), (25 / 120, 95 / 120)),
        ((60, 30, 10), 3.0, (1, 2, 3), (60 / 150, 60 / 150, 30 / 150)),
        ((80, 20), 1.0, (1, 1), (0.8, 0.2)),
    ],
)
def test_classes_weigh_the_same_up_to_the_cap(counts, cap, weights, prior) -> None:
    label = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    assert class_weights(label, len(counts), cap).tolist() == pytest.approx(weights)
    assert trained_prior(label, len(counts), cap).tolist() == pytest.approx(prior)


def test_evening_takes_out_the_shares_of_training() -> None:
    z = torch.tensor([[0.3]])
    found = evened(z, torch.tensor([0.8, 0.2])).exp()[0]
    odds = np.exp(0.3) / (0.2 / 0.8)
    assert float(found[1] / found[0]) == pytest.approx(odds, rel=1e-5)
    assert float(found.sum()) == pytest.approx(1)


# -- against scikit-learn --------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_coefficients_are_scikit_learn_s_on_the_same_states_and_weights(classes: int) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    x, label = drawn(500, classes=classes)
    label[: len(label) // 2] = 0  # so that weights matter, and one class reaches the cap
    held = drawn(200, classes=classes, seed=1)
    cap = 1.5
    found = fits_of((x, label), held, n_classes=classes, cap=cap)
    counts = label.bincount()
    weight = (counts.max() / counts).clamp(max=cap)[label]
    inputs = ((x.double() - x.double().mean(0)) * float(found.scale)).numpy()
    solver = "newton-cholesky" if classes == 2 else "lbfgs"
    model = linear.LogisticRegression(
        C=float(found.strength[0]), solver=solver, tol=1e-8, max_iter=10_000
    ).fit(inputs, label.numpy(), weight.numpy())
    weights, bias = found.weight[0].double().numpy(), found.bias[0].double().numpy()
    assert np.linalg.norm(weights - model.coef_) <= 1e-3 * np.linalg.norm(model.coef_)
    assert bias - bias.mean() == pytest.approx(model.intercept_ - model.intercept_.mean(), abs=1e-3)
    if classes == 2:
        assert bias == pytest.approx(model.intercept_, abs=1e-3)
    probabilities = model.predict_proba(((held[0].double() - x.double().mean(0))
                                         * float(found.scale)).numpy())  # fmt: skip
    evened_out = probabilities / found.trained_prior[0].numpy()
    evened_out /= evened_out.sum(1, keepdims=True)
    np.testing.assert_allclose(found.even(held[0])[0].exp().numpy(), evened_out, atol=1e-3)


def test_label_sets_are_fitted_as_each_would_be_alone() -> None:
    x, label = drawn(300)
    held, held_label = drawn(150, seed=1)
    other, other_held = 1 - label, (held[:, 0] > held[:, 0].median()).long()
    sets, held_sets = torch.stack([label, other]), torch.stack([held_label, other_held])
    both = fits_of((x, sets), (held, held_sets))
    for index in range(2):
        one = fits_of((x, sets[index]), (held, held_sets[index]))
        for name in ("weight", "bias", "strength", "crossfit", "trained_prior"):
            torch.testing.assert_close(
                getattr(both, name)[index], getattr(one, name)[0], rtol=1e-4, atol=1e-5
            )


def test_other_units_of_the_states_change_no_probability() -> None:
    (x, label), (held, held_label) = drawn(300), drawn(150, seed=1)
    found = fits_of((x, label), (held, held_label))
    turned = fits_of((x * 40 + 7, label), (held * 40 + 7, held_label))
    torch.testing.assert_close(found.even(held), turned.even(held * 40 + 7), rtol=1e-3, atol=1e-3)
    assert found.strength.tolist() == turned.strength.tolist()


# -- the strength ----------------------------------------------------------------------------------


def test_the_strength_is_the_one_of_least_balanced_loss_on_validation() -> None:
    """Where classes are unequal: by the mean loss over examples it would often be another."""
    strengths, others = (1e-5, 1e-3, 1e-2, 1e-1, 1, 100), 0
    for seed in range(12):
        train = drawn(40, width=20, signal=0.4, seed=seed)
        held, label = drawn(200, width=20, signal=0.4, seed=100 + seed)
        rows = torch.cat([(label == 0).nonzero()[:, 0], (label == 1).nonzero()[:8, 0]])
        held, label = held[rows], label[rows]
        every = {c: fits_of(train, (held, label), strengths=[c]).even(held)[0] for c in strengths}
        losses = {c: balanced_loss(even, label) for c, even in every.items()}
        plain = {
            c: -float(even[torch.arange(len(label)), label].mean()) for c, even in every.items()
        }
        found = fits_of(train, (held, label), strengths=strengths)
        assert float(found.strength[0]) == pytest.approx(min(losses, key=losses.__getitem__))
        others += min(losses, key=losses.__getitem__) != min(plain, key=plain.__getitem__)
    assert others > 0


def test_cross_fitting_never_scores_a_document_with_a_choice_it_had_a_part_in() -> None:
    """Of two documents each is scored with the strength that is best on the other."""
    strengths = (1e-5, 1e-3, 1e-1, 10.0, 1000.0)
    documents = torch.arange(120) // 60
    unlike = 0
    for seed in range(12):
        train = drawn(30, width=20, signal=0.3, seed=seed)
        held, label = drawn(120, width=20, signal=0.3, seed=50 + seed)
        even = {c: fits_of(train, (held, label), strengths=[c]).even(held)[0] for c in strengths}

        def scored(side: Tensor, choosing: Tensor, even=even, label=label) -> Tensor:
            """What the examples of a side are called, by the strength that others choose."""
            losses = {c: balanced_loss(even[c][choosing], label[choosing]) for c in strengths}
            return even[min(losses, key=losses.__getitem__)][side].argmax(-1)

        def accuracy(first: Tensor, second: Tensor, label=label) -> float:
            right = torch.cat([first, second]) == label
            return float(
                torch.stack([right[label == one].double().mean() for one in (0, 1)]).mean()
            )

        zero, one = documents == 0, documents == 1
        honest = accuracy(scored(zero, one), scored(one, zero))
        both = torch.ones_like(zero)
        for choosing in ((zero, one), (both, both)):  # what would be no cross-fit
            unlike += honest != accuracy(scored(zero, choosing[0]), scored(one, choosing[1]))
        found = fits_of(train, (held, label), documents, strengths=strengths, seed=seed)
        assert float(found.crossfit[0]) == pytest.approx(honest, abs=1e-6)
    assert unlike > 0


def test_a_strength_chosen_among_noise_scores_at_chance_where_the_choice_is_cross_fitted() -> None:
    """The best of many strengths, scored on the examples that chose it, looks better than chance."""
    strengths = [10.0**power for power in range(-5, 4)]
    held_out, own = [], []
    for seed in range(24):
        draw = torch.Generator().manual_seed(seed)
        x, held = torch.randn(24, 30, generator=draw), torch.randn(24, 30, generator=draw)
        label = torch.randint(2, (24,), generator=draw)
        label[:2], held_label = torch.tensor([0, 1]), torch.arange(24) % 2
        found = fits_of((x, label), (held, held_label), torch.arange(24) // 2, strengths=strengths)
        held_out.append(float(found.crossfit[0]))
        decided = {c: fits_of((x, label), (held, held_label), strengths=[c]) for c in strengths}
        right = [(one.even(held)[0].argmax(-1) == held_label).double() for one in decided.values()]
        own.append(max(float(one.mean()) for one in right))
    assert np.mean(held_out) == pytest.approx(0.5, abs=0.04)
    assert np.mean(own) > 0.53


# -- probabilities ---------------------------------------------------------------------------------


def logistic_world(rows: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """States, labels and the true probability of each, about 4 % of them positive."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=draw)
    p = torch.sigmoid(x @ torch.tensor([1.2, -0.8, 0.5, 0.0, 0.0]) - 4.0)
    return x, (torch.rand(rows, generator=draw) < p).long(), p


@pytest.mark.parametrize("training", ["balanced", "weighted", "capped"])
def test_at_four_percent_probabilities_are_the_true_ones_however_training_saw_the_classes(
    training: str,
) -> None:
    x, label, _ = logistic_world(120_000, 0)
    share = float(label.float().mean())
    assert 0.03 < share < 0.05
    if training == "balanced":
        hits = label.nonzero()[:, 0]
        others = (label == 0).nonzero()[: len(hits), 0]
        rows = torch.cat([hits, others])
        x, label = x[rows], label[rows]
    else:
        x, label = x[:60_000], label[:60_000]
    held, held_label, truth = logistic_world(20_000, 1)
    cap = 5.0 if training == "capped" else 100.0
    found = fits_of((x, label), (held, held_label), cap=cap, strengths=[1.0, 10.0])
    shares = torch.tensor([1 - share, share])
    p = (found.even(held)[0] + shares.log()).log_softmax(-1)[:, 1].exp()
    assert float(p.mean()) == pytest.approx(float(truth.mean()), rel=0.06)
    for low, high in ((0, 0.01), (0.01, 0.05), (0.05, 0.2), (0.2, 1)):
        there = (truth > low) & (truth <= high)
        assert float(p[there].mean()) == pytest.approx(float(truth[there].mean()), rel=0.12)


def test_several_classes_of_unequal_shares_have_true_probabilities() -> None:
    draw = torch.Generator().manual_seed(0)

    def world(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(rows, 4, generator=draw)
        z = torch.stack([1.5 - x[:, 0], x[:, 0] + x[:, 1], x[:, 2] - 1], 1)
        p = z.softmax(-1)
        return x, torch.multinomial(p, 1, generator=draw)[:, 0], p

    (x, label, _), (held, held_label, truth) = world(30_000), world(5000)
    found = fits_of((x, label), (held, held_label), n_classes=3, cap=2.0, strengths=[10.0])
    shares = label.bincount() / len(label)
    p = (found.even(held)[0] + shares.log()).log_softmax(-1).exp()
    assert float((p - truth).abs().mean()) < 0.01


def test_mass_mean_reads_along_the_difference_of_the_means() -> None:
    x, label = drawn(400)
    found = fit_mass_mean(x, label[None], 2)
    difference = x[label == 1].mean(0) - x[label == 0].mean(0)
    cosine = torch.nn.functional.cosine_similarity(found.weight[0, 0], difference, dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-5)
    middle = (x[label == 1].mean(0) + x[label == 0].mean(0)) / 2
    assert found.even(middle[None])[0, 0].exp().tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    even = found.even(x)[0]
    assert float((even.argmax(-1) == label).double().mean()) > 0.9
    assert found.strength.isnan().all()


def test_the_strengths_go_on_where_the_best_is_at_their_end() -> None:
    train, held = drawn(4000, width=4, signal=3.0), drawn(4000, width=4, signal=3.0, seed=1)
    few = fits_of(train, held, strengths=[1e-5, 1e-4])
    more = fits_of(train, held, strengths=[1e-5, 1e-4], extend=True)
    assert float(few.strength[0]) == pytest.approx(1e-4)
    assert bool(few.at_edge[0])
    assert float(more.strength[0]) in (
        pytest.approx(1e-3),
        pytest.approx(1e-2),
        pytest.approx(1e-1),
    )
    losses = [balanced_loss(one.even(held[0])[0], held[1]) for one in (few, more)]
    assert losses[1] < losses[0]


def test_rows_that_are_not_kept_choose_no_strength() -> None:
    """Noise in the labels of a part of validation would choose the smallest strength."""
    train, (held, label) = drawn(300), drawn(400, seed=1)
    wrong = torch.arange(400) >= 200
    noise = torch.where(wrong, 1 - label, label)
    keep = ~wrong[None]
    clean = fits_of(train, (held[:200], label[:200]))
    assert fits_of(train, (held, noise), keep=keep).strength == clean.strength
    assert fits_of(train, (held, noise)).strength < clean.strength


def test_a_single_validation_document_is_halved_too() -> None:
    train, held = drawn(300), drawn(200, seed=1)
    several = fits_of(train, held, documents=torch.arange(200) // 4)
    one = fits_of(train, held, documents=torch.zeros(200, dtype=torch.int64))
    assert float(one.crossfit[0]) == pytest.approx(float(several.crossfit[0]), abs=0.02)


# -- what cannot be fitted -------------------------------------------------------------------------


def test_one_class_and_states_that_are_not_finite_are_refused() -> None:
    (x, label), held = drawn(60), drawn(30, seed=1)
    with pytest.raises(UserError, match="a probe needs both classes"):
        fits_of((x, torch.zeros_like(label)), held)
    with pytest.raises(UserError, match="not finite"):
        fits_of((x.index_fill(0, torch.tensor([3]), torch.nan), label), held)
