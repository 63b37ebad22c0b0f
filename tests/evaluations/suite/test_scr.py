"""Spurious correlation removal against cases worked by hand and against scikit-learn."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.testing import assert_close

from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.registry import build
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.evaluations.suite.ablation import Pooled
from cutaway.evaluations.suite.crossed import CrossedTexts
from cutaway.evaluations.suite.scr import Removal, removal, spurious_correlation_removal
from cutaway.evaluations.suite.sparse_probing import Dense
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model

# Both labels of 4 texts, repeated: (0, 0), (0, 1), (1, 0), (1, 1).
TIMES = 5
LABELS = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]]).repeat(1, TIMES)
TEXTS = LABELS.shape[1]
EYE = torch.eye(2)


def signs() -> Tensor:
    """The two labels as −1 and 1, (n, 2)."""
    return (2 * LABELS.T - 1).float()


def apart(second: float = 2.0) -> Pooled:
    """Two features per concept: one writes +, one −; the second label is written `second` as long."""
    lengths = torch.tensor([1.0, second])
    written = signs() * lengths
    features = torch.cat([written.clamp(min=0), (-written).clamp(min=0)], 1)
    return Pooled(written, Dense(features), torch.cat([EYE, -EYE]))


def together() -> Pooled:
    """One feature per combination: each writes both labels, (1, 1) a little longer than the rest."""
    lengths = torch.tensor([1.0, 2.0])
    rows = (torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]) * 2.0 - 1) * lengths
    size = torch.tensor([1.0, 1.0, 1.0, 1.2])
    which = 2 * LABELS[0] + LABELS[1]
    features = torch.nn.functional.one_hot(which, 4).float() * size
    return Pooled(features @ rows, Dense(features), rows)


def scored(texts: Pooled, ns: tuple[int, ...], labels: Tensor = LABELS, **more: int) -> Removal:
    groups = torch.arange(labels.shape[1])
    return removal(texts, labels, texts, labels, groups, ns=ns, **{"resamples": 20, **more})


def test_features_of_one_concept_each_remove_the_cue_whole():
    # The biased probe is (1, 2)·s: the longer second label decides where the two disagree, so the
    # first is right on half of the texts. Without both features of the second, s·(±1, 0) is left.
    found = scored(apart(), (2,))
    assert found.base[:, 0].tolist() == [0.5, 1.0]
    assert found.oracle[:, 0].tolist() == [1.0, 1.0]
    assert found.directions() == (0,)
    assert found.score[0, 0, 0] == 1.0


def test_half_of_a_concept_pushes_every_text_to_one_side():
    # Zero ablation, not mean ablation. Of the two features of the cue, of equal effect, the first
    # goes: the + one. (0, 1) and (1, 1) then read (−1, 0) and (1, 0), right; (0, 0) still reads
    # (−1, −2), right; (1, 0) still reads (1, −2), wrong: 3 of 4.
    found = scored(apart(), (1,))
    assert found.score[0, 0, 0] == pytest.approx((0.75 - 0.5) / (1 - 0.5))


def test_features_of_both_concepts_at_once_gain_nothing():
    # With the features of one label value out, its texts all read 0: what was right is lost with
    # what was wrong. With all four out one class is said of all: accuracy 1/2, as before.
    found = scored(together(), (1, 2, 3, 4))
    assert found.base[0, 0] == 0.5
    assert found.directions() == (0,)
    assert found.score[0, :, 0].tolist() == [-0.5, 0.0, 0.0, 0.0]


def test_the_direction_is_that_in_which_the_biased_probe_starts_lower():
    assert scored(apart(2.0), (2,)).directions() == (0,)
    turned = scored(apart(0.5), (2,))
    assert turned.base[:, 0].tolist() == [1.0, 0.5]
    assert turned.directions() == (1,)
    assert turned.score[1, 0, 0] == 1.0


def test_directions_that_start_level_both_count():
    found = Removal(*([torch.zeros(2, 1, 1)] * 2), torch.full((2, 1), 0.7), torch.ones(2, 1), None)
    assert found.directions() == (0, 1)


def test_more_features_than_there_are_takes_all_of_them_out():
    found = scored(apart(), (2, 4, 500))
    assert found.removed.tolist() == [[2, 2, 2], [2, 2, 2]]  # the others have no effect at all
    assert torch.equal(found.score[0, 0], found.score[0, 2])


def test_a_target_that_cannot_be_read_leaves_the_score_undefined():
    states = torch.cat([torch.zeros(TEXTS, 1), signs()[:, 1:]], 1)
    features = torch.cat([states, -states], 1).clamp(min=0)
    blind = Pooled(states, Dense(features), torch.cat([EYE, -EYE]))
    found = scored(blind, (2,))
    assert (found.oracle[:, 0] <= found.base[:, 0]).all()
    assert found.score[:, 0, 0].isnan().all()


def test_a_target_probe_worse_than_the_biased_one_leaves_the_score_undefined():
    # On test texts whose first label is the other way round, the oracle is wrong everywhere and
    # the biased probe, which goes by the second label, on half.
    texts, turned = apart(), torch.stack([1 - LABELS[0], LABELS[1]])
    found = removal(texts, LABELS, texts, turned, torch.arange(TEXTS), ns=(2,), resamples=5)
    assert found.oracle[0, 0] == 0.0
    assert found.base[0, 0] == 0.5
    assert found.score[0].isnan().all()


def test_a_combination_without_a_text_is_an_error():
    kept = LABELS[:, (LABELS[0] * (1 - LABELS[1])) == 0]
    texts = apart()[(LABELS[0] * (1 - LABELS[1])) == 0]
    with pytest.raises(UserError, match=r"no training text has labels \(1, 0\)"):
        scored(texts, (2,), kept)


@pytest.mark.parametrize("ns", [(), (0,), (-2,), (2.5,)])
def test_numbers_of_features_are_checked(ns):
    with pytest.raises(UserError, match="ns = "):
        scored(apart(), ns)


def test_random_features_remove_the_cue_less_often():
    # Of 4 features 2 are the cue's: a random pair is exactly these in 1 case of 6.
    found = scored(apart(), (2,))
    assert -1.0 <= found.control[0, 0, 0] < found.score[0, 0, 0]


def test_a_task_is_scored_the_same_twice_and_otherwise_with_another_seed():
    first, again = (scored(noisy(), (2, 5), seed=3) for _ in range(2))
    other = scored(noisy(), (2, 5), seed=4)
    for part in ("score", "control"):
        assert_close(getattr(first, part), getattr(again, part), rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(first.control.nan_to_num(), other.control.nan_to_num())
    assert_close(first.score[..., 0], other.score[..., 0], rtol=0, atol=0, equal_nan=True)


def noisy(seed: int = 0) -> Pooled:
    """Overlapping classes in 6 dimensions and 9 features that write parts of them."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.nn.functional.normalize(torch.randn(9, 6, generator=generator), dim=1)
    features = torch.rand(TEXTS, 9, generator=generator)
    features[:, :2] += LABELS.T
    features[:, 2] += LABELS[1]
    noise = 0.3 * torch.randn(TEXTS, 6, generator=generator)
    return Pooled(features @ decoder + noise, Dense(features), decoder)


