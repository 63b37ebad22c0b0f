"""Controls do what they are for: chance where there is nothing, and each number from its formula."""

from __future__ import annotations

import math

import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.probes.fitting.controls import (
    current_token,
    mass_mean,
    model_reference,
    shuffled,
    token_type_labels,
)
from cutaway.probes.scores.evaluation import judge
from cutaway.stats.logistic import fit_logistic


def blobs(classes: int = 2, n: int = 600, d: int = 5, seed: int = 0, apart: float = 2.0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (n,), generator=generator)
    centres = apart * torch.randn(classes, d, generator=generator)
    return centres[label] + torch.randn(n, d, generator=generator), label


def test_shuffled_labels_are_the_same_labels_elsewhere():
    label = torch.tensor([0] * 90 + [1] * 10)
    once = shuffled(label, 3, "train")
    assert once.sum() == 10
    assert not torch.equal(once, label)
    assert torch.equal(once, shuffled(label, 3, "train"))
    assert not torch.equal(once, shuffled(label, 3, "test"))
    assert not torch.equal(once, shuffled(label, 4, "train"))


def test_a_probe_of_shuffled_labels_scores_at_chance_against_shuffled_labels_only():
    """States on one line: any direction goes with the true labels or against them."""
    generator = torch.Generator().manual_seed(0)
    draws = {"true": [], "shuffled": []}
    documents = torch.arange(2000)
    label = documents % 2
    x = label[:, None] + 0.3 * torch.randn(2000, 1, generator=generator)
    for seed in range(12):
        train, test = shuffled(label, seed, "train"), shuffled(label, seed, "test")
        z = fit_logistic(x, train, c=1e6).logits(x)
        even = torch.nn.functional.logsigmoid(torch.stack([-z, z], -1))
        for name, scored in (("true", label), ("shuffled", test)):
            found = judge(even, even, scored, documents, draws=200)
            draws[name].append(
                (float(found.balanced_accuracy), float(found.low), float(found.high))
            )
    near = [low <= 0.5 <= high for _, low, high in draws["shuffled"]]
    assert sum(near) >= 10
    assert max(abs(value - 0.5) for value, *_ in draws["true"]) > 0.3


def test_a_token_type_keeps_its_random_class_everywhere():
    generator = torch.Generator().manual_seed(0)
    types = {
        "train": torch.randint(0, 200, (3000,), generator=generator),
        "test": torch.randint(100, 300, (2000,), generator=generator),
    }
    labels, seen = token_type_labels(types, torch.tensor([0.7, 0.3]), 4, seed=1)
    assert labels["train"].shape == (4, 3000)
    every = torch.cat([types["train"], types["test"]])
    of_every = torch.cat([labels["train"], labels["test"]], 1)
    for kind in every.unique().tolist():
        assert all(len(row.unique()) == 1 for row in of_every[:, every == kind])
    of_types = torch.stack([of_every[:, every == kind][:, 0] for kind in every.unique()])
    assert of_types.double().mean() == pytest.approx(0.3, abs=0.06)
    assert len(labels["train"].unique(dim=0)) == 4  # every draw another labelling
    assert seen["train"].all()
    assert torch.equal(seen["test"], torch.isin(types["test"], types["train"]))
    again, _ = token_type_labels(types, torch.tensor([0.7, 0.3]), 4, seed=1)
    assert torch.equal(again["test"], labels["test"])


def test_labellings_of_one_class_are_drawn_again():
    types = {"train": torch.tensor([5, 5, 9, 9]), "test": torch.tensor([9, 5, 7])}
    labels, seen = token_type_labels(types, torch.tensor([0.95, 0.05]), 6, seed=0)
    assert all(len(row.unique()) == 2 for row in labels["train"])
    assert all(len(row.unique()) == 2 for row in labels["test"][:, seen["test"]])
    with pytest.raises(UserError, match="1 token types in training"):
        token_type_labels({"train": torch.tensor([5, 5])}, torch.tensor([0.5, 0.5]), 1, seed=0)


def test_the_current_token_knows_its_counts_and_nothing_else():
    types = torch.tensor([1] * 10 + [2] * 10 + [3] * 40)
    label = torch.tensor([1] * 9 + [0] + [0] * 9 + [1] + [0] * 40)
    even = current_token(types, label, torch.tensor([1, 2, 3, 99]), 2)
    torch.testing.assert_close(even.exp().sum(-1), torch.ones(4, dtype=torch.float64))
    assert even[3].exp().tolist() == pytest.approx([0.5, 0.5])
    assert even.argmax(-1)[:3].tolist() == [1, 0, 0]
    # classes weighted to equal sums: 50 zeros count 0.6 each, 10 ones count 3 each
    odds = [(27, 0.6), (3, 5.4), (0, 24)]
    alphas = [
        (one * math.exp(row[0] - row[1]) - other) / (1 - math.exp(row[0] - row[1]))
        for (one, other), row in zip(((b, a) for a, b in odds), even[:3].flip(-1).tolist())
    ]
    assert alphas == pytest.approx([alphas[0]] * 3, rel=1e-6)  # one smoothing for all


def test_smoothing_is_strong_where_types_say_nothing_and_weak_where_they_say_all():
    generator = torch.Generator().manual_seed(0)
    types = torch.randint(0, 400, (1200,), generator=generator)
    noise = torch.randint(2, (1200,), generator=generator)
    asked = torch.arange(400)
    nothing = current_token(types, noise, asked, 2).exp()
    everything = current_token(types, types % 2, asked, 2).exp()
    assert (nothing - 0.5).abs().mean() < 0.1
    assert everything.max(-1).values.mean() > 0.95


