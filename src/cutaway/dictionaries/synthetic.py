"""Superposition with a known truth (DEFINITIONS: ground truth): what a dictionary should find.

    x = Σᵢ aᵢ·uᵢ,   i over the `active` of n features that are on

n unit directions uᵢ in d < n dimensions, amplitudes aᵢ drawn from 0.5 + an exponential. Which
features are on is drawn uniformly; `correlation` makes features of one group come together;
`hierarchy` makes odd features children that come only with the even one before them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.base.seeds import torch_generator

_GROUP = 4  # features that come together where there is correlation


@dataclass(frozen=True)
class Truth:
    """What generates the data. Raises UserError where it cannot."""

    n_features: int
    width: int
    active: int
    correlation: float = 0.0
    hierarchy: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.active <= self.n_features // 2:
            raise UserError(
                f"active = {self.active}: expected 1 to {self.n_features // 2}, "
                f"half of the {self.n_features} features"
            )
        if not 0 <= self.correlation < 1:
            raise UserError(f"correlation = {self.correlation}: expected 0 to below 1")

    def directions(self) -> Tensor:
        """The true features, unit rows, (n, d)."""
        generator = torch_generator(self.seed, 0, "truth")
        rows = torch.empty(self.n_features, self.width).normal_(generator=generator)
        return rows / rows.norm(dim=1, keepdim=True)

    def amplitudes(self, tokens: int, generator: torch.Generator) -> Tensor:
        """aᵢ of each token, zero where a feature is off: (tokens, n)."""
        scores = torch.rand(tokens, self.n_features, generator=generator)
        if self.correlation:
            groups = -(-self.n_features // _GROUP)
            shared = torch.rand(tokens, groups, generator=generator)
            shared = shared.repeat_interleave(_GROUP, 1)[:, : self.n_features]
            scores = (1 - self.correlation) * scores + self.correlation * shared
        if self.hierarchy:
            scores[:, 1::2] = -1.0  # children are drawn below, from the parents that are on
        count = self.active
        on = torch.zeros_like(scores, dtype=torch.bool)
        on.scatter_(1, scores.topk(count, dim=1).indices, True)
        if self.hierarchy:
            chance = torch.rand(tokens, on[:, 1::2].shape[1], generator=generator)
            on[:, 1::2] = on[:, 0::2][:, : chance.shape[1]] & (chance < 0.5)
        sizes = torch.empty(tokens, self.n_features).exponential_(generator=generator)
        return torch.where(on, 0.5 + sizes, 0.0)


class SyntheticStream:
    """Batches of such states: `batch(index)` is a pure function of (seed, index)."""

    def __init__(self, truth: Truth, batch_size: int, *, seed: int = 0, rows: int = 1_000_000):
        self.truth, self.batch_size, self.seed, self.rows = truth, batch_size, seed, rows
        self.width = truth.width
        self._directions = truth.directions()

    def batch(self, index: int) -> Tensor:
        """(batch_size, d) float32."""
        return self.labelled(index)[0]

    def labelled(self, index: int) -> tuple[Tensor, Tensor]:
        """The states (batch_size, d) and the amplitudes behind them (batch_size, n)."""
        generator = torch_generator(self.seed, index, "synthetic")
        amplitudes = self.truth.amplitudes(self.batch_size, generator)
        return amplitudes @ self._directions, amplitudes


@torch.no_grad()
def recovery(decoder: Tensor, directions: Tensor) -> tuple[float, Tensor]:
    """MMCS: mean over true features of their largest cosine with a decoder row; and which row.

    `decoder` (F, d), `directions` (n, d) of unit length → the mean, and (n,) indices.
    """
    rows = decoder / decoder.norm(dim=1, keepdim=True).clamp(min=1e-12)
    best = (directions @ rows.T).max(1)
    return float(best.values.mean()), best.indices


@torch.no_grad()
def matched_f1(features: Tensor, amplitudes: Tensor, match: Tensor) -> float:
    """Mean over true features of the F1 with which their matched feature tells when they are on.

    `features` (tokens, F), `amplitudes` (tokens, n), `match` (n,) from `recovery`.
    """
    predicted, true = features[:, match] > 0, amplitudes > 0
    both = (predicted & true).sum(0).double()
    return float((2 * both / (predicted.sum(0) + true.sum(0)).clamp(min=1)).mean())
