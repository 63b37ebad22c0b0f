"""A batch's features, dense or at the chosen entries only: architectures are written once for both.

Whatever an architecture does between its two products is elementwise; it is written on `values`,
(B, F) when dense and (nnz,) when sparse, with a feature's parameters brought into that shape by
`per_feature`.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.sparse import products as sparse
from cutaway.sparse.pattern import Choose, Pattern, select


class Codes(Protocol):
    """Values of a batch's features; what is not chosen is zero, and no gradient passes there."""

    values: Tensor
    shape: tuple[int, int]

    def per_feature(self, parameter: Tensor) -> Tensor:
        """A parameter (F,) at each value."""
        ...

    def indices(self) -> Tensor:
        """Which feature each value belongs to: (F,) or (nnz,)."""
        ...

    def of(self, values: Tensor) -> Codes:
        """The same places with other values."""
        ...

    def kept(self, keep: Tensor) -> Codes:
        """Only the places where `keep`, of the values' shape, is true."""
        ...

    def spoilt(self, tokens: Tensor) -> Codes:
        """These with every entry of some tokens (n,), ascending, NaN."""
        ...

    def decode(self, weight: Tensor) -> Tensor:
        """values · weight: (B, d)."""
        ...

    def row_sums(self) -> Tensor:
        """Sum of each token's values, (B,)."""
        ...

    def fired(self, of: Tensor | None = None) -> Tensor:
        """How many tokens each feature is not zero on, (F,), detached; `of` (B, 1) chooses tokens."""
        ...

    def per_token(self) -> Tensor:
        """Mean number of features that are not zero, (), detached: L0."""
        ...

    def dense(self) -> Tensor:
        """(B, F)."""
        ...


class DenseCodes:
    """All entries."""

    def __init__(self, values: Tensor):
        self.values = values
        self.shape = (values.shape[0], values.shape[1])

    def per_feature(self, parameter: Tensor) -> Tensor:
        return parameter

    def indices(self) -> Tensor:
        return torch.arange(self.shape[1], device=self.values.device)

    def of(self, values: Tensor) -> DenseCodes:
        return DenseCodes(values)

    def kept(self, keep: Tensor) -> DenseCodes:
        return DenseCodes(self.values * keep)

    def spoilt(self, tokens: Tensor) -> DenseCodes:
        return DenseCodes(self.values.index_fill(0, tokens, torch.nan))

    def decode(self, weight: Tensor) -> Tensor:
        return (self.values @ weight).float()

    def row_sums(self) -> Tensor:
        return self.values.sum(1)

    @torch.no_grad()
    def fired(self, of: Tensor | None = None) -> Tensor:
        on = self.values != 0
        return (on if of is None else on & of).sum(0)

    @torch.no_grad()
    def per_token(self) -> Tensor:
        return (self.values != 0).sum() / self.shape[0]

    def dense(self) -> Tensor:
        return self.values


class SparseCodes:
    """The chosen entries, in the order of their pattern."""

    def __init__(self, values: Tensor, pattern: Pattern):
        self.values, self.pattern = values, pattern
        self.shape = pattern.shape

    def per_feature(self, parameter: Tensor) -> Tensor:
        return sparse.PerFeature.apply(parameter, self.pattern)

    def indices(self) -> Tensor:
        return self.pattern.features

    def of(self, values: Tensor) -> SparseCodes:
        return SparseCodes(values, self.pattern)

    def kept(self, keep: Tensor) -> SparseCodes:
        places = keep.nonzero().view(-1)
        return SparseCodes(self.values[places], Pattern(self.pattern.flat[places], self.shape))

    def spoilt(self, tokens: Tensor) -> SparseCodes:
        sound = ~torch.isin(self.pattern.rows, tokens)
        every = torch.arange(self.shape[1], device=tokens.device)
        whole = (tokens[:, None] * self.shape[1] + every).flatten()
        flat, order = torch.cat([self.pattern.flat[sound], whole]).sort()
        nothing = self.values.new_full((len(whole),), torch.nan)
        values = torch.cat([self.values[sound], nothing])[order]
        return SparseCodes(values, Pattern(flat, self.shape))

    def decode(self, weight: Tensor) -> Tensor:
        return sparse.SparseDecode.apply(self.values, weight, self.pattern)

    def row_sums(self) -> Tensor:
        return sparse.PerRow.apply(self.values, self.pattern)

    @torch.no_grad()
    def fired(self, of: Tensor | None = None) -> Tensor:
        on = self.values != 0
        on = on if of is None else on & of[self.pattern.rows, 0]
        return sparse.feature_sums(on.float(), self.pattern)

    @torch.no_grad()
    def per_token(self) -> Tensor:
        return (self.values != 0).sum() / self.shape[0]

    def dense(self) -> Tensor:
        flat = self.values.new_zeros(self.shape[0] * self.shape[1])
        return flat.index_put((self.pattern.flat,), self.values).view(self.shape)


def encode(
    x: Tensor,
    centre: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    choose: Choose,
    *,
    dense: bool,
) -> DenseCodes | SparseCodes:
    """Pre-activations z = (x − centre)·weightᵀ + bias (B, F) where `choose` picks them, else zero.

    Gradients reach centre, weight and bias, from the chosen entries only; x is data. Both ways
    give the same; which is faster hangs on how many are chosen.
    """
    if dense:
        z = F.linear(x if centre is None else x - centre, weight, bias)
        with torch.no_grad():
            chosen = torch.zeros(z.numel(), dtype=torch.bool, device=z.device)
            chosen[choose(z)] = True
        return DenseCodes((z * chosen.view(z.shape)).float())
    with torch.no_grad():
        seen = x if centre is None else x - centre
        pattern, values = select(seen, weight, bias, choose, product_dtype(x))
    values = sparse.SparseLinear.apply(seen, centre, weight, bias, values, pattern)
    return SparseCodes(values, pattern)


def product_dtype(x: Tensor) -> torch.dtype:
    """What products are worked in: the autocast's type where one is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
