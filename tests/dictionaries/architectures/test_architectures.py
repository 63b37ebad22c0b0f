"""Every architecture does what its paper and DEFINITIONS say: losses, gradients, counts, units."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cutaway.dictionaries.architectures.jumprelu import Count, Jump, JumpReLU
from cutaway.dictionaries.architectures.registry import ARCHITECTURES, build
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.dictionaries.model.revival import auxiliary_loss
from dictionaries.small_dictionaries import (
    FEATURES,
    FORMS,
    K,
    dead_features,
    gradients,
    hints,
    losses,
    small,
    states,
)

ENCODER = {"encoder_weight", "encoder_bias"}
DECODER = {"decoder_weight", "decoder_bias"}
CENTRED = ENCODER | {"decoder_bias"}  # the encoder sees x̃ − b_dec
# which part of the loss reaches which parameter
REACH = {
    ("jumprelu", "step", "reconstruction_loss"): ENCODER | DECODER | {"threshold"},
    ("jumprelu", "step", "sparsity_loss"): {"threshold"},
    ("jumprelu", "target", "sparsity_loss"): {"threshold"},
    ("jumprelu", "tanh", "sparsity_loss"): ENCODER | {"threshold"},
    ("jumprelu", "step", "auxiliary_loss"): ENCODER | {"decoder_weight"},
    ("topk", "step", "reconstruction_loss"): ENCODER | DECODER,
    ("topk", "step", "auxiliary_loss"): ENCODER | {"decoder_weight"},
    ("batch_topk", "step", "reconstruction_loss"): ENCODER | DECODER,
    ("batch_topk", "step", "auxiliary_loss"): ENCODER | {"decoder_weight"},
    ("matryoshka", "step", "reconstruction_loss"): ENCODER | DECODER,
    ("matryoshka", "step", "nested_loss"): ENCODER | DECODER,
    ("matryoshka", "step", "auxiliary_loss"): ENCODER | {"decoder_weight"},
    ("relu", "step", "reconstruction_loss"): ENCODER | DECODER,
    ("relu", "step", "sparsity_loss"): CENTRED,
    ("relu", "step", "auxiliary_loss"): ENCODER | {"decoder_weight"},
    # the gate's bias decides whether, not how much
    ("gated", "step", "reconstruction_loss"): {
        *("encoder_weight", "log_magnitude", "magnitude_bias", "decoder_weight", "decoder_bias")
    },
    ("gated", "step", "sparsity_loss"): CENTRED,
    ("gated", "step", "gate_loss"): ENCODER,  # the decoder is a frozen copy
    ("gated", "step", "auxiliary_loss"): ENCODER | {"decoder_weight"},
}


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(("architecture", "form", "part"), REACH)
def test_each_part_of_the_loss_reaches_the_parameters_it_should(
    architecture: str, form: str, part: str, dense: bool
):
    dictionary = small(architecture)
    told = hints(form, dense=dense, dead=dead_features(3, 17, 30))
    found = gradients(dictionary, losses(dictionary, states(), told)[part])
    reached = {name for name, gradient in found.items() if gradient.any()}
    assert reached == REACH[architecture, form, part]


def test_no_part_of_a_loss_is_missing_from_the_table():
    for architecture, form in FORMS:
        told = hints(form, dead=dead_features(3))
        for part in losses(small(architecture), states(), told):
            assert (architecture, form, part) in REACH or form in ("target", "tanh")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_auxk_reaches_the_rows_of_dead_features_only(architecture: str):
    dictionary, dead = small(architecture), dead_features(3, 17, 30)
    found = losses(dictionary, states(), hints(dead=dead))["auxiliary_loss"]
    gradient = gradients(dictionary, found)
    for name in ("encoder_weight", "encoder_bias", "decoder_weight"):
        touched = gradient[name].reshape(FEATURES, -1).any(1)
        assert torch.equal(touched, dead), name


def test_auxk_is_the_squared_error_of_the_residual_as_the_largest_dead_features_write_it():
    dictionary, x = small("topk"), states()
    dead = dead_features(*range(20))  # 20 dead, of which d/2 = 6 write
    residual = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    z = (x - dictionary.decoder_bias) @ dictionary.encoder_weight.T + dictionary.encoder_bias
    written = torch.zeros_like(x)
    for row in range(len(x)):
        for feature in z[row, :20].topk(6).indices:
            written[row] += z[row, feature].clamp(min=0) * dictionary.decoder_weight[feature]
    expected = (residual - written).square().sum() / len(x) / 32
    torch.testing.assert_close(auxiliary_loss(dictionary, x, residual, dead), expected)


# -- JumpReLU's threshold --------------------------------------------------------------------------


def test_the_threshold_gets_the_derivative_of_the_expected_loss():
    """z uniform on (0, 2), loss (z·H(z − θ) − t)², whose mean has the derivative −(θ² − 2tθ)/2."""
    width, target, count = 0.02, 0.3, 2_000_001
    z = torch.linspace(0, 2, count, dtype=torch.float64)
    for height in (0.5, 0.9, 1.4):
        threshold = torch.tensor(height, dtype=torch.float64, requires_grad=True)
        loss = (Jump.apply(z, threshold, width) - target).square().mean()
        (found,) = torch.autograd.grad(loss, threshold)
        expected = -(height**2 - 2 * target * height) / 2
        assert float(found) == pytest.approx(expected, abs=0.02 * height)


def test_the_threshold_gets_the_derivative_of_the_expected_count():
    """z uniform on (0, 2): E[H(z − θ)] = (2 − θ)/2 has the derivative −1/2."""
    z = torch.linspace(0, 2, 2_000_001, dtype=torch.float64)
    for width in (0.02, 0.3):
        threshold = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
        (found,) = torch.autograd.grad(Count.apply(z, threshold, width).mean(), threshold)
        assert float(found) == pytest.approx(-0.5, abs=1e-4)


@pytest.mark.parametrize("part", ["reconstruction_loss", "sparsity_loss"])
@pytest.mark.parametrize("form", ["step", "target", "tanh"])
def test_a_dictionarys_thresholds_get_the_finite_difference_of_the_mean_loss(form: str, part: str):
    """On many tokens, over a stretch of θ wide enough to smooth the loss's jumps."""
    shape = DictionaryShape("jumprelu", 4, 3, bandwidth=0.05)
    dictionary = build(shape, 0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200_000, 4, generator=generator)
    with torch.no_grad():
        dictionary.threshold.copy_(torch.linspace(0.5, 1.2, 3))

    def loss() -> Tensor:
        return losses(dictionary, x, hints(form, dense=True))[part]

    found = gradients(dictionary, loss())["threshold"]
    stretch, expected = 0.06, torch.zeros(3)
    with torch.no_grad():
        for feature in range(3):
            sides = []
            for side in (1, -1):
                dictionary.threshold[feature] += side * stretch
                sides.append(loss().double())
                dictionary.threshold[feature] -= side * stretch
            expected[feature] = (sides[0] - sides[1]) / (2 * stretch)
    torch.testing.assert_close(found, expected, rtol=0.06, atol=0.02 * float(expected.abs().max()))


