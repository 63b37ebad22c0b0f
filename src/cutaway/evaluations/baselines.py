"""What reconstructs as well without learning features: principal components, random directions.

Both get as many numbers per token as the dictionary uses: k = round(L0).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.base.hardware import widened
from cutaway.dictionaries.architectures.topk import TopK
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.sparse.codes import Codes, DenseCodes

SAMPLE = 65_536  # training states a baseline is fitted on, at most
_FITTED = 4096  # states that decide the random dictionary's scale: one number


class Coder(Protocol):
    """Anything that writes states with features."""

    features: int

    def __call__(self, x: Tensor) -> tuple[Tensor, Codes]:
        """Raw states (n, d) → their reconstruction (n, d) and the features of it."""
        ...


class Learned:
    """A dictionary as a coder."""

    def __init__(self, dictionary: Dictionary):
        self.dictionary, self.features = dictionary, dictionary.shape.d_hidden

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Codes]:
        codes = self.dictionary.encode_sparse(x)
        return self.dictionary.decode_sparse(codes), codes


class PCA:
    """The first k principal components of a sample of states, fitted in float64.

        x̂ = μ + V Vᵀ (x − μ),   V (d, k) the eigenvectors of largest eigenvalue of the covariance

    No linear code of k numbers has less squared error on that sample (Eckart & Young 1936).
    """

    def __init__(self, sample: Tensor, k: int):
        x = widened(sample)
        self.features = min(k, x.shape[1])
        mean = x.mean(0)
        centred = x - mean
        _, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
        first = vectors[:, -self.features :].flip(1) if k else vectors[:, :0]
        self.mean, self.components = (one.float().to(sample.device) for one in (mean, first))

    def __call__(self, x: Tensor) -> tuple[Tensor, Codes]:
        coefficients = (x - self.mean) @ self.components
        return self.mean + coefficients @ self.components.T, DenseCodes(coefficients)


class RandomDictionary:
    """F random unit rows, encoder and decoder alike, and the k largest of a token: nothing learnt.

        x̂ = μ + α·Σ fᵢ rᵢ,   f = TopK(R (x − μ)),   α = Σ⟨x − μ, Σ fᵢ rᵢ⟩ / Σ‖Σ fᵢ rᵢ‖²

    α is the least-squares scale over the sample (`scaled`), else 1: rows that overlap write too
    much of what they share. Features are α·f.
    """

    def __init__(self, sample: Tensor, features: int, k: int, *, scaled: bool, seed: int = 0):
        self.features = features
        shape = DictionaryShape("topk", sample.shape[1], features, k=max(1, min(k, features)))
        self.dictionary = TopK(shape, seed).to(sample.device)
        mean = widened(sample).mean(0).float().to(sample.device)
        self.dictionary.decoder_bias.data.copy_(mean)
        self.scale = 1.0
        if scaled:
            x = sample[:_FITTED].float()
            with torch.no_grad():
                written = self.dictionary(x) - mean
            centred, written = widened(x - mean), widened(written)
            own = float(written.square().sum())
            self.scale = float((centred * written).sum()) / own if own else 0.0

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Codes]:
        codes = self.dictionary.encode_sparse(x)
        codes = codes.of(codes.values * self.scale)
        return self.dictionary.decode_sparse(codes), codes


def sample_of(training: Iterable[Tensor], device: torch.device, rows: int = SAMPLE) -> Tensor:
    """The first `rows` of batches (n, d) of training states, float32; UserError where there is none."""
    taken: list[Tensor] = []
    missing = rows
    for batch in training:
        taken.append(batch[:missing].to(device, torch.float32))
        missing -= len(taken[-1])
        if missing <= 0:
            break
    if rows - missing < 2:
        raise UserError("training: no states to fit the baselines on")
    return torch.cat(taken)