def test_current_token_counts_weights_and_leaves_rows_of_weight_zero_out():
    generator = torch.Generator().manual_seed(0)
    types = torch.randint(0, 30, (300,), generator=generator)
    label = torch.randint(3, (300,), generator=generator)
    weight = torch.randint(0, 3, (300,), generator=generator).double()
    kept = weight > 0
    given = current_token(types, label, types, 3, weight)
    fewer = current_token(types[kept], label[kept], types, 3, weight[kept])
    shown = torch.isin(types, types[kept])
    assert torch.equal(given[shown].argmax(-1), fewer[shown].argmax(-1))
    with pytest.raises(UserError, match="no example of class 2"):
        current_token(types, label % 2, types, 3)


def test_mass_mean_is_the_difference_of_means_with_its_threshold_midway():
    x, label = blobs()
    weight, bias = mass_mean(x, label, 2)
    zero, one = x[label == 0].mean(0), x[label == 1].mean(0)
    direction = (one - zero) / (one - zero).norm()
    torch.testing.assert_close(torch.nn.functional.normalize(weight[0], dim=0), direction)
    assert weight @ ((zero + one) / 2) + bias == pytest.approx(0, abs=1e-4)
    assert weight[0] @ (one - zero) > 0


def test_the_scale_of_mass_mean_is_the_likeliest_and_calibrated():
    x, label = blobs(n=4000, apart=0.5, seed=2)
    weight, bias = mass_mean(x, label, 2)
    z = (x @ weight.T + bias)[:, 0].double()
    balance = torch.tensor([1 / (label == 0).sum(), 1 / (label == 1).sum()]).double()[label]

    def loss(scale: float) -> float:
        return float(-(balance * torch.nn.functional.logsigmoid((2 * label - 1) * scale * z)).sum())

    assert loss(1.0) < min(loss(0.97), loss(1.03))


def test_mass_mean_of_more_classes_is_the_nearest_mean():
    x, label = blobs(classes=4)
    weight, bias = mass_mean(x, label, 4)
    means = torch.stack([x[label == one].mean(0) for one in range(4)])
    z = x @ weight.T + bias
    assert torch.equal(z.argmax(-1), torch.cdist(x, means).argmin(-1))
    gaps = -torch.cdist(x, means).square() / 2
    scale = ((z[:, 1] - z[:, 0]) / (gaps[:, 1] - gaps[:, 0])).median()
    assert scale > 0
    torch.testing.assert_close(z - z[:, :1], scale * (gaps - gaps[:, :1]), atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_mass_mean_takes_weights_as_repeats_and_large_means_in_stride(classes: int):
    x, label = blobs(classes, n=200)
    weight = torch.arange(200) % 3
    weighted = mass_mean(x, label, classes, weight.double())
    repeated = mass_mean(x.repeat_interleave(weight, 0), label.repeat_interleave(weight), classes)
    for ours, theirs in zip(weighted, repeated, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    moved = mass_mean(x + 300, label, classes)
    assert torch.equal(
        ((x + 300).double() @ moved[0].double().T + moved[1]).argmax(-1),
        (x.double() @ mass_mean(x, label, classes)[0].double().T + mass_mean(x, label, classes)[1])
        .argmax(-1),
    )  # fmt: skip


def test_mass_mean_of_constant_states_is_refused():
    with pytest.raises(UserError, match="the same state"):
        mass_mean(torch.ones(10, 3), torch.arange(10) % 2, 2)
    with pytest.raises(UserError, match="no example of class 1"):
        mass_mean(torch.randn(10, 3), torch.zeros(10, dtype=int), 2)


def test_the_models_threshold_is_the_best_on_training_examples():
    generator = torch.Generator().manual_seed(0)
    label = (torch.rand(500, generator=generator) < 0.1).long()
    odds = torch.randn(500, generator=generator) + 2.0 * label - 5
    odds = (odds * 4).round() / 4  # with ties
    even, natural = model_reference(odds, label, odds)

    def balanced(threshold: float) -> float:
        called = odds > threshold
        return float(
            called[label == 1].double().mean() + (~called[label == 0]).double().mean()
        ) / 2  # fmt: skip

    best = max(balanced(float(one) + 0.01) for one in [*odds.unique(), odds.min() - 1])
    found = judge(even, natural, label, torch.arange(500))
    assert float(found.balanced_accuracy) == pytest.approx(best)
    torch.testing.assert_close(natural[:, 1].exp(), odds.sigmoid())
    assert float(found.recall) > 0.5  # the model never bets on so rare a class, its order is good
    torch.testing.assert_close(even.exp().sum(-1), torch.ones(500))


def test_the_models_threshold_may_lie_outside_of_all_scores():
    odds, label = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([1, 1, 0, 0])
    even, _ = model_reference(odds, label, odds)
    assert even.argmax(-1).unique().numel() == 1  # upside down: chance is the best it can do
    with pytest.raises(UserError, match="not finite"):
        model_reference(torch.tensor([0.0, math.nan]), torch.tensor([0, 1]), odds)
    with pytest.raises(UserError, match="no example of class 1"):
        model_reference(odds, torch.zeros(4, dtype=int), odds)