def test_the_score_is_the_published_formula_worked_with_scikit_learn():
    texts, ns = noisy(), (1, 2, 4, 9)
    found = scored(texts, ns)
    states, features = texts.states.double().numpy(), texts.features.values.double().numpy()
    decoder, labels = texts.decoder.double().numpy(), LABELS.numpy()
    scale = math.sqrt(6 / states.var(0, ddof=1).sum())

    def probe(rows: np.ndarray, label: np.ndarray) -> LogisticRegression:
        fit = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
        return fit.fit(states[rows] * scale, label[rows])

    everywhere = np.ones(TEXTS, bool)
    biased = probe(labels[0] == labels[1], labels[0])
    for target in (0, 1):
        oracle, cue = probe(everywhere, labels[target]), probe(everywhere, labels[1 - target])
        on = labels[1 - target] == 1
        effect = (features[on].mean(0) - features[~on].mean(0)) * (decoder @ cue.coef_[0])
        order = np.argsort(-abs(effect))
        base = biased.score(states * scale, labels[target])
        top = oracle.score(states * scale, labels[target])
        assert found.base[target, 0].item() == pytest.approx(base)
        assert found.oracle[target, 0].item() == pytest.approx(top)
        for place, n in enumerate(ns):
            out = np.isin(np.arange(9), order[:n])
            left = states - (features * out) @ decoder
            after = biased.score(left * scale, labels[target])
            expected = (after - base) / (top - base) if top > base else math.nan
            assert found.score[target, place, 0].item() == pytest.approx(expected, nan_ok=True)


