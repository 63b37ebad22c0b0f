"""Spectra of what a network has learned: of its output table over (a, b), and of its embedding.

A network that adds modulo p by rotations (Nanda et al. 2023, arXiv 2301.05217) has few frequencies
in both; one that has memorised has all of them. Everything here is exact (no sampling), takes any
leading axes (stacked members), and can be differentiated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def output_power(table: Tensor) -> Tensor:
    """Power of an output table by frequency, summed over classes: Σ_c |FFT₂ table[a, b, c]|² / p².

    table (..., p, p, classes) → (..., p, p), frequencies (k_a, k_b) in the order of an FFT: 0, 1,
    ..., -1. With this scale the powers sum to Σ table² (Parseval).
    """
    p = table.shape[-2]
    half = torch.fft.rfft2(table, dim=(-3, -2), norm="ortho")
    half = torch.linalg.vecdot(half, half).real
    # the other half is the same powers at (-k_a, -k_b)
    mirrored = half[..., 1 : (p + 1) // 2].flip((-2, -1)).roll(1, -2)
    return torch.cat([half, mirrored], -1)


def spectral_smoothness(table: Tensor) -> Tensor:
    """Share of an output table's 2-D power at low frequencies, without the constant.

    smoothness = Σ_{|k_a|, |k_b| ≤ p/8, k ≠ 0} P(k) / Σ_{k ≠ 0} P(k), P as `output_power`. Higher is
    smoother: 1 for a slow wave; a table of independent noise scores ((2⌊p/8⌋ + 1)² - 1) / (p² - 1),
    about 1/16; a table of zeros scores 0. (The measure of this name in
    Least Action Learning keeps the constant and calls lower smoother.)
    table (..., p, p, classes) → (...).
    """
    return low_share(output_power(table))


def spectral_concentration(table: Tensor) -> Tensor:
    """Gini coefficient of an output table's 2-D power over frequencies, without the constant.

    Near 1 where few frequencies hold all the power, whichever they are: relabelling a → ca moves a
    learned table between frequencies, which smoothness sees and this does not. Noise scores about
    1 / √(π · classes). An untrained network scores high too: its table is nearly f(a) + g(b), whose
    power lies on the two axes k_a = 0 and k_b = 0. table (..., p, p, classes) → (...).
    """
    return gini(without_constant(output_power(table)))


def low_share(power: Tensor) -> Tensor:
    """The smoothness of a table whose `output_power` (..., p, p) this is."""
    p = power.shape[-1]
    frequency = torch.fft.fftfreq(p, 1 / p, device=power.device).abs()
    low = (frequency <= p / 8).to(power.dtype)
    low = low[:, None] * low
    low[0, 0] = 0
    everything = without_constant(power).sum(-1)
    return (power * low).sum((-2, -1)) / everything.clamp_min(_tiny(power))


def without_constant(power: Tensor) -> Tensor:
    """Powers (..., p, p) as a list without that of (0, 0): (..., p² - 1)."""
    return power.flatten(-2)[..., 1:]


def gini(values: Tensor) -> Tensor:
    """Gini coefficient of non-negative values over the last axis: (..., n) → (...).

    G = Σᵢ (2i - n - 1) xᵢ / (n Σ xᵢ), x ascending, i = 1..n: half the mean absolute difference over
    the mean. 0 where all are equal (or all are 0), (n - 1) / n where one has everything.
    """
    n = values.shape[-1]
    ascending = values.sort(-1).values
    place = torch.arange(1, n + 1, device=values.device, dtype=values.dtype)
    weighted = ((2 * place - n - 1) / n * ascending).sum(-1)
    return weighted / ascending.sum(-1).clamp_min(_tiny(values))


def embedding_spectrum(embedding: Tensor) -> Tensor:
    """Norm of an embedding's rows by frequency in an orthonormal real Fourier basis.

    norm_k = √(‖cos_kᵀ E‖² + ‖sin_kᵀ E‖²) with unit vectors cos_k, sin_k over the rows, k = 0 the
    constant; Σ_k norm_k² = ‖E‖². embedding (..., n, width) → (..., n//2 + 1). Source: Nanda et al.
    2023, §4.2. Rows must be in the order in which the operation is addition (`group.residues`).
    """
    n = embedding.shape[-2]
    power = torch.view_as_real(torch.fft.rfft(embedding, dim=-2, norm="ortho")).square()
    twice = torch.full((n // 2 + 1,), 2.0, dtype=embedding.dtype, device=embedding.device)
    twice[0] = 1
    if n % 2 == 0:
        twice[-1] = 1  # the alternating vector has no sine beside it
    return (power.sum((-1, -2)) * twice).sqrt()


def embedding_gini(embedding: Tensor) -> Tensor:
    """Gini coefficient of an embedding's Fourier norms, without the constant: how sparse they are.

    (..., n, width) → (...). Random rows score near 0, rows on few circles near 1 (Nanda et al.
    2023, §5.1).
    """
    return gini(embedding_spectrum(embedding)[..., 1:])


def residue_embedding(model: nn.Module) -> Tensor:
    """What a network knows of each residue: (..., p, width), row r for residue r.

    A transformer's token embedding without op and =; of an MLP the rows of its first layer, those
    for r as a and as b side by side (width 2·hidden).
    """
    p = model.config.p
    if hasattr(model, "token_embedding"):
        return model.token_embedding[..., :p, :]
    return torch.cat(model.embedding.split(p, -2), -1)


def logit_scale(table: Tensor) -> Tensor:
    """Standard deviation of the logits over the classes, mean over all pairs (a, b).

    Grows as a network becomes surer, and is blind to a constant added to a pair's logits.
    table (..., p, p, classes) → (...).
    """
    centred = table - table.mean(-1, keepdim=True)
    # ten times as fast here as table.std
    return torch.linalg.vector_norm(centred, dim=-1).mean((-2, -1)) / math.sqrt(table.shape[-1])


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny
