from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cutaway.activations.capture import capture
from cutaway.activations.config import ExtractionConfig
from cutaway.activations.extraction import extract
from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.registry import build
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.features.examples import PairCounts
from cutaway.features.reader import read_features
from cutaway.features.table import Features
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model

SITE = "residual.0"
EXAMPLES, BEFORE, AFTER = 4, 3, 2


@pytest.fixture(scope="module")
def model(gpt2_run: Path) -> Model:
    return open_model(gpt2_run, device="cpu")


def dictionary_for(model: Model, architecture: str = "topk", features: int = 48) -> Dictionary:
    """Random directions, of which the last two never fire."""
    made = build(DictionaryShape(architecture, model.width, features, k=6, groups=(8, features)), 3)
    with torch.no_grad():
        made.input_scale.fill_(2.5)
        made.encoder_bias.uniform_(-0.2, 0.2)
        made.encoder_bias[-2:] = -1e4
    made.metadata = {"site": SITE, "reference": model.reference.to_json()}
    return made


@pytest.fixture(scope="module")
def text(model: Model) -> list:
    """Three batches of contexts of a few repeated tokens, the second with padding on the right."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(3):
        ids = torch.randint(0, 25, (5, 12), generator=generator)
        mask = torch.ones_like(ids)
        if number == 1:
            mask[2, 9:] = 0
            mask[4, 5:] = 0
        made.append((ids, mask, torch.arange(5) + 10 * number))
    return made


@pytest.fixture(scope="module")
def dictionary(model: Model) -> Dictionary:
    return dictionary_for(model)


@pytest.fixture(scope="module")
def features(dictionary: Dictionary, model: Model, text: list) -> Features:
    settings = {"examples": EXAMPLES, "context": (BEFORE, AFTER), "minimum": 2, "top_tokens": 5}
    return read_features(dictionary, model, text, batch_size=24, **settings)


@pytest.fixture(scope="module")
def truth(dictionary: Dictionary, model: Model, text: list) -> list[dict]:
    """Every context by itself, densely: its ids and its activations (T, F), position 0 silent."""
    contexts = []
    for ids, mask, documents in text:
        for row, keep, document in zip(ids, mask.bool(), documents.tolist()):
            alone = row[keep][None]
            active = dictionary.encode(capture(model, alone, [SITE])[model.site(SITE)])[0]
            active[0] = 0
            contexts.append({"ids": alone[0], "active": active, "document": document})
    return contexts


def test_density_mean_and_maximum_are_those_of_the_dense_activations(features, truth):
    active = torch.cat([one["active"] for one in truth])
    tokens = len(active) - len(truth)  # position 0 is not counted
    assert features.facts["tokens"] == tokens
    assert features.table["fires"].to_pylist() == (active > 0).sum(0).tolist()
    assert features.density == pytest.approx((active > 0).sum(0).numpy() / tokens)
    assert features.table["max"].to_numpy() == pytest.approx(active.amax(0).numpy(), rel=1e-5)
    mean = active.sum(0) / (active > 0).sum(0).clamp(min=1)
    assert features.table["mean"].to_numpy() == pytest.approx(mean.numpy(), rel=1e-5)


def test_silent_features_are_listed_as_dead(features, truth):
    active = torch.cat([one["active"] for one in truth])
    silent = (active > 0).sum(0).eq(0).nonzero().view(-1).tolist()
    assert features.dead == silent
    assert {46, 47} <= set(silent)
    assert "dead" in features.summary(47)


def test_the_histogram_counts_every_positive_activation_in_its_bin(features, truth):
    active = torch.cat([one["active"] for one in truth]).numpy()
    counted = np.array(features.table["histogram"].to_pylist())
    edges = features.edges
    assert np.diff(np.log2(edges)) == pytest.approx(0.5)
    for index in range(len(features)):
        values = active[:, index][active[:, index] > 0]
        expected = np.histogram(values.clip(edges[0], edges[-1] * (1 - 1e-7)), edges)[0]
        assert counted[index].tolist() == expected.tolist()


def test_examples_are_the_strongest_tokens_of_the_strongest_contexts(features, truth):
    for index in range(len(features)):
        best = []
        for one in truth:
            value, place = one["active"][:, index].max(0)
            if value > 0:
                best.append((float(value), one["document"], int(place), one))
        best.sort(key=lambda found: -found[0])
        shown = features.examples_of(index)
        assert [one["rank"] for one in shown] == list(range(min(EXAMPLES, len(best))))
        for example, (value, document, place, one) in zip(shown, best):
            assert example["activation"] == pytest.approx(value, rel=1e-5)
            assert (example["document"], example["position"]) == (document, place)
            window = slice(max(0, place - BEFORE), place + AFTER + 1)
            assert example["token_ids"] == one["ids"][window].tolist()
            assert example["centre"] == min(place, BEFORE)
            around = one["active"][window, index].tolist()
            assert example["activations"] == pytest.approx(around, rel=1e-5)


def test_tokens_are_ranked_by_smoothed_lift(features, truth):
    ids = torch.cat([one["ids"][1:] for one in truth])
    active = torch.cat([one["active"][1:] for one in truth]) > 0
    for index in range(0, len(features), 7):
        rate = active[:, index].double().mean()
        expected = {}
        for token in ids.unique().tolist():
            fires, seen = int(active[ids == token, index].sum()), int((ids == token).sum())
            if fires >= 2:
                expected[token] = float((fires / rate + 10) / (seen + 10))
        shown = features.row(index)["tokens"]
        best = sorted(expected.values(), reverse=True)[:5]
        assert [one["lift"] for one in shown] == pytest.approx(best)
        for one in shown:
            assert one["lift"] == pytest.approx(expected[one["token_id"]])
            assert one["share"] == pytest.approx(one["fires"] / one["occurrences"])


def test_a_token_that_is_common_everywhere_loses_to_one_that_makes_the_feature_fire(model):
    """By raw count the common token would win."""
    made = dictionary_for(model)
    ids = torch.full((40, 10), 5)
    ids[:4, 4] = 9  # rare

    class Fires(Dictionary):
        """Feature 0 on every 9, and on one 5 in three."""

        architecture = "topk"
        couples = False

        def encode_sparse(self, x):
            codes = made.encode_sparse(x)
            dense = torch.zeros(len(x), 48)
            on = torch.zeros(self.rows.shape, dtype=torch.bool)
            on[:, 1::3] = True
            dense[on.view(-1) | (self.rows.view(-1) == 9), 0] = 1.0
            flat = dense.view(-1).nonzero().view(-1)
            return type(codes)(dense.view(-1)[flat], type(codes.pattern)(flat, (len(x), 48)))

    fires = Fires(made.shape)
    fires.metadata, fires.rows = made.metadata, ids
    found = read_features(fires, model, [(ids, None, None)], minimum=1).row(0)["tokens"]
    assert [one["token_id"] for one in found] == [9, 5]
    assert found[0]["fires"] < found[1]["fires"]
    assert found[0]["share"] == 1.0


def test_promoted_tokens_are_the_largest_of_the_decoder_row_through_the_unembedding(
    features, dictionary, model
):
    logits = dictionary.decoder_weight.detach() @ model.decoder_weight.T
    logits -= logits.mean(1, keepdim=True)
    for index in (0, 13, 47):
        shown = features.row(index)["promoted"]
        values, ids = logits[index].topk(5)
        assert [one["token_id"] for one in shown] == ids.tolist()
        assert [one["logit"] for one in shown] == pytest.approx(values.tolist(), rel=1e-4)
        assert shown[0]["token"] == model.reads.token(int(ids[0]))


def test_a_backpack_promotes_nothing(backpack_run, text):
    model = open_model(backpack_run, device="cpu")
    found = read_features(dictionary_for(model), model, text)
    assert found.row(3)["promoted"] is None
    assert "promotes" not in found.summary(3)


def test_the_size_of_pieces_does_not_matter(features, dictionary, model, text):
    settings = {"examples": EXAMPLES, "context": (BEFORE, AFTER), "minimum": 2, "top_tokens": 5}
    whole = read_features(dictionary, model, text, **settings)
    for name in ("fires", "histogram"):
        assert whole.table[name].equals(features.table[name])
    for name in ("feature", "position", "document", "token_ids"):
        assert whole.examples[name].equals(features.examples[name])


@pytest.mark.parametrize("architecture", ["jumprelu", "batch_topk", "gated", "relu", "matryoshka"])
def test_every_architecture_is_read(architecture, model, text):
    made = dictionary_for(model, architecture)
    found = read_features(made, model, text)
    state = torch.cat([capture(model, ids, [SITE])[model.site(SITE)][:, 1:] for ids, _, _ in text])
    kept = torch.cat([mask[:, 1:] for _, mask, _ in text]).bool()
    fires = (made.encode(state[kept]) > 0).sum(0)
    assert found.table["fires"].to_pylist() == fires.tolist()


def test_a_store_gives_what_the_model_gives(gpt2_run, corpus, model, dictionary, tmp_path):
    config = ExtractionConfig(
        model=str(gpt2_run), data=str(corpus), layers="0", tokens=2000, context_length=16
    )
    store = extract(config, tmp_path / "store")
    direct = [
        (
            store.tokens(at, at + 160).view(-1, 16).long(),
            None,
            store.documents(at, at + 160).view(-1, 16),
        )
        for at in range(0, store.rows - store.rows % 160, 160)
    ]
    rows = sum(ids.numel() for ids, _, _ in direct)
    ours = read_features(dictionary, model, store, tokens=rows, batch_size=100)
    theirs = read_features(dictionary, model, direct)
    for name in ("fires", "histogram", "tokens"):
        assert ours.table[name].equals(theirs.table[name])
    assert ours.examples["token_ids"].equals(theirs.examples["token_ids"])
    assert ours.examples["document"].equals(theirs.examples["document"])
    alone = read_features(dictionary, None, store, tokens=rows)
    assert alone.table["fires"].equals(theirs.table["fires"])
    assert alone.row(0)["promoted"] is None
    often = int(np.argmax(alone.table["fires"].to_numpy()))
    assert alone.row(often)["tokens"][0]["token"].startswith("#")


def test_a_state_that_is_not_finite_is_left_out_and_counted(dictionary, model, text):
    from cutaway.activations.splice import splice

    def broken(state):
        state = state.clone()
        state[0, 3] = float("nan")
        return state

    with splice(model, {SITE: broken}):
        found = read_features(dictionary, model, text[:1])
    assert found.facts["non_finite"] == 1
    assert found.facts["tokens"] == 5 * 11 - 1
    assert np.isfinite(found.table["max"].to_numpy()).all()


def test_a_dictionary_trained_on_position_0_is_read_there_too(model, text):
    made = dictionary_for(model)
    made.metadata["positions"] = "all"
    assert read_features(made, model, text).facts["tokens"] == 60 + 60 - 3 - 7 + 60


def test_saved_features_come_back_the_same(features, tmp_path):
    features.save(tmp_path)
    back = Features.load(tmp_path)
    assert back.facts == json.loads(json.dumps(features.facts))
    assert back.table.equals(features.table)
    assert back.examples.equals(features.examples)
    assert back.summary(3) == features.summary(3)


def test_a_summary_says_what_the_feature_is(features):
    index = int(np.argmax(features.density))
    said = features.summary(index, examples=2)
    row, first = features.row(index), features.examples_of(index)[0]
    assert f"{row['density']:.3%}" in said
    assert len(said.splitlines()) == 5
    assert "«" in said.splitlines()[-1]
    assert f"{first['activation']:.3g}" in said


def test_pairs_are_exact_below_their_limit_and_bounded_above_it():
    generator = torch.Generator().manual_seed(1)
    common = torch.randint(0, 3, (4000,), generator=generator)
    rare = torch.randint(3, 1000, (4000,), generator=generator)
    exact, bounded = PairCounts(2000), PairCounts(2000, limit=40)
    for start in range(0, 4000, 200):
        for part in (common, rare):
            tokens = part[start : start + 200]
            for one in (exact, bounded):
                one.add(torch.zeros_like(tokens), tokens)
    _, tokens, counts = exact.pairs()
    assert counts.sum() == 8000
    true = dict(zip(tokens.tolist(), counts.tolist()))
    _, tokens, counts = bounded.pairs()
    assert len(tokens) <= 40
    for token, count in zip(tokens.tolist(), counts.tolist()):
        assert true[token] - bounded.missed <= count <= true[token]
    assert {0, 1, 2} <= set(tokens.tolist())
    assert bounded.missed < 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"examples": 0}, "examples = 0"),
        ({"tokens": 0}, "tokens = 0"),
        ({"site": "residual.7"}, "layer = 'residual.7'"),
        ({"model": None}, "model"),
        ({"contexts": []}, "no token to read"),
        ({"contexts": [(torch.ones(4, 1, dtype=torch.int64), None, None)]}, "no token to read"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(change, said, dictionary, model, text):
    arguments = {"model": model, "contexts": text} | change
    with pytest.raises(UserError, match=said):
        read_features(dictionary, **arguments)


def test_another_models_dictionary_is_refused(backpack_run, dictionary, text):
    with pytest.raises(UserError, match="other weights"):
        read_features(dictionary, open_model(backpack_run, device="cpu"), text)


def test_missing_or_unknown_features_are_named(features, tmp_path):
    with pytest.raises(UserError, match=r"no features read yet \(features.json"):
        Features.load(tmp_path)
    with pytest.raises(UserError, match="feature = 48"):
        features.row(48)