# -- through the door, with a trained model ------------------------------------------------------


@pytest.fixture(scope="module")
def model(gpt2_run: Path) -> Model:
    return open_model(gpt2_run, device="cpu")


@pytest.fixture(scope="module")
def dictionary(model: Model) -> Dictionary:
    made = build(DictionaryShape("topk", model.width, 48, k=6), 1)
    made.metadata = {"site": "residual.0", "reference": model.reference.to_json()}
    return made


def crossed(name: str = "who and where", *, told: bool = True, seed: int = 0) -> CrossedTexts:
    """Sentences of four kinds, or, not `told`, one and the same for all four."""
    draw = random.Random(seed)
    first = [draw.choice(("king", "sister")) for _ in range(240)]
    second = [draw.choice(("night", "river")) for _ in range(240)]
    texts = [
        f"{draw.choice(('the old', 'my', 'every'))} {who} sees the {where} {number}"
        for number, (who, where) in enumerate(zip(first, second))
    ]
    groups = [f"document {number // 6}" for number in range(240)]
    texts = texts if told else texts[:1] * 240
    return CrossedTexts(name, texts, first, second, groups, ("who", "where"))


def test_rows_hold_the_score_both_directions_and_the_control(model, dictionary):
    rows = spurious_correlation_removal(dictionary, model, None, [crossed()], ns=(2, 5), seed=0)
    assert all(row["evaluation"] == "scr" and row["seed"] == 0 for row in rows)
    value = {(r["task"], r["measure"], r["subject"], r["k"]): r["value"] for r in rows}
    assert len(value) == len(rows)
    ways = [f"who and where: {way}" for way in ("who without where", "where without who")]
    for way in ways:
        assert value[way, "oracle_accuracy", "states", None] > 0.9  # a word is easily read
        assert 0.4 < value[way, "base_accuracy", "states", None] < 1
        assert value[way, "features_removed", "dictionary", 5] == 5
    lower = min(ways, key=lambda way: value[way, "base_accuracy", "states", None])
    for subject in ("dictionary", "random_features"):
        for k in (2, 5):
            headline = value["who and where", "scr", subject, k]
            assert headline == value[lower, "scr", subject, k]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows if row["low"] is not None)
    assert sum(row["low"] is None for row in rows) == 4  # the numbers of features alone


def test_several_seeds_are_those_seeds_alone(model, dictionary):
    some = {"ns": (3,), "resamples": 20}
    tasks = [crossed(), crossed("another", seed=1)]
    both = spurious_correlation_removal(dictionary, model, None, tasks, seed=(0, 1), **some)
    alone = spurious_correlation_removal(dictionary, model, None, tasks, seed=1, **some)
    assert [row for row in both if row["seed"] == 1] == alone
    assert [row for row in both if row["seed"] == 0] != alone


def test_labels_nobody_can_read_are_undefined_and_said_to_be(model, dictionary, capsys):
    tasks = [crossed(), crossed("alike", told=False)]
    rows = spurious_correlation_removal(dictionary, model, None, tasks, ns=(2,), resamples=20)
    scores = {row["task"]: row["value"] for row in rows if row["measure"] == "scr"}
    assert scores["alike"] is None
    assert scores["who and where"] is not None
    found = {row["value"] for row in rows if row["task"].startswith("alike: who")}
    assert found == {0.5, None, 0.0}  # both accuracies, the score, the features with an effect
    said = capsys.readouterr().err
    assert "alike: a probe of 'who' is right on 0.500" in said
    assert "who and where: a probe of" not in said


def test_settings_out_of_range_are_errors(model, dictionary):
    with pytest.raises(UserError, match="tasks: expected at least one"):
        spurious_correlation_removal(dictionary, model, None, [])
    with pytest.raises(UserError, match="seed: expected at least one"):
        spurious_correlation_removal(dictionary, model, None, [crossed()], seed=())
