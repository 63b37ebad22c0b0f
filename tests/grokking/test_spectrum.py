from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.grokking.data import all_pairs, results
from cutaway.grokking.group import circle, residues
from cutaway.grokking.instruments import Spectrum
from cutaway.grokking.spectrum import (
    embedding_gini,
    embedding_spectrum,
    gini,
    logit_scale,
    output_power,
    residue_embedding,
    spectral_concentration,
    spectral_smoothness,
)
from cutaway.nets.architectures import build
from cutaway.nets.stacked import stack


def circuit(p: int, k: int) -> torch.Tensor:
    """cos(w_k(a + b - c)) for all a, b, c."""
    at = torch.arange(p, dtype=torch.float64)
    return torch.cos(2 * math.pi * k / p * (at[:, None, None] + at[None, :, None] - at))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("p", [7, 8, 23])
def test_output_power_is_the_full_fft_summed_over_classes(p):
    table = noise(p, p, 5)
    full = np.abs(np.fft.fft2(table.numpy(), axes=(0, 1))) ** 2 / p**2
    np.testing.assert_allclose(output_power(table).numpy(), full.sum(-1), rtol=1e-10)
    assert output_power(table).sum().item() == pytest.approx(table.square().sum().item())


def test_a_rotation_has_all_its_power_at_its_frequency_and_its_mirror():
    p, k = 23, 5
    power = output_power(circuit(p, k))
    expected = torch.zeros(p, p, dtype=torch.float64)
    expected[k, k] = expected[-k, -k] = p**3 / 4
    torch.testing.assert_close(power, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize(("k", "smooth"), [(1, 1.0), (2, 1.0), (3, 0.0), (11, 0.0)])
def test_smoothness_counts_what_is_at_or_below_an_eighth_of_p(k, smooth):
    # p / 8 = 2.875
    assert spectral_smoothness(circuit(23, k)).item() == pytest.approx(smooth, abs=1e-10)


def test_smoothness_is_the_share_of_the_power_and_ignores_the_constant():
    slow, fast = circuit(23, 1), circuit(23, 9)
    mixed = 3 * slow + 4 * fast + 1000
    assert spectral_smoothness(mixed).item() == pytest.approx(9 / 25)


def test_noise_scores_the_share_of_low_frequencies():
    p = 31  # ⌊31 / 8⌋ = 3
    score = spectral_smoothness(noise(40, p, p, p))
    standard_error = score.std() / math.sqrt(len(score))
    assert abs(score.mean() - (7**2 - 1) / (p**2 - 1)) < 4 * standard_error


def test_concentration_does_not_see_a_relabelling_that_smoothness_sees():
    table = circuit(23, 1)
    at = torch.arange(23) * 5 % 23
    relabelled = table[at][:, at]
    assert spectral_smoothness(table) > 0.99
    assert spectral_smoothness(relabelled) < 0.01
    n = 23**2 - 1  # two frequencies of n hold all
    for one in (table, relabelled):
        assert spectral_concentration(one).item() == pytest.approx((n - 2) / n, abs=1e-6)


def test_noise_has_the_concentration_of_a_gamma_distribution():
    # |FFT|² over C classes is Gamma(C), whose Gini is Γ(C + 1/2) / (√π Γ(C + 1))
    p, classes = 31, 31
    expected = math.exp(math.lgamma(classes + 0.5) - math.lgamma(classes + 1)) / math.sqrt(math.pi)
    found = spectral_concentration(noise(40, p, p, classes))
    standard_error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - expected) < 4 * standard_error + expected / p**2
    assert expected == pytest.approx(1 / math.sqrt(math.pi * classes), rel=0.01)


def test_a_table_without_power_scores_zero_and_has_a_finite_gradient():
    table = torch.zeros(7, 7, 7, requires_grad=True)
    score = spectral_smoothness(table)
    score.backward()
    assert score.item() == 0
    assert torch.isfinite(table.grad).all()
    assert spectral_concentration(table).item() == 0


def test_smoothness_has_the_right_gradient():
    table = noise(5, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(spectral_smoothness, table)
    assert torch.autograd.gradcheck(spectral_concentration, table)


def test_members_score_as_alone():
    tables = noise(2, 3, 11, 11, 11)
    for measure in (spectral_smoothness, spectral_concentration, logit_scale):
        stacked = measure(tables)
        assert stacked.shape == (2, 3)
        torch.testing.assert_close(stacked[1, 2], measure(tables[1, 2]))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2, 2, 2, 2], 0),
        ([0, 0, 0, 5], 3 / 4),
        ([3, 1, 2], 2 / 9),  # 1..n: (n - 1) / 3n
        ([0, 0, 0], 0),
        ([7], 0),
    ],
)
def test_gini_closed_forms(values, expected):
    assert gini(torch.tensor(values, dtype=torch.float64)).item() == pytest.approx(expected)


def test_gini_is_half_the_mean_absolute_difference_over_the_mean():
    values = noise(3, 40).abs()
    differences = (values[:, :, None] - values[:, None, :]).abs().mean((1, 2))
    torch.testing.assert_close(gini(values), differences / (2 * values.mean(-1)))
    torch.testing.assert_close(gini(7 * values), gini(values))