def test_pre_activations_below_the_threshold_get_no_gradient():
    z = torch.tensor([0.4, 0.49, 0.51, 0.6], requires_grad=True)
    values = Jump.apply(z, torch.tensor(0.5), 0.1)
    assert values.tolist() == pytest.approx([0, 0, 0.51, 0.6])
    (gradient,) = torch.autograd.grad(values.sum(), z)
    assert gradient.tolist() == [0, 0, 1, 1]


def test_a_dead_features_threshold_sinks_and_no_others():
    dictionary = small("jumprelu")
    before = dictionary.threshold.detach().clone()
    dictionary.wake(dead_features(5))
    moved = dictionary.threshold.detach() != before
    assert torch.equal(moved, dead_features(5))
    assert 0 < float(dictionary.threshold[5].detach()) < float(before[5])


# -- the others, against plain references -----------------------------------------------------------


def test_topk_keeps_exactly_the_k_largest_positive():
    dictionary, x = small("topk"), states()
    z = (x - dictionary.decoder_bias) @ dictionary.encoder_weight.T + dictionary.encoder_bias
    smallest = z.topk(K, dim=1).values[:, -1:]
    assert (smallest > 0).all()
    expected = torch.where(z >= smallest, z, 0)
    torch.testing.assert_close(dictionary.encode(x), expected)
    assert ((dictionary.encode(x) > 0).sum(1) == K).all()
    with torch.no_grad():  # where fewer are positive, only those
        dictionary.encoder_bias.sub_(2.5)
    found = dictionary.encode(x)
    assert torch.equal(found > 0, torch.where(z - 2.5 > 0, z >= smallest, False))
    assert (found > 0).sum(1).min() < K


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("architecture", ["batch_topk", "matryoshka"])
def test_batch_topk_keeps_exactly_k_per_token_over_the_batch(architecture: str, dense: bool):
    dictionary, x = small(architecture), states()
    z = (x - dictionary.decoder_bias) @ dictionary.encoder_weight.T + dictionary.encoder_bias
    smallest = z.flatten().topk(K * len(x)).values[-1]
    step = dictionary.step(x, hints(dense=dense))
    torch.testing.assert_close(step.codes.dense(), torch.where(z >= smallest, z, 0))
    assert int((step.codes.values > 0).sum()) == K * len(x)
    assert (step.codes.dense() > 0).sum(1).unique().numel() > 1  # not k for each token
    torch.testing.assert_close(step.notes["smallest"], smallest)


