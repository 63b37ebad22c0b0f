"""Targeted probe perturbation against cases worked by hand and against scikit-learn."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.registry import build
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.evaluations.suite.ablation import Pooled
from cutaway.evaluations.suite.sparse_probing import Dense
from cutaway.evaluations.suite.tpp import (
    Perturbation,
    perturbation,
    scores,
    targeted_probe_perturbation,
)
from cutaway.labelled.texts import LabelledTexts
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model

CLASSES, TIMES = 3, 6
LABELS = torch.arange(CLASSES).repeat(TIMES)
TEXTS = len(LABELS)
EYE = torch.eye(CLASSES)


def own_feature() -> Pooled:
    """State e_c for a text of class c, written by one feature of its own."""
    return Pooled(EYE[LABELS], Dense(EYE[LABELS]), EYE)


def one_for_all() -> Pooled:
    """The same states written by two features of every text, neither of a class of its own."""
    common = torch.full((TEXTS, 1), 1.0)
    return Pooled(EYE[LABELS], Dense(torch.cat([common, common], 1)), torch.ones(2, CLASSES))


def scored(
    texts: Pooled, ns: tuple[int, ...], labels: Tensor = LABELS, **more: int
) -> Perturbation:
    groups = torch.arange(len(labels))
    return perturbation(texts, labels, texts, labels, groups, ns=ns, **{"resamples": 20, **more})


def test_a_feature_of_one_class_alone_costs_that_class_alone():
    # Probe i separates e_i from the rest. Without the features of class i its texts are 0, which
    # probe i takes for the rest: it is right on the rest alone, 1/2. Probe j ≠ i still says rest of
    # a state 0 and is right. So the own drop is 1/2, the others' 0, TPP 1/2.
    found = scored(own_feature(), (1,))
    assert found.clean[:, 0].tolist() == [1.0] * CLASSES
    assert torch.equal(found.drops[:, :, 0, 0], EYE.double() / 2)
    assert [part[0, 0].item() for part in scores(found.drops)] == [0.5, 0.5, 0.0]


def test_features_all_classes_share_have_no_effect_and_are_left_in():
    found = scored(one_for_all(), (1, 2))
    assert found.removed.tolist() == [[0, 0]] * CLASSES  # active alike: the difference is 0
    assert not found.drops.any()


def test_a_feature_that_writes_every_class_costs_them_all():
    # One feature of the three directions at once, more active on class 0: with it out, class 0
    # loses; the states of the others are moved as far, and their probes lose too.
    texts = own_feature()
    amount = 1.0 + 0.5 * (LABELS == 0).float()[:, None]
    states = 0.4 * EYE[LABELS] + amount * torch.tensor([[3.0, 3.0, -3.0]])
    mixed = Pooled(states, Dense(amount), torch.tensor([[3.0, 3.0, -3.0]]))
    total, own, others = (float(part[0, 0]) for part in scores(scored(mixed, (1,)).drops))
    assert own > 0
    assert others > 0
    assert total < float(scores(scored(texts, (1,)).drops)[0][0, 0]) / 2


def test_the_score_is_the_mean_own_drop_less_the_mean_of_all_others():
    drops = torch.tensor([[0.3, 0.1, 0.0], [0.2, 0.5, 0.1], [0.0, 0.0, 0.1]])
    total, own, others = scores(drops)
    assert own.item() == pytest.approx(0.9 / 3)
    assert others.item() == pytest.approx(0.4 / 6)
    assert total.item() == pytest.approx(0.3 - 0.4 / 6)


def test_more_features_than_there_are_takes_all_of_them_out():
    # The features of the other classes have a difference below 0, so an effect of 0: only the own.
    found = scored(own_feature(), (1, 3, 500))
    assert found.removed.tolist() == [[1, 1, 1]] * CLASSES
    assert torch.equal(found.drops[:, :, 0], found.drops[:, :, 2])


def test_probes_at_chance_have_nothing_to_lose():
    blind = Pooled(torch.zeros(TEXTS, 2), Dense(EYE[LABELS]), torch.ones(3, 2))
    found = scored(blind, (1,))
    assert found.clean[:, 0].tolist() == [0.5] * CLASSES
    assert not scores(found.drops)[0].any()


@pytest.mark.parametrize("part", ["training", "test"])
def test_a_class_without_a_text_is_an_error(part):
    texts, groups = own_feature(), torch.arange(TEXTS)
    bare = LABELS.clone()
    bare[bare == 1] = 0
    pair = (bare, LABELS) if part == "training" else (LABELS, bare)
    with pytest.raises(UserError, match=f"class 1 has no {part} text"):
        perturbation(texts, pair[0], texts, pair[1], groups)


def test_two_classes_are_refused():
    with pytest.raises(UserError, match=r"2 classes; .* three or more"):
        scored(own_feature(), (1,), LABELS.clamp(max=1))


def test_random_features_cost_less_of_their_own():
    # One of three features at random hits the class itself in a third of the draws.
    found = scored(own_feature(), (1,))
    assert scores(found.control)[0][0, 0] < scores(found.drops)[0][0, 0] / 2


def noisy(seed: int = 0) -> Pooled:
    """Three overlapping classes in 5 dimensions, 8 features, some of them of one class."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.nn.functional.normalize(torch.randn(8, 5, generator=generator), dim=1)
    features = torch.rand(TEXTS, 8, generator=generator)
    features[:, :3] += EYE[LABELS]
    noise = 0.3 * torch.randn(TEXTS, 5, generator=generator)
    return Pooled(features @ decoder + noise, Dense(features), decoder)


