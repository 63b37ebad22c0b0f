from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cutaway.activations.capture import capture
from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.registry import ARCHITECTURES, build
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.features.effects import (
    activations,
    compare_logits,
    feature_effect,
    sample,
    sample_both,
)
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model

SITE = "residual.0"


@pytest.fixture(scope="module")
def model(gpt2_run: Path) -> Model:
    return open_model(gpt2_run, device="cpu")


@pytest.fixture(scope="module")
def dictionary(model: Model) -> Dictionary:
    return dictionary_for(model)


def dictionary_for(model: Model, architecture: str = "topk") -> Dictionary:
    made = build(DictionaryShape(architecture, model.width, 40, k=6, groups=(8, 40)), 3)
    with torch.no_grad():
        made.input_scale.fill_(2.5)
        made.encoder_bias.uniform_(-0.2, 0.2)
        made.decoder_bias.uniform_(-0.2, 0.2)
    made.metadata = {"site": SITE, "reference": model.reference.to_json()}
    return made


@pytest.fixture(scope="module")
def tokens(model: Model) -> torch.Tensor:
    return model.tokens("The old king sees the river")


@pytest.fixture(scope="module")
def states(model: Model, tokens: torch.Tensor) -> torch.Tensor:
    return capture(model, tokens, [SITE])[model.site(SITE)]


def busiest(dictionary: Dictionary, states: torch.Tensor) -> int:
    return int(dictionary.encode(states)[0, 1:].sum(0).argmax())


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
@pytest.mark.parametrize(("mode", "value"), [("scale", 1.0), ("add", 0.0)])
def test_unchanged_values_leave_the_model_as_it_is(architecture, mode, value, model, tokens):
    made = dictionary_for(model, architecture)
    before = model.logits(tokens)
    with feature_effect(model, made, SITE, {1: value, 7: value, 30: value}, mode=mode):
        after = model.logits(tokens)
    assert torch.equal(before, after)


def test_ablating_takes_out_what_the_feature_wrote_and_nothing_else(
    model, dictionary, tokens, states
):
    index = busiest(dictionary, states)
    wrote = dictionary.encode(states)[..., index, None] * dictionary.decoder_weight[index]
    assert wrote[0, 1:].abs().sum() > 0
    with feature_effect(model, dictionary, SITE, {index: 0.0}):
        after = capture(model, tokens, [SITE])[model.site(SITE)]
    assert torch.equal(after[:, 0], states[:, 0])  # position 0 is left alone
    assert torch.allclose(after[:, 1:], (states - wrote)[:, 1:], atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "value", "new"),
    [
        ("set", 3.0, lambda f: 3.0 + 0 * f),
        ("scale", 2.0, lambda f: 2 * f),
        ("add", -1.5, lambda f: f - 1.5),
    ],
)
def test_modes_set_scale_and_add(mode, value, new, model, dictionary, tokens, states):
    index = busiest(dictionary, states)
    old = dictionary.encode(states)[..., index]
    with feature_effect(model, dictionary, None, {index: value}, mode=mode, positions=None):
        after = capture(model, tokens, [SITE])[model.site(SITE)]
    expected = states + (new(old) - old)[..., None] * dictionary.decoder_weight[index]
    assert torch.allclose(after, expected, atol=1e-5)


def test_only_the_asked_positions_change(model, dictionary, tokens, states):
    with feature_effect(model, dictionary, SITE, {0: 4.0}, positions=2):
        after = capture(model, tokens, [SITE])[model.site(SITE)]
    changed = (after != states).any(-1)[0]
    assert changed.nonzero().view(-1).tolist() == [2]


def test_a_dictionary_trained_on_position_0_changes_it_too(model, tokens, states):
    made = dictionary_for(model)
    made.metadata["positions"] = "all"
    with feature_effect(model, made, SITE, {0: 4.0}):
        after = capture(model, tokens, [SITE])[model.site(SITE)]
    assert not torch.equal(after[:, 0], states[:, 0])


def test_activations_are_columns_of_the_dense_ones(dictionary, states):
    chosen = torch.tensor([31, 2, 9])
    found = activations(dictionary, states[0], chosen)
    assert torch.equal(found, dictionary.encode(states[0])[:, chosen])


