"""Split features: the L1 probe is at its optimum, k grows by its rule, and the right features are found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cutaway.dictionaries.architectures.relu import ReLU
from cutaway.dictionaries.model.dictionary import DictionaryShape
from cutaway.evaluations.suite.splitting import (
    balanced,
    grown,
    l1_probe,
    sparse_matrix,
    split_features,
)


def compressed(x: Tensor) -> Tensor:
    return x.to_sparse_csr()


def concepts(n: int = 600, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (n, 40) and labels (3, n). Feature 0 fires on all of concept 0; 1 and 2 on one half
    of concept 1 each; 3 on all of concept 2 but few, on which 10 to 39 have one token in n each."""
    generator = torch.Generator().manual_seed(seed)
    concept = torch.randint(4, (n,), generator=generator)  # 3: none of them
    x = torch.zeros(n, 40)
    x[:, 4:10] = torch.rand(n, 6, generator=generator) * (
        torch.rand(n, 6, generator=generator) < 0.3
    )
    strength = 1 + torch.rand(n, generator=generator)
    half = torch.rand(n, generator=generator) < 0.5
    x[concept == 0, 0] = strength[concept == 0]
    x[(concept == 1) & half, 1] = strength[(concept == 1) & half]
    x[(concept == 1) & ~half, 2] = strength[(concept == 1) & ~half]
    third = (concept == 2).nonzero()[:, 0]
    x[third[12:], 3] = strength[third[12:]]
    x[third[:12], 10 + 12 * seed + torch.arange(12)] = 2.0  # a feature of its own for each
    return x, torch.stack([concept == 0, concept == 1, concept == 2])


def test_the_l1_probe_meets_the_conditions_of_its_optimum():
    x, labels = concepts()
    penalty = 0.01
    weight = l1_probe(
        compressed(x.double()), labels, penalty=penalty, iterations=5000, tolerance=0.0
    )
    y = labels.double()
    positives = y.sum(1, keepdim=True)
    v = torch.where(labels, (len(x) - positives) / positives, 1.0) / len(x)
    bias = torch.zeros(3, 1, dtype=torch.float64)
    for _ in range(200):  # the bias is free: Newton's steps on it alone
        p = (weight @ x.double().T + bias).sigmoid()
        bias -= (v * (p - y)).sum(1, keepdim=True) / (v * p * (1 - p)).sum(1, keepdim=True)
    gradient = (v * ((weight @ x.double().T + bias).sigmoid() - y)) @ x.double()
    used = weight != 0
    assert 3 <= used.sum() < weight.numel() / 2  # L1 leaves most at zero
    assert gradient[~used].abs().max() <= penalty * 1.001
    assert torch.allclose(gradient[used], -penalty * weight[used].sign(), atol=penalty * 0.001)


@pytest.mark.parametrize(
    ("f1", "count"),
    [
        ([0.5, 0.6, 0.61, 0.9], 2),  # what comes after a rise too small is not looked at
        ([0.5, 0.53, 0.7, 0.9], 1),  # more than 0.03, not as much
        ([0.5, 0.531, 0.562, 0.6], 4),
        ([0.9, 0.8, 0.99, 0.99], 1),
        ([0.03, 0.5, 0.6, 0.7], 0),  # against no probe: 0
        ([0.0, 0.0, 0.0, 0.0], 0),
    ],
)
def test_k_grows_while_f1_rises_by_more_than_three_hundredths(f1, count):
    assert grown(torch.tensor([f1], dtype=torch.float64)).tolist() == [count]


def test_balanced_weights_give_each_class_half_and_sum_to_the_number():
    labels = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]).bool()
    weight = balanced(labels)
    assert weight.sum(1).tolist() == pytest.approx([8, 8])
    assert (weight * labels).sum(1).tolist() == pytest.approx([4, 4])


def test_split_features_are_found_and_those_of_single_words_are_not_taken():
    train, validation = concepts(seed=0), concepts(seed=1)
    mask, f1 = split_features(
        compressed(train[0]), train[1], compressed(validation[0]), validation[1]
    )
    assert [row.nonzero()[:, 0].tolist() for row in mask] == [[0], [1, 2], [3]]
    assert f1[:2].tolist() == pytest.approx([1, 1], abs=0.01)
    assert 0.9 < f1[2] < 0.99  # it misses the words that have features of their own


def test_features_that_only_speak_against_a_concept_do_not_stand_for_it():
    x, labels = concepts()
    against = torch.stack([labels[0], ~labels[0]])  # feature 0 says no to the second
    x = x[:, :1]
    mask, f1 = split_features(compressed(x), against, compressed(x), against)
    assert mask[0].nonzero()[:, 0].tolist() == [0]
    assert not mask[1].any()
    assert f1.tolist() == pytest.approx([1.0, 0.0])


def test_the_sparse_matrix_holds_what_the_dictionary_encodes():
    dictionary = ReLU(DictionaryShape("relu", 8, 20), 1)
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    made = sparse_matrix(dictionary.encode_sparse(part) for part in x.split(16))
    assert made.layout is torch.sparse_csr
    assert torch.allclose(made.to_dense(), dictionary.encode(x), atol=1e-6)