@pytest.mark.parametrize("n", [9, 10])
def test_embedding_norms_are_those_in_an_orthonormal_fourier_basis(n):
    embedding = noise(n, 6)
    at = torch.arange(n, dtype=torch.float64)
    norms = []
    for k in range(n // 2 + 1):
        waves = [torch.cos(2 * math.pi * k * at / n), torch.sin(2 * math.pi * k * at / n)]
        units = [wave / wave.norm() for wave in waves if wave.norm() > 1e-6]
        norms.append(sum((unit @ embedding).square().sum() for unit in units).sqrt())
    torch.testing.assert_close(embedding_spectrum(embedding), torch.stack(norms))
    assert embedding_spectrum(embedding).square().sum().item() == pytest.approx(
        embedding.square().sum().item()
    )


def test_an_embedding_on_one_circle_has_one_frequency():
    at = torch.arange(23, dtype=torch.float64) * 2 * math.pi * 4 / 23
    embedding = torch.stack([at.cos(), at.sin()], -1) @ noise(2, 16) + 3
    spectrum = embedding_spectrum(embedding)[1:]
    assert spectrum.argmax().item() == 4 - 1
    assert embedding_gini(embedding).item() == pytest.approx(10 / 11)


def test_logit_scale_is_the_spread_over_classes():
    table = noise(5, 5, 7)
    expected = np.std(table.numpy(), axis=-1).mean()
    assert logit_scale(table).item() == pytest.approx(expected)
    assert logit_scale(3 * table + 5).item() == pytest.approx(3 * expected)


@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide"])
@pytest.mark.parametrize("p", [3, 23, 113])
def test_on_its_circle_every_operation_is_addition(operation, p):
    on = circle(operation, p)
    i, j = all_pairs(on.n).unbind(-1)
    pairs = torch.stack([on.first[i], on.second[j]], -1)
    assert torch.equal(results(pairs, p, operation), on.classes[(i + j) % on.n])
    assert on.n == (p if operation in ("add", "subtract") else p - 1)
    assert len(set(on.first.tolist())) == len(set(on.second.tolist())) == on.n


def test_no_circle_without_a_prime_or_for_another_operation():
    with pytest.raises(UserError, match=r"p = 15.*prime"):
        circle("multiply", 15)
    with pytest.raises(UserError, match=r"operation = 's5'.*expected add, subtract"):
        circle("s5", 23)
    assert residues("multiply", 15).tolist() == list(range(15))
    assert residues("add", 15).tolist() == list(range(15))


def test_the_embedding_of_a_residue_is_its_rows_as_a_and_as_b():
    mlp = build({"name": "modular_mlp", "p": 5, "hidden_dim": 4, "n_layers": 1})
    assert torch.equal(residue_embedding(mlp)[3], torch.cat([mlp.embedding[3], mlp.embedding[8]]))
    shape = {"name": "modular_transformer", "p": 5, "hidden_dim": 4, "n_layers": 1, "n_heads": 2}
    transformer = build(shape)
    assert torch.equal(residue_embedding(transformer), transformer.token_embedding[:5])


@pytest.mark.parametrize("name", ["modular_mlp", "modular_transformer"])
def test_the_instrument_reads_each_member_of_a_stack_as_alone(name):
    p = 7
    shape = {"name": name, "p": p, "hidden_dim": 8, "n_layers": 1}
    if name == "modular_transformer":
        shape["n_heads"] = 2
    networks = [build(shape, seed) for seed in range(3)]

    def reading(model, grid):
        table = model(grid).detach().unflatten(-2, (p, p))
        config = SimpleNamespace(operation="multiply", p=p)
        task = SimpleNamespace(model=model, config=config, output_table=lambda: table)
        return Spectrum(10).read(SimpleNamespace(task=task, step=0))

    together = reading(stack(networks), all_pairs(p).expand(3, -1, -1))
    assert set(together) == {
        *("spectral_smoothness", "spectral_concentration", "embedding_gini", "logit_scale")
    }
    for member, network in enumerate(networks):
        alone = reading(network, all_pairs(p))
        for column, values in together.items():
            assert values.shape == (3,)
            assert alone[column].shape == ()
            assert not values.requires_grad
            torch.testing.assert_close(values[member], alone[column], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operation", ["multiply", "divide"])
def test_the_instrument_looks_at_products_over_discrete_logarithms(operation):
    p, k = 31, 7
    places = residues(operation, p)
    logarithm = torch.zeros(p, dtype=torch.float64)
    logarithm[places] = torch.arange(p - 1, dtype=torch.float64)
    a, b, c = logarithm[:, None, None], logarithm[None, :, None], logarithm[None, None, :]
    turned = a + b - c if operation == "multiply" else a - b - c
    table = torch.cos(2 * math.pi * k * turned / (p - 1))
    table[0], table[:, 0] = 3.0, -5.0  # zero has no logarithm: whatever stands there is not seen
    task = SimpleNamespace(
        config=SimpleNamespace(operation=operation, p=p),
        model=build({"name": "modular_mlp", "p": p, "hidden_dim": 8, "n_layers": 1}, 0),
        output_table=lambda: table,
    )
    read = Spectrum(1).read(SimpleNamespace(task=task))
    assert read["spectral_concentration"].item() == pytest.approx(1 - 2 / ((p - 1) ** 2 - 1))
    assert read["spectral_smoothness"].item() == pytest.approx(0, abs=1e-12)  # 7 is above 30/8
    assert read["logit_scale"].item() == pytest.approx(logit_scale(table).item())
