"""What SCR and TPP share: pooled ablation, ranking, balanced weights, resampled accuracies."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from cutaway.activations.capture import capture
from cutaway.dictionaries.architectures.registry import ARCHITECTURES, build
from cutaway.dictionaries.model.dictionary import DictionaryShape
from cutaway.evaluations.suite.ablation import (
    Pooled,
    ablated_logits,
    active,
    balance,
    drawn_from,
    effects,
    interval,
    pooled_tasks,
    probes,
    rates,
    split,
    strongest,
)
from cutaway.evaluations.suite.sparse_probing import Dense
from cutaway.labelled.texts import LabelledTexts
from cutaway.nets.reference import open_model
from dictionaries.small_dictionaries import FEATURES, WIDTH, small, states

TEXTS, TOKENS = 12, 8


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_ablating_the_pooled_text_is_ablating_every_token_with_the_error_kept(architecture):
    dictionary = small(architecture)
    x = states(TEXTS * TOKENS)
    features = dictionary.encode(x)
    error = x - dictionary.decode(features)

    def pooled(values: torch.Tensor) -> torch.Tensor:
        return values.view(TEXTS, TOKENS, -1).mean(1)

    texts = Pooled(pooled(x), Dense(pooled(features)), dictionary.decoder_weight.detach())
    fit = probes(texts.states, torch.arange(TEXTS)[None] % 2, torch.ones(1, TEXTS))
    order = features.mean(0).argsort(descending=True)
    ns = (1, 3, 10, FEATURES, 500)
    found = ablated_logits(texts, fit, order, ns)
    for place, n in enumerate(ns):
        left = features.clone()
        left[:, order[:n]] = 0
        expected = fit.logits(pooled(dictionary.decode(left) + error))
        assert_close(found[place], expected, atol=1e-4, rtol=1e-4)


def test_an_effect_is_the_mean_difference_times_what_the_probe_reads_of_the_row():
    # Feature 0: 3 on label 1, 1 on label 0, row (1, 0). Feature 1: 0 and 4, row (0, 1).
    features = Dense(torch.tensor([[2.0, 0.0], [4.0, 0.0], [1.0, 4.0]]))
    texts = Pooled(torch.zeros(3, 2), features, torch.eye(2))
    labels, weight = torch.tensor([[1, 1, 0]]), torch.tensor([[0.5, 2.0]])
    even = torch.ones(1, 3)
    found = effects(texts, labels, even, weight, one_sided=False)
    assert found.tolist() == [[2 * 0.5, 4 * 2.0]]
    found = effects(texts, labels, even, weight, one_sided=True)
    assert found.tolist() == [[2 * 0.5, 0.0]]  # feature 1 is less active on the class
    against = effects(texts, labels, even, -weight, one_sided=True)
    assert against.tolist() == [[-2 * 0.5, 0.0]]  # the row speaks against the class: it comes last
    skewed = torch.tensor([[3.0, 1.0, 1.0]])  # the mean over label 1 becomes (3·2 + 4) / 4
    assert effects(texts, labels, skewed, weight, one_sided=True)[0, 0] == 1.5 * 0.5


def test_the_strongest_are_ranked_and_those_without_effect_left_out():
    effect = torch.tensor([0.0, 3.0, -1.0, 5.0, 0.0, 3.0])
    assert strongest(effect, 2).tolist() == [3, 1]
    assert strongest(effect, 500).tolist() == [3, 1, 5, 2]
    assert strongest(torch.zeros(4), 2).tolist() == []
    effect[4] = torch.nan
    assert strongest(effect, 2).tolist() == [3, 1]  # NaN outranks nothing


def test_random_features_are_among_the_active_and_each_comes_once():
    features = torch.zeros(5, 20)
    features[2, [3, 7, 11, 19]] = 1.0
    found = active(Pooled(torch.zeros(5, 2), Dense(features), torch.zeros(20, 2)))
    assert found.tolist() == [3, 7, 11, 19]
    assert sorted(drawn_from(found, 500, 0, 0).tolist()) == [3, 7, 11, 19]
    draws = [tuple(drawn_from(found, 2, 0, draw).tolist()) for draw in range(20)]
    assert all(len(set(drawn)) == 2 for drawn in draws)
    assert len(set(draws)) > 3


def test_balanced_weights_give_each_stratum_its_share_whatever_its_size():
    strata = torch.tensor([0, 0, 0, 0, 0, 1, 2, 2])
    shares = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.0, 0.5]])
    weights = balance(strata, shares)
    for problem, kept in enumerate((8, 7)):
        assert weights[problem].sum().item() == pytest.approx(kept)
        sums = torch.zeros(3).index_add(0, strata, weights[problem])
        assert_close(sums / kept, shares[problem])


def test_probes_do_not_hang_on_the_units_of_the_states():
    x = states(40)
    labels = (x[:, :1].T + 0.5 * x[:, 1:2].T > 0.3).long()
    even = torch.ones(1, 40)
    one, thousand = probes(x, labels, even), probes(1000 * x, labels, even)
    assert_close(one.logits(x), thousand.logits(1000 * x), atol=1e-3, rtol=1e-3)
    assert one.weight.shape == (1, WIDTH)


def test_rates_count_right_answers_in_each_stratum():
    correct = torch.tensor([[1, 1, 0, 1, 0], [0, 0.5, 1, 1, 1]])
    strata, groups = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([7, 7, 9, 9, 7])
    found = rates(correct, strata, 2, groups, resamples=50, seed=0)
    assert found.shape == (51, 2, 2)
    assert_close(found[0], torch.tensor([[2 / 3, 1 / 2], [0.5, 1.0]]), check_dtype=False)
    # Of two groups a draw holds the one twice, the other twice, or both.
    both, first, second = (2 / 3, 1 / 2), (1.0, 0.0), (0.0, 1.0)
    seen = {tuple(round(v, 6) for v in row) for row in found[1:, 0].tolist()}
    assert seen == {tuple(round(v, 6) for v in each) for each in (both, first, second)}


def test_resampling_documents_is_less_sure_than_resampling_texts():
    generator = torch.Generator().manual_seed(0)
    document = torch.arange(40).repeat_interleave(10)
    correct = (torch.rand(40, generator=generator) < 0.7).double()[document][None]  # alike within
    strata = torch.zeros(400, dtype=torch.long)

    def width(groups: torch.Tensor) -> float:
        found = rates(correct, strata, 1, groups, resamples=500, seed=0)
        _, low, high = interval(found[:, 0, 0])
        return high - low

    expected = 2 * 1.96 * math.sqrt(0.7 * 0.3 / 40)
    assert width(document) == pytest.approx(expected, rel=0.2)
    assert width(torch.arange(400)) == pytest.approx(expected / math.sqrt(10), rel=0.2)


def test_draws_without_a_stratum_are_left_out():
    # Four groups, two of each stratum: of the 256 draws 1 in 16 has the one only, 1 in 16 the
    # other only. Three groups, a stratum each: 6 draws of 27 have all.
    correct = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    strata, groups = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 2, 3])
    found = rates(correct, strata, 2, groups, resamples=400, seed=0)
    assert len(found) - 1 == pytest.approx(400 * (1 - 2 / 16), rel=0.1)
    assert found.isfinite().all()
    strata = torch.tensor([0, 1, 2])
    found = rates(correct[:, :3], strata, 3, strata, resamples=400, seed=0)
    assert len(found) == 1  # too few to speak of an interval


def test_one_document_says_nothing_of_others():
    found = rates(torch.ones(1, 4), torch.zeros(4).long(), 1, torch.zeros(4), resamples=9, seed=0)
    value, low, high = interval(found[:, 0, 0])
    assert value == 1.0
    assert low is None
    assert high is None


@pytest.mark.parametrize(("undefined", "has_interval"), [(4, True), (6, False)])
def test_an_interval_needs_nearly_all_resamples(undefined, has_interval):
    scores = torch.linspace(0, 1, 101)
    scores[1 : 1 + undefined] = math.nan
    value, low, high = interval(scores)
    assert value == 0.0
    assert (low is not None and high is not None) == has_interval


def test_an_undefined_score_has_no_interval():
    assert interval(torch.tensor([math.nan, 0.1, 0.2])) == (None, None, None)


def task_of(count: int = 90) -> LabelledTexts:
    texts = [f"the old king sees the river {number} " * (1 + number % 2) for number in range(count)]
    labels = [("a", "b")[number % 7 > 2] for number in range(count)]
    return LabelledTexts("kings", texts, labels, [f"{number // 3}" for number in range(count)])


def test_seven_tenths_of_the_texts_train_and_no_document_is_on_both_sides():
    task = task_of()
    train, test, groups = split(task, 0)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(90))
    assert len(train) == pytest.approx(63, abs=6)
    assert not {task.groups[row] for row in train} & {task.groups[row] for row in test}
    assert groups.tolist() == [int(task.groups[row]) for row in test]
    assert not torch.equal(train, split(task, 1)[0])


def test_pooled_texts_are_the_means_over_their_tokens_but_the_first(gpt2_run: Path):
    model = open_model(gpt2_run, device="cpu")
    dictionary = build(DictionaryShape("topk", model.width, 40, k=6), 3)
    with torch.no_grad():
        dictionary.input_scale.fill_(2.5)
    dictionary.metadata = {"site": "residual.0", "reference": model.reference.to_json()}
    limits = {"texts": 60, "seed": 0, "context_length": 12, "batch_tokens": 100}
    ((task, texts),) = pooled_tasks(dictionary, model, None, [task_of()], **limits)
    assert len(task) == len(texts.states) == 60
    site = model.site("residual.0")
    for row in (0, 17, 59):
        x = capture(model, model.tokens(task.texts[row])[:, :12], [site])[site][0, 1:]
        f = dictionary.encode(x)
        assert_close(texts.states[row], x.mean(0), atol=1e-5, rtol=1e-4)
        assert_close(
            texts.features[torch.tensor([row])].dense()[0], f.mean(0), atol=1e-5, rtol=1e-4
        )
        out = torch.tensor([int(f.mean(0).argmax())])
        left = dictionary.decode(f.index_fill(1, out, 0)) + x - dictionary.decode(f)
        written = texts.features[torch.tensor([row])].columns(out)[0] @ texts.decoder[out]
        assert_close(texts.states[row] - written, left.mean(0), atol=1e-5, rtol=1e-4)