def test_batch_topks_threshold_is_the_mean_of_the_smallest_kept():
    dictionary = small("batch_topk")
    kept = []
    for seed in range(6):
        step = dictionary.step(states(seed=seed), hints(dense=False))
        kept.append(float(step.codes.values.detach().min()))
        dictionary.learn(step.notes)
    assert float(dictionary.threshold) == pytest.approx(sum(kept) / len(kept), rel=1e-5)
    assert len({round(value, 4) for value in kept}) == 6
    found = dictionary.encode(states())
    assert found[found > 0].min() > dictionary.threshold
    alone = dictionary.encode(states()[:1])  # after training a token's features are its own
    torch.testing.assert_close(alone, found[:1])


def test_a_batch_without_a_positive_pre_activation_leaves_batch_topks_threshold():
    dictionary = small("batch_topk")
    dictionary.learn(dictionary.step(states(), hints(dense=False)).notes)
    threshold, bias = float(dictionary.threshold), dictionary.encoder_bias.detach().clone()
    with torch.no_grad():
        dictionary.encoder_bias.fill_(-1e3)
    silent = dictionary.step(states(), hints(dense=False))
    assert int(silent.codes.fired().sum()) == 0
    dictionary.learn(silent.notes)
    assert float(dictionary.threshold) == threshold > 0
    with torch.no_grad():
        dictionary.encoder_bias.copy_(bias)
    step = dictionary.step(states(seed=1), hints(dense=False))
    dictionary.learn(step.notes)  # the second that counts
    assert float(dictionary.threshold) == pytest.approx(
        (threshold + float(step.notes["smallest"])) / 2, rel=1e-6
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_tokens_have_no_features(architecture: str):
    dictionary = small(architecture)
    nothing = states()[:0]
    assert dictionary.encode(nothing).shape == (0, FEATURES)
    assert dictionary.encode(nothing[None]).shape == (1, 0, FEATURES)
    assert dictionary(nothing).shape == nothing.shape
    assert dictionary.encode_sparse(nothing).fired().tolist() == [0] * FEATURES


@pytest.mark.parametrize("dense", [True, False])
def test_matryoshkas_loss_is_the_mean_over_its_widths(dense: bool):
    dictionary, x = small("matryoshka"), states()
    parts = losses(dictionary, x, hints(dense=dense))
    found = parts["reconstruction_loss"] + parts["nested_loss"]
    features = dictionary.step(x, hints(dense=True)).codes.dense()
    each = []
    for width in dictionary.shape.groups:
        written = features[:, :width] @ dictionary.decoder_weight[:width] + dictionary.decoder_bias
        each.append((x - written).square().sum(1).mean())
    torch.testing.assert_close(found, torch.stack(each).mean())


def reference_relu(p: dict[str, Tensor], x: Tensor, price: float) -> Tensor:
    """ReLU with L1, written plainly; decoder rows of length 1 by dividing by it."""
    decoder = p["decoder_weight"] / p["decoder_weight"].norm(dim=1, keepdim=True)
    features = ((x - p["decoder_bias"]) @ p["encoder_weight"].T + p["encoder_bias"]).relu()
    error = (features @ decoder + p["decoder_bias"] - x).pow(2).sum(1).mean()
    return error + price * features.sum(1).mean()


def reference_gated(p: dict[str, Tensor], x: Tensor, price: float) -> Tensor:
    """Gated as in its paper's listing, with the frozen copy of decoder and centre written out."""
    decoder = p["decoder_weight"] / p["decoder_weight"].norm(dim=1, keepdim=True)
    product = (x - p["decoder_bias"]) @ p["encoder_weight"].T
    gate = (product + p["encoder_bias"]).relu()
    size = (product * p["log_magnitude"].exp() + p["magnitude_bias"]).relu()
    features = (gate > 0) * size
    error = (features @ decoder + p["decoder_bias"] - x).pow(2).sum(1).mean()
    bias = p["decoder_bias"].detach()
    frozen = ((x - bias) @ p["encoder_weight"].T + p["encoder_bias"]).relu()
    gate_error = (frozen @ decoder.detach() + bias - x).pow(2).sum(1).mean()
    return error + price * gate.sum(1).mean() + gate_error


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(
    ("architecture", "reference"), [("relu", reference_relu), ("gated", reference_gated)]
)
def test_loss_and_gradients_equal_a_plain_reference(architecture: str, reference, dense: bool):
    dictionary, x = small(architecture), states()
    own = sum(losses(dictionary, x, hints(dense=dense)).values())
    plain = reference(dict(dictionary.named_parameters()), x, 0.7)
    torch.testing.assert_close(own, plain)
    expected = gradients(dictionary, plain)
    for name, gradient in gradients(dictionary, own).items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=2e-5 * scale)


