"""Where a batch's codes are not zero: the positions, in both orders a product needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

# Rows of pre-activations worked at once: large enough for a fast product, small enough that they
# are still in the cache when their largest are looked for.
CHUNK = 512
Choose = Callable[[Tensor], Tensor]


class Pattern:
    """The chosen entries of a (B, F) matrix, row by row.

    `flat` holds row · F + feature of each, (nnz,) int64, ascending.
    """

    def __init__(self, flat: Tensor, shape: tuple[int, int]):
        self.flat, self.shape = flat, shape

    @cached_property
    def rows(self) -> Tensor:
        """The token of each entry, (nnz,)."""
        return self.flat.div(self.shape[1], rounding_mode="floor")

    @cached_property
    def features(self) -> Tensor:
        """The feature of each entry, (nnz,)."""
        return self.flat - self.rows * self.shape[1]

    @cached_property
    def offsets(self) -> Tensor:
        """Where each row's entries begin, and their number: (B + 1,)."""
        bounds = torch.arange(self.shape[0] + 1, device=self.flat.device) * self.shape[1]
        return torch.searchsorted(self.flat, bounds)

    @cached_property
    def by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same entries feature by feature: their order, their rows, and where each feature's
        begin, (nnz,), (nnz,) and (F + 1,)."""
        features, order = self.features.sort(stable=True)
        bounds = torch.arange(self.shape[1] + 1, device=self.flat.device)
        return order, self.rows[order], torch.searchsorted(features, bounds)

    def __len__(self) -> int:
        return self.flat.numel()


@torch.no_grad()
def select(
    x: Tensor, weight: Tensor, bias: Tensor, choose: Choose, dtype: torch.dtype
) -> tuple[Pattern, Tensor]:
    """The entries of z = x·weightᵀ + bias that `choose` picks, and their values, float32.

    `choose` gets rows of z, (n, F), and gives flat indices into them, ascending. The product is
    worked in `dtype`, a slice of the batch at a time: z as a whole, (B, F), is never held.
    """
    rows, features = x.shape[0], weight.shape[0]
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    places, values = [], []
    chunk = CHUNK if x.device.type == "cpu" else max(1, rows)
    buffer = x.new_empty(min(chunk, rows), features)
    for start in range(0, max(1, rows), chunk):  # once for no rows, which choose nothing
        part = x[start : start + chunk]
        z = torch.addmm(bias, part, weight.T, out=buffer[: len(part)])
        flat = choose(z)
        values.append(z.view(-1)[flat].float())
        places.append(flat + start * features if start else flat)
    return Pattern(torch.cat(places), (rows, features)), torch.cat(values)


def above(limit: Tensor | float) -> Choose:
    """Choose what exceeds a limit: one for all, or one per feature, (F,)."""

    def choose(z: Tensor) -> Tensor:
        bound = limit.to(z.dtype) if isinstance(limit, Tensor) else limit
        return (z > bound).view(-1).nonzero().view(-1)

    return choose


def largest(k: int) -> Choose:
    """Choose the k largest of each row, of those that are positive."""

    def choose(z: Tensor) -> Tensor:
        values, features = z.topk(k, dim=1, sorted=False)
        flat = features + torch.arange(len(z), device=z.device)[:, None] * z.shape[1]
        return flat[values > 0].sort().values

    return choose
