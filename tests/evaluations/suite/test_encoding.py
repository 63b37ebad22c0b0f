"""Means over texts against each text alone, dense."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cutaway.activations.capture import capture
from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.registry import ARCHITECTURES, build
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.evaluations.suite.encoding import SparseRows, encode_texts, sample_states
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model

SITE = "residual.0"
TEXTS = [
    "The cat sees the river in the morning.",
    "The",
    "My sister paints a red house again and again without a word for the last time.",
    "Our teacher asks about the vote.",
    "",
    "every sailor writes to her brother",
]


@pytest.fixture(scope="module")
def model(gpt2_run: Path) -> Model:
    return open_model(gpt2_run, device="cpu")


def dictionary_for(model: Model, architecture: str = "topk", **about) -> Dictionary:
    made = build(DictionaryShape(architecture, model.width, 48, k=6, groups=(8, 48)), 3)
    with torch.no_grad():
        made.input_scale.fill_(2.5)
        made.encoder_bias.uniform_(-0.2, 0.2)
    made.metadata = {"site": SITE, "reference": model.reference.to_json(), **about}
    return made


def alone(dictionary: Dictionary, model: Model, text: str, longest: int = 16):
    """Mean state, mean features and tokens of one text, position 0 left out."""
    ids = model.tokens(text)[:, :longest] if text else torch.zeros(1, 0, dtype=torch.int64)
    if ids.shape[1] < 2:
        return torch.zeros(model.width), torch.zeros(48), 0
    x = capture(model, ids, [SITE])[model.site(SITE)][0, 1:]
    return x.mean(0), dictionary.encode(x).mean(0), len(x)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("batch_tokens", [16, 1000])
def test_means_are_those_of_each_text_alone(model, architecture, batch_tokens):
    dictionary = dictionary_for(model, architecture)
    found = encode_texts(dictionary, model, TEXTS, batch_tokens=batch_tokens)
    features = found.features["dictionary"].dense()
    for row, text in enumerate(TEXTS):
        states, active, tokens = alone(dictionary, model, text)
        torch.testing.assert_close(found.states[row], states, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(features[row], active, atol=1e-5, rtol=1e-4)
        assert int(found.tokens[row]) == tokens
    assert found.tokens.tolist()[1] == 0 < int(found.tokens[2]) == 15


def test_a_text_is_read_up_to_the_context_asked_for(model):
    dictionary = dictionary_for(model, context_length=8)
    found = encode_texts(dictionary, model, TEXTS)
    assert int(found.tokens.max()) == 7
    states, _, _ = alone(dictionary, model, TEXTS[2], 5)
    shorter = encode_texts(dictionary, model, TEXTS, context_length=5)
    torch.testing.assert_close(shorter.states[2], states, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="context_length = 99: expected 2 to 16 tokens"):
        encode_texts(dictionary, model, TEXTS, context_length=99)


def test_position_0_counts_where_it_counted_in_training(model):
    dictionary = dictionary_for(model, positions="all")
    found = encode_texts(dictionary, model, TEXTS)
    ids = model.tokens(TEXTS[3])[:, :16]
    x = capture(model, ids, [SITE])[model.site(SITE)][0]
    torch.testing.assert_close(found.states[3], x.mean(0), atol=1e-5, rtol=1e-5)


def test_more_encoders_share_the_forward_pass(model):
    dictionary, other = dictionary_for(model), dictionary_for(model, "relu")
    found = encode_texts(dictionary, model, TEXTS, encoders={"other": other.encode_sparse})
    expected = encode_texts(other, model, TEXTS).features["dictionary"].dense()
    torch.testing.assert_close(found.features["other"].dense(), expected)


def test_a_sample_is_of_the_states_that_are_encoded(model):
    dictionary = dictionary_for(model)
    every = torch.cat(
        [
            capture(model, ids[:, :16], [SITE])[model.site(SITE)][0, 1:]
            for ids in (model.tokens(text) for text in TEXTS if text)
            if ids.shape[1] > 1
        ]
    )
    sample = sample_states(dictionary, model, TEXTS)
    assert sample.shape == every.shape
    distance = torch.cdist(sample.double(), every.double()).amin(1)
    assert float(distance.max()) < 1e-4
    assert len(sample_states(dictionary, model, TEXTS, count=10)) == 10


def test_what_cannot_be_read_is_refused(model):
    dictionary = dictionary_for(model)
    with pytest.raises(UserError, match="there are none"):
        encode_texts(dictionary, model, [])
    with pytest.raises(UserError, match="none has a token to read"):
        encode_texts(dictionary, model, ["", "a"])
    other = build(DictionaryShape("topk", model.width + 1, 48, k=6), 3)
    with pytest.raises(UserError, match="made for states of width"):
        encode_texts(other, model, TEXTS, site=SITE)


def test_sparse_rows_do_what_the_dense_matrix_does(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(20, 9, generator=generator)
    dense[torch.rand(20, 9, generator=generator) < 0.7] = 0
    dense[4] = 0
    rows, features = dense.nonzero(as_tuple=True)
    ends = torch.bincount(rows, minlength=20).cumsum(0)
    sparse = SparseRows(ends, features.int(), dense[rows, features], 9)
    torch.testing.assert_close(sparse.dense(), dense)
    some = torch.tensor([7, 4, 0, 19, 7])
    torch.testing.assert_close(sparse[some].dense(), dense[some])
    torch.testing.assert_close(sparse[some].columns(torch.tensor([8, 2])), dense[some][:, [8, 2]])
    torch.testing.assert_close(sparse.scaled(3.0).dense(), 3 * dense)
    weights = torch.randn(3, 20, generator=generator)
    torch.testing.assert_close(sparse.weighted(weights), weights @ dense)
    monkeypatch.setattr("cutaway.evaluations.suite.encoding._ENTRIES", 20)
    torch.testing.assert_close(sparse.weighted(weights), weights @ dense)