def test_the_drops_are_the_published_formula_worked_with_scikit_learn():
    texts, ns = noisy(), (1, 3, 8)
    found = scored(texts, ns)
    states, features = texts.states.double().numpy(), texts.features.values.double().numpy()
    decoder, labels = texts.decoder.double().numpy(), LABELS.numpy()
    scale = math.sqrt(5 / states.var(0, ddof=1).sum())
    own = labels[None] == np.arange(CLASSES)[:, None]
    weights = np.where(own, TEXTS / 2 / TIMES, TEXTS / 4 / TIMES)  # half and half, mean 1
    probes = [
        LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(
            states * scale, own[j], weights[j]
        )
        for j in range(CLASSES)
    ]

    def accuracies(left: np.ndarray) -> np.ndarray:
        return np.array([probes[j].score(left * scale, own[j], weights[j]) for j in range(CLASSES)])

    clean = accuracies(states)
    assert found.clean[:, 0].tolist() == pytest.approx(clean.tolist())
    for i in range(CLASSES):
        difference = features[own[i]].mean(0) - features[~own[i]].mean(0)
        effect = difference.clip(0) * (decoder @ probes[i].coef_[0])
        ranked = [f for f in np.argsort(-effect, kind="stable") if effect[f] != 0]
        for place, n in enumerate(ns):
            out = np.isin(np.arange(8), ranked[:n])
            drop = clean - accuracies(states - (features * out) @ decoder)
            assert found.drops[i, :, place, 0].tolist() == pytest.approx(drop.tolist())
            assert found.removed[i, place] == out.sum()


# -- through the door, with a trained model ------------------------------------------------------


@pytest.fixture(scope="module")
def model(gpt2_run: Path) -> Model:
    return open_model(gpt2_run, device="cpu")


@pytest.fixture(scope="module")
def dictionary(model: Model) -> Dictionary:
    made = build(DictionaryShape("topk", model.width, 48, k=6), 1)
    made.metadata = {"site": "residual.0", "reference": model.reference.to_json()}
    return made


def labelled(name: str = "who", *, told: bool = True) -> LabelledTexts:
    """Sentences of three kinds, or, not `told`, one and the same for all three."""
    draw = random.Random(0)
    labels = [draw.choice(("king", "sister", "dog")) for _ in range(240)]
    texts = [
        f"{draw.choice(('the old', 'my', 'every'))} {who} sees the river {number}"
        for number, who in enumerate(labels)
    ]
    texts = texts if told else texts[:1] * 240
    return LabelledTexts(name, texts, labels, [f"document {number // 6}" for number in range(240)])


def test_rows_hold_the_score_its_parts_the_classes_and_the_control(model, dictionary):
    rows = targeted_probe_perturbation(dictionary, model, None, [labelled()], ns=(2, 5), seed=3)
    assert all(row["evaluation"] == "tpp" and row["seed"] == 3 for row in rows)
    value = {(r["task"], r["measure"], r["subject"], r["k"]): r["value"] for r in rows}
    assert len(value) == len(rows)
    names = [f"who: {name}" for name in ("dog", "king", "sister")]
    assert value["who", "probe_accuracy", "states", None] > 0.9  # a word is easily read
    assert value["who", "features_removed", "dictionary", 2] == 2
    for subject in ("dictionary", "random_features"):
        for k in (2, 5):
            parts = [value["who", part, subject, k] for part in ("tpp", "own_drop", "other_drop")]
            assert parts[0] == pytest.approx(parts[1] - parts[2])
            mean = np.mean([value[name, "tpp", subject, k] for name in names])
            assert parts[0] == pytest.approx(mean)
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows if row["low"] is not None)
    assert sum(row["low"] is None for row in rows) == 2  # the numbers of features alone


def test_several_seeds_are_those_seeds_alone(model, dictionary):
    some = {"ns": (3,), "resamples": 20}
    both = targeted_probe_perturbation(dictionary, model, None, [labelled()], seed=(0, 1), **some)
    alone = targeted_probe_perturbation(dictionary, model, None, [labelled()], seed=1, **some)
    assert [row for row in both if row["seed"] == 1] == alone
    assert [row for row in both if row["seed"] == 0] != alone


def test_probes_at_chance_leave_the_score_undefined_and_it_is_said(model, dictionary, capsys):
    task = labelled("alike", told=False)
    rows = targeted_probe_perturbation(dictionary, model, None, [task], ns=(2,))
    found = {row["measure"]: row for row in rows if row["task"] == "alike"}
    assert found["probe_accuracy"]["value"] == 0.5
    assert all(found[name]["value"] is None for name in ("tpp", "own_drop", "other_drop"))
    assert "alike: probes tell its classes apart no better than chance" in capsys.readouterr().err


def test_a_task_of_two_classes_is_refused_by_name(model, dictionary):
    task = labelled().chosen([row for row, label in enumerate(labelled().labels) if label != "dog"])
    with pytest.raises(UserError, match="who: 2 classes"):
        targeted_probe_perturbation(dictionary, model, None, [task])