# -- the decoder's rows, units ----------------------------------------------------------------------


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_decoders_gradient_is_at_right_angles_to_its_rows(architecture: str, dense: bool):
    dictionary = small(architecture)
    told = hints(dense=dense, dead=dead_features(3, 17))
    gradient = gradients(dictionary, sum(losses(dictionary, states(), told).values()))
    rows = gradient["decoder_weight"]
    along = torch.linalg.vecdot(rows, dictionary.decoder_weight.detach())
    assert rows.norm(dim=1).max() > 0.1
    assert along.abs().max() < 1e-5 * rows.norm(dim=1).max()


def scaled(dictionary: Dictionary, scale: float) -> Dictionary:
    twin = build(dictionary.shape)
    twin.load_state_dict(dictionary.state_dict())
    twin.input_scale.fill_(scale)
    return twin


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_and_reconstructions_are_in_the_datas_units(architecture: str):
    """Data c times as large, and an input scale 1/c: features and reconstruction c times as large."""
    dictionary, x, c = small(architecture), states(), 37.0
    large = scaled(dictionary, 1 / c)
    features = dictionary.encode(x)
    assert 0 < float((features > 0).double().mean()) < 0.5
    torch.testing.assert_close(large.encode(c * x), c * features, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(large(c * x), c * dictionary(x), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        large.decode(large.encode(c * x)), large(c * x), rtol=1e-4, atol=1e-3
    )
    # a feature is as long as what it adds to a raw state
    first = torch.zeros(1, FEATURES)
    first[0, 2] = 5.0
    added = large.decode(first) - large.decode(torch.zeros(1, FEATURES))
    torch.testing.assert_close(added[0], 5.0 * large.decoder_weight[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_leading_shape_is_encoded_token_by_token(architecture: str):
    dictionary, x = small(architecture), states(24)
    features = dictionary.encode(x)
    assert dictionary.encode(x.view(2, 3, 4, -1)).shape == (2, 3, 4, FEATURES)
    torch.testing.assert_close(dictionary.encode(x.view(2, 12, -1)).flatten(0, 1), features)
    torch.testing.assert_close(dictionary(x.view(2, 12, -1)).flatten(0, 1), dictionary(x))


@pytest.mark.parametrize("architecture", ["jumprelu", "gated", "relu"])
def test_a_dictionary_starts_near_its_target(architecture: str):
    shape = DictionaryShape(architecture, 32, 256)
    dictionary = build(shape, 0)
    x = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
    dictionary.start(x, 10.0)
    active = float((dictionary.encode(x) > 0).sum(1).double().mean())
    assert 9 < active < 11


def test_jumprelu_is_zero_at_and_below_its_threshold():
    dictionary = small("jumprelu")
    assert isinstance(dictionary, JumpReLU)
    z = states() @ dictionary.encoder_weight.T + dictionary.encoder_bias
    expected = torch.where(z > dictionary.threshold, z, 0)
    torch.testing.assert_close(dictionary.encode(states()), expected)
