"""The sparse products give what the dense ones give, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from cutaway.sparse import products as sparse
from cutaway.sparse.codes import DenseCodes, SparseCodes
from cutaway.sparse.pattern import CHUNK, Pattern, above, largest, select
from dictionaries.small_dictionaries import FORMS, dead_features, gradients, hints, small, states
from dictionaries.small_dictionaries import losses as parts_of

B, F, D = 7, 11, 5


def doubles(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.fixture
def pattern() -> Pattern:
    """About a third of the entries; row 2 and feature 4 have none."""
    chosen = torch.rand(B, F, generator=torch.Generator().manual_seed(1)) < 0.35
    chosen[2], chosen[:, 4] = False, False
    return Pattern(chosen.view(-1).nonzero().view(-1), (B, F))


def test_gradients_of_the_sparse_encoder_are_those_of_its_values(pattern: Pattern):
    x = doubles(B, D).detach()

    def encoder(centre, weight, bias):
        seen = (x - centre).detach()
        values = (seen @ weight.T + bias).view(-1)[pattern.flat].detach()
        return sparse.SparseLinear.apply(seen, centre, weight, bias, values, pattern)

    assert gradcheck(encoder, (doubles(D, seed=2), doubles(F, D, seed=3), doubles(F, seed=4)))


def test_gradients_of_the_sparse_decoder_are_those_of_its_values(pattern: Pattern):
    def decoder(values, weight):
        return sparse.SparseDecode.apply(values, weight, pattern)

    assert gradcheck(decoder, (doubles(len(pattern)), doubles(F, D, seed=5)))


def test_gradients_of_a_parameter_at_every_entry_are_those_of_its_values(pattern: Pattern):
    assert gradcheck(lambda p: sparse.PerFeature.apply(p, pattern), (doubles(F),))


def test_gradients_of_row_sums_are_those_of_their_values(pattern: Pattern):
    assert gradcheck(lambda v: sparse.PerRow.apply(v, pattern), (doubles(len(pattern)),))


def test_sparse_sums_are_those_of_the_dense_matrix(pattern: Pattern):
    values = doubles(len(pattern)).detach()
    dense = torch.zeros(B * F, dtype=torch.float64).index_put((pattern.flat,), values).view(B, F)
    states, weight = doubles(B, D, seed=2).detach(), doubles(F, D, seed=3).detach()
    torch.testing.assert_close(sparse.sum_by_row(values, weight, pattern), dense @ weight)
    torch.testing.assert_close(sparse.sum_by_feature(values, states, pattern), dense.T @ states)
    torch.testing.assert_close(sparse.feature_sums(values, pattern), dense.sum(0))
    torch.testing.assert_close(sparse.row_sums(values, pattern), dense.sum(1))
    products = (states @ weight.T).view(-1)[pattern.flat]
    torch.testing.assert_close(sparse.inner(states, weight, pattern), products)
    narrow = sparse.inner(states.float(), weight.float(), pattern)  # another kernel: float32
    torch.testing.assert_close(narrow, products.float(), rtol=1e-5, atol=1e-6)


def test_codes_answer_alike_dense_and_sparse(pattern: Pattern):
    values = doubles(len(pattern)).detach().float()
    codes = SparseCodes(values, pattern)
    twin = DenseCodes(codes.dense())
    keep = values > 0.2
    assert torch.equal(codes.fired().long(), twin.fired())
    assert codes.per_token() == twin.per_token() == len(pattern) / B
    torch.testing.assert_close(codes.row_sums(), twin.row_sums())
    assert torch.equal(codes.kept(keep).dense(), twin.kept(twin.values > 0.2).dense())


@pytest.mark.parametrize("choose", [above(0.5), largest(3)])
def test_choosing_by_slices_equals_choosing_at_once(choose):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(CHUNK + 37, D, generator=generator)  # a slice and a bit
    weight, bias = torch.randn(F, D, generator=generator), torch.randn(F, generator=generator)
    pattern, values = select(x, weight, bias, choose, torch.float32)
    z = x @ weight.T + bias
    assert torch.equal(pattern.flat, choose(z))
    torch.testing.assert_close(values, z.view(-1)[pattern.flat])
    assert torch.equal(pattern.offsets.diff(), torch.bincount(pattern.rows, minlength=len(x)))


@pytest.mark.parametrize("revived", [False, True])
@pytest.mark.parametrize(("architecture", "form"), FORMS)
def test_sparse_steps_equal_dense_ones(architecture: str, form: str, revived: bool):
    dead = dead_features(3, 17, 30) if revived else None
    dictionary, x = small(architecture), states()
    dense, thin = (
        parts_of(dictionary, x, hints(form, dense=way, dead=dead)) for way in (True, False)
    )
    assert dense.keys() == thin.keys()
    for name in dense:
        torch.testing.assert_close(thin[name], dense[name], rtol=1e-5, atol=0)
    expected = gradients(dictionary, sum(dense.values()))
    found = gradients(dictionary, sum(thin.values()))
    for name, gradient in expected.items():
        largest_entry = float(gradient.abs().max())
        assert largest_entry > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-5 * largest_entry)


@pytest.mark.parametrize("form", ["step", "target", "tanh"])
def test_thresholds_within_half_a_band_of_zero_are_worked_either_way(form: str):
    dictionary, x = small("jumprelu"), states()
    with torch.no_grad():  # the band, 0.4 wide, reaches below zero
        dictionary.threshold.copy_(torch.linspace(0.0, 0.15, len(dictionary.threshold)))
    dense, thin = (
        gradients(dictionary, sum(parts_of(dictionary, x, hints(form, dense=way)).values()))
        for way in (True, False)
    )
    for name, gradient in dense.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(thin[name], gradient, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("architecture", dict.fromkeys(name for name, _ in FORMS))
def test_a_batch_on_which_nothing_fires_is_worked_either_way(architecture: str):
    dictionary, x = small(architecture), states()
    with torch.no_grad():
        dictionary.encoder_bias.fill_(-100.0)
    for dense in (True, False):
        parts = parts_of(dictionary, x, hints(dense=dense))
        error = (x - dictionary.decoder_bias).square().sum() / len(x)
        torch.testing.assert_close(parts["reconstruction_loss"], error)
        gradient = gradients(dictionary, sum(parts.values()))
        assert not gradient["encoder_weight"].any()
        assert gradient["decoder_bias"].any()