def test_steering_raises_the_tokens_its_row_promotes(model, tokens):
    """In a one-block model the row reaches the logits through the final norm alone."""
    with torch.no_grad():
        rows = model.decoder_weight - model.decoder_weight.mean(0)
        target = int(rows.norm(dim=1).argmax())  # no other row has a larger product with its own
        aimed = dictionary_for(model)
        aimed.decoder_weight[5] = rows[target] / rows[target].norm()
    found = compare_logits(
        model, tokens, feature_effect(model, aimed, SITE, {5: 500.0}, mode="add"), top=300
    )
    likeliest = max(found.raised, key=lambda one: one["after"])
    assert likeliest["token_id"] == target
    assert likeliest["token"] == model.reads.token(target)
    assert likeliest["after"] > likeliest["before"]
    assert found.divergence > 0.1


def test_comparison_agrees_with_the_two_forward_passes(model, dictionary, tokens, states):
    index = busiest(dictionary, states)
    found = compare_logits(
        model, tokens, feature_effect(model, dictionary, SITE, {index: 0.0}), position=3, top=4
    )
    before = model.logits(tokens)[0, 3].double()
    with feature_effect(model, dictionary, SITE, {index: 0.0}):
        after = model.logits(tokens)[0, 3].double()
    p, q = before.softmax(-1), after.softmax(-1)
    assert found.divergence == pytest.approx(float((p * (p / q).log()).sum().detach()), rel=1e-6)
    moved = after - after.mean() - before + before.mean()
    assert [one["token_id"] for one in found.raised] == moved.topk(4).indices.tolist()
    one = found.lowered[0]
    assert one["change"] == pytest.approx(float(moved.min().detach()))
    assert one["before"] == pytest.approx(float(p[one["token_id"]].detach()))


def test_samples_are_equal_where_nothing_changes_and_differ_where_it_does(model, dictionary):
    same = feature_effect(model, dictionary, SITE, {3: 1.0}, mode="scale")
    one, two = sample_both(model, "The old king", same, length=25, seed=4)
    assert one == two
    assert one.startswith("The old king")
    strong = feature_effect(model, dictionary, SITE, {3: 80.0})
    before, after = sample_both(model, "The old king", strong, length=25, seed=4)
    assert before == one
    assert after != before


def test_sampling_follows_the_models_distribution(model, tokens):
    many = sample(model, tokens.expand(4000, -1), 1, temperature=0.7, seed=1)[:, -1]
    chances = (model.logits(tokens)[0, -1].double() / 0.7).softmax(-1)
    drawn = torch.bincount(many, minlength=len(chances)) / len(many)
    top = chances.topk(5).indices
    assert torch.allclose(drawn[top].double(), chances[top], atol=0.03)
    greedy = sample(model, tokens, 3, temperature=0)
    assert greedy[0, tokens.shape[1]] == model.logits(tokens)[0, -1].argmax()
    few = sample(model, tokens.expand(200, -1), 1, top_k=2, seed=2)[:, -1]
    assert set(few.tolist()) <= set(chances.topk(2).indices.tolist())


def test_a_sample_grows_beyond_the_models_context(model):
    grown = sample(model, model.tokens("The cat"), 40, seed=0)
    assert grown.shape[1] > model.max_length


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"features": {40: 0.0}}, "feature = 40: the dictionary has features 0 to 39"),
        ({"features": {-1: 0.0}}, "feature = -1"),
        ({"features": {}}, "none given"),
        ({"mode": "boost"}, "mode = 'boost': expected one of set, scale, add"),
        ({"site": "residual.9"}, "layers 0 to 0"),
    ],
)
def test_bad_requests_are_refused(arguments, said, model, dictionary, tokens):
    settings = {"site": SITE, "features": {0: 0.0}} | arguments
    with pytest.raises(UserError, match=said), feature_effect(model, dictionary, **settings):
        model.logits(tokens)


def test_a_dictionary_of_another_width_or_without_a_site_is_refused(model):
    wide = build(DictionaryShape("topk", model.width + 1, 8, k=2), 0)
    with pytest.raises(UserError, match=r"width 17, and .* has 16"):
        feature_effect(model, wide, SITE, {0: 0.0})
    with pytest.raises(UserError, match="name its site"):
        feature_effect(model, wide, None, {0: 0.0})


def test_a_position_beyond_the_prompt_is_refused(model, dictionary, tokens):
    effect = feature_effect(model, dictionary, SITE, {0: 0.0})
    with pytest.raises(UserError, match="position = 99: the prompt has"):
        compare_logits(model, tokens, effect, position=99)
