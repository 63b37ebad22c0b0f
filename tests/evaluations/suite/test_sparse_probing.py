"""Sparse probing on cases worked by hand, and through a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from conftest import sentences
from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.registry import build
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.evaluations.suite.encoding import EncodedTexts, SparseRows
from cutaway.evaluations.suite.sparse_probing import (
    BASELINES,
    STRENGTHS,
    Dense,
    balanced,
    difference_of_means,
    inputs_of,
    probe_task,
    random_dictionary,
    sparse_probing,
    whole_probe,
)
from cutaway.labelled.texts import LabelledTexts, split_by_group
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model

COLUMNS = ["evaluation", "task", "measure", "k", "subject", "value", "low", "high", "seed"]


def task(labels: np.ndarray, groups: np.ndarray) -> LabelledTexts:
    texts = [f"text {index}" for index in range(len(labels))]
    return LabelledTexts("made", texts, [f"c{one}" for one in labels], [str(g) for g in groups])


def scores(rows: list[dict], subject: str, name: str = "made") -> dict[int | None, float]:
    return {r["k"]: r["value"] for r in rows if r["subject"] == subject and r["task"] == name}


def test_a_feature_that_is_the_label_scores_1_and_random_ones_score_chance():
    random = np.random.default_rng(0)
    labels, groups = random.integers(0, 2, 1000), np.arange(1000) // 5
    features = torch.tensor(random.normal(size=(1000, 30)), dtype=torch.float32)
    knows = features.clone()
    knows[:, 17] = torch.tensor(labels) * 2.0
    inputs = {"dictionary": Dense(knows), "random": Dense(features), "states": Dense(knows)}
    rows = probe_task(inputs, task(labels, groups))
    assert list(rows[0]) == COLUMNS
    assert scores(rows, "dictionary")[1] == 1
    assert scores(rows, "states") == {None: 1}
    for row in rows:
        if row["subject"] == "random":
            assert row["low"] <= row["value"] <= row["high"]
            assert abs(row["value"] - 0.5) < 0.1
            assert row["high"] - row["low"] > 0.1


def test_two_features_that_only_together_tell_the_label_need_k_2():
    random = np.random.default_rng(1)
    labels, groups = random.integers(0, 2, 2000), np.arange(2000)
    shared = 3 * random.normal(size=2000)
    features = torch.tensor(random.normal(size=(2000, 10)) * 0.01, dtype=torch.float32)
    features[:, 3] = torch.tensor(labels + shared)
    features[:, 7] = torch.tensor(labels - shared)
    found = scores(probe_task({"dictionary": Dense(features)}, task(labels, groups)), "dictionary")
    assert found[1] < 0.7
    assert found[2] == found[5] == 1


def test_texts_that_are_in_both_classes_score_chance_exactly():
    """Each document holds the same texts under both labels: whatever is learnt of it is no use."""
    random = np.random.default_rng(2)
    features = torch.tensor(random.normal(size=(300, 12)), dtype=torch.float32).repeat(2, 1)
    labels, groups = np.repeat([0, 1], 300), np.tile(np.arange(300) // 3, 2)
    inputs = {"dictionary": Dense(features), "states": Dense(features)}
    rows = probe_task(inputs, task(labels, groups))
    assert {row["value"] for row in rows} == {0.5}


def test_a_probe_that_knows_documents_by_heart_scores_chance():
    """Features name the document and a label belongs to a document: any leak would score 1."""
    random = np.random.default_rng(3)
    groups = np.repeat(np.arange(100), 8)
    labels = random.permutation(np.arange(100) % 2)[groups]
    features = torch.eye(100)[torch.tensor(groups)]
    for seed in range(3):
        rows = probe_task({"states": Dense(features)}, task(labels, groups), seed=seed)
        assert rows[0]["value"] == 0.5  # of unseen documents it knows nothing: all are ties
    apart = probe_task({"states": Dense(features)}, task(labels, np.arange(800)))
    assert apart[0]["value"] == 1


def test_selection_is_the_brute_force_difference_of_means():
    random = np.random.default_rng(4)
    features = torch.tensor(random.normal(size=(90, 15)), dtype=torch.float32)
    labels = torch.tensor(random.integers(0, 2, (3, 90))).bool()
    chosen = torch.tensor(random.random((3, 90)) < 0.6)
    found = difference_of_means(Dense(features), labels, chosen)
    for c in range(3):
        for f in range(15):
            positive = [float(features[i, f]) for i in range(90) if chosen[c, i] and labels[c, i]]
            negative = [
                float(features[i, f]) for i in range(90) if chosen[c, i] and not labels[c, i]
            ]
            assert float(found[c, f]) == pytest.approx(
                np.mean(positive) - np.mean(negative), abs=1e-5
            )


def test_scores_are_those_of_scikit_learn_on_the_same_texts():
    random = np.random.default_rng(5)
    labels, groups = random.integers(0, 3, 900), np.arange(900) // 3
    x = random.normal(size=(900, 20)) + 0.7 * np.eye(20)[labels]
    rows = probe_task({"dictionary": Dense(torch.tensor(x).float())}, task(labels, groups), seed=6)
    part = split_by_group(labels, groups, seed=6)
    chosen = balanced(labels, part, 6).numpy()
    for c in range(3):
        train, test = (np.flatnonzero((part == side) & chosen[c]) for side in (0, 2))
        y = labels == c
        strength = np.abs(x[train][y[train]].mean(0) - x[train][~y[train]].mean(0))
        for k in (1, 2, 5):
            best = np.argsort(-strength)[:k]
            model = LogisticRegression(C=1.0, tol=1e-8).fit(x[train][:, best], y[train])
            expected = model.score(x[test][:, best], y[test])
            assert scores(rows, "dictionary", f"made: c{c}")[k] == pytest.approx(expected)
    for k in (1, 2, 5):
        each = [scores(rows, "dictionary", f"made: c{c}")[k] for c in range(3)]
        assert scores(rows, "dictionary")[k] == pytest.approx(np.mean(each))


def test_a_class_is_told_from_as_many_texts_of_the_others_in_equal_shares():
    labels = np.repeat([0, 1, 2], [100, 300, 40])
    part = np.tile([0, 0, 0, 1, 2], 88)
    chosen = balanced(labels, part, 0).numpy()
    for side in range(3):
        counts = [np.bincount(labels[chosen[c] & (part == side)], minlength=3) for c in range(3)]
        for c in range(3):
            assert counts[c][c] == counts[c].sum() - counts[c][c] > 0
        others = counts[2][[0, 1]]
        assert abs(others[0] - others[1]) <= 1


def whole(x: np.ndarray, labels: np.ndarray, part: np.ndarray) -> list[tuple]:
    """The three parts of a task of two classes as `whole_probe` takes them."""
    y = torch.tensor(labels == 1)[None]
    sides = [torch.tensor(np.flatnonzero(part == side)) for side in range(3)]
    x = torch.tensor(x, dtype=torch.float32)
    return [(Dense(x[side]), y[:, side], torch.ones_like(y[:, side])) for side in sides]


def test_the_strength_of_the_whole_probe_is_the_best_on_validation():
    chosen = set()
    for seed in range(4):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 2, 600)
        x = random.normal(size=(600, 60)) + 0.5 * labels[:, None] * (np.arange(60) < 10)
        part = split_by_group(labels, np.arange(600), seed=seed)
        models = [
            LogisticRegression(C=c, tol=1e-8).fit(x[part == 0], labels[part == 0])
            for c in STRENGTHS
        ]
        best = int(np.argmax([model.score(x[part == 1], labels[part == 1]) for model in models]))
        expected = models[best].predict(x[part == 2]) == labels[part == 2]
        right = whole_probe(*whole(x, labels, part))[0].bool().numpy()
        assert (right == expected).mean() > 0.99
        chosen.add(best)
    assert len(chosen) > 1


def test_test_labels_do_not_reach_the_probe():
    """Turned round, the probe is the same: it is then wrong where it was right."""
    random = np.random.default_rng(7)
    labels = random.integers(0, 2, 600)
    x = random.normal(size=(600, 40)) + 0.3 * labels[:, None]
    *seen, (matrix, y, chosen) = whole(x, labels, split_by_group(labels, np.arange(600)))
    right = whole_probe(*seen, (matrix, y, chosen))
    assert torch.equal(right, 1 - whole_probe(*seen, (matrix, ~y, chosen)))
    assert 0.6 < float(right.mean()) < 1


def test_the_unit_of_the_models_states_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    states, sample = (
        torch.randn(50, 6, generator=generator),
        torch.randn(99, 6, generator=generator),
    )
    ends, features = torch.arange(1, 51), torch.zeros(50, dtype=torch.int32)

    def inputs(unit: float) -> dict:
        rows = SparseRows(ends, features, states[:, 0] * unit, 8)
        texts = EncodedTexts(states * unit, {"dictionary": rows}, torch.ones(50))
        return inputs_of(texts, sample * unit, BASELINES)

    one, other = inputs(1.0), inputs(100.0)
    assert set(one) == {"dictionary", "states", "neurons", "pca"}
    for name in one:
        columns = torch.arange(one[name].width)
        expected = one[name].columns(columns).abs()  # a component's sign is anybody's
        torch.testing.assert_close(other[name].columns(columns).abs(), expected)


# -- through a model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(gpt2_run: Path) -> Model:
    return open_model(gpt2_run, device="cpu")


@pytest.fixture(scope="module")
def dictionary(model: Model) -> Dictionary:
    made = build(DictionaryShape("topk", model.width, 48, k=6), 3)
    made.metadata = {"site": "residual.0", "reference": model.reference.to_json()}
    return made


def shouted(name: str = "shouted", count: int = 120) -> LabelledTexts:
    """Sentences, of which every other one is in capitals."""
    texts = [sentences(index // 2, 1) for index in range(count)]
    texts = [text.upper() if index % 2 else text for index, text in enumerate(texts)]
    labels = ["shouted" if index % 2 else "said" for index in range(count)]
    return LabelledTexts(name, texts, labels, [f"document {index // 6}" for index in range(count)])


@pytest.fixture(scope="module")
def rows(dictionary: Dictionary, model: Model) -> list[dict]:
    return sparse_probing(dictionary, model, None, [shouted(), shouted("again", 90)], seed=[0, 1])


def test_the_random_dictionary_is_as_sparse_as_the_dictionary(dictionary):
    sample = torch.randn(3000, 16, generator=torch.Generator().manual_seed(0)) + 2
    made = random_dictionary(dictionary, sample, seed=1)
    own = dictionary.encode_sparse(sample).per_token()
    assert float(made.encode_sparse(sample).per_token()) == pytest.approx(float(own), rel=0.1)
    assert made.shape.d_hidden == dictionary.shape.d_hidden
    again = random_dictionary(dictionary, sample, seed=1)
    assert torch.equal(made.encoder_weight, again.encoder_weight)
    assert not torch.equal(
        made.encoder_weight, random_dictionary(dictionary, sample).encoder_weight
    )


def test_every_subject_task_k_and_seed_has_its_row(rows):
    found = [(row["task"], row["subject"], row["k"], row["seed"]) for row in rows]
    sparse = [(s, k) for s in ("dictionary", "neurons", "pca", "random") for k in (1, 2, 5)]
    expected = [
        (name, subject, k, seed)
        for name in ("shouted", "again")
        for subject, k in [*sparse, ("states", None)]
        for seed in (0, 1)
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in rows)


def test_capitals_are_told_from_small_letters(rows):
    for row in rows:
        if row["subject"] == "states" or row["k"] == 5:
            assert row["value"] > 0.9


def test_one_seed_alone_gives_its_rows_of_several(dictionary, model, rows):
    alone = sparse_probing(
        dictionary, model, "residual.0", [shouted()], seed=0, baselines=["states", "neurons"]
    )
    known = {
        (r["subject"], r["k"]): r["value"]
        for r in rows
        if r["task"] == "shouted" and r["seed"] == 0
    }
    for row in alone:
        assert row["value"] == pytest.approx(known[row["subject"], row["k"]], abs=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ks": (0, 1)}, r"ks = \[0, 1\]: expected whole numbers from 1 to 16"),
        ({"ks": ()}, r"ks = \[\]"),
        ({"baselines": ["chance"]}, "baselines = .'chance'.: expected some of states"),
        ({"tasks": []}, "expected at least one of each"),
        ({"tasks": [shouted(), shouted()]}, "two are called 'shouted'"),
    ],
)
def test_settings_out_of_range_are_refused(dictionary, model, change, message):
    asked = {"tasks": [shouted()], **change}
    with pytest.raises(UserError, match=message):
        sparse_probing(dictionary, model, None, asked.pop("tasks"), **asked)


def test_intervals_draw_documents_not_texts():
    """In every fourth document the feature says the opposite, so that texts of one stand or fall
    together: ten documents say far less than their two hundred texts."""
    documents = np.arange(80).repeat(20)
    labels = documents % 2
    says = np.where(documents // 2 % 4 == 0, 1 - labels, labels)
    noise = torch.rand(len(says), 1, generator=torch.Generator().manual_seed(0))
    values = torch.from_numpy(says).float()[:, None] + 0.01 * noise
    texts = [str(place) for place in range(len(says))]
    task = LabelledTexts("made up", texts, list(map(str, labels)), list(map(str, documents)))
    (row,) = probe_task({"dictionary": Dense(values)}, task, ks=(1,))
    assert 0.5 < row["value"] < 1
    assert row["high"] - row["low"] > 0.2  # 0.11 if texts were drawn
