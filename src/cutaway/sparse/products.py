"""The two products of a dictionary at the chosen entries only, with exact gradients.

At 64 of 4096 features a dense step spends 98 % of its arithmetic on zeros. Here one dense product
says which entries matter (`pattern.select`); everything after it touches those alone: sums of
rows and inner products of rows. On a GPU they are Triton's (`triton_sums`), on a CPU and where
there is no Triton torch's (`embedding_bag`, `sampled_addmm`).
"""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.sparse.pattern import Pattern

# said once per process by torch, of a product that is checked against a dense one in our tests
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


class SparseLinear(torch.autograd.Function):
    """z = (x − c)·Wᵀ + b at the pattern's entries, whose values are already known.

    `x` is given centred, and is data: it gets no gradient. Backward, with g zero off the pattern:
    ∂W = gᵀ·(x − c), ∂b = gᵀ·1, ∂c = −∂b·W.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        centre: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        values: Tensor,
        pattern: Pattern,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pattern = pattern
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        own = sum_by_feature(gradient, x, ctx.pattern)
        bias = feature_sums(gradient, ctx.pattern)
        centre = -(bias @ weight) if ctx.needs_input_grad[1] else None
        return None, centre, own, bias, None, None


class SparseDecode(torch.autograd.Function):
    """f·W for codes f that are zero off the pattern: (nnz,), (F, d) → (B, d).

    Backward: ∂f = g·Wᵀ at the pattern's entries, ∂W = fᵀ·g.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.pattern = pattern
        return sum_by_row(values, weight, pattern)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        own = inner(gradient, weight, ctx.pattern) if ctx.needs_input_grad[0] else None
        other = sum_by_feature(values, gradient, ctx.pattern) if ctx.needs_input_grad[1] else None
        return own, other, None


class PerFeature(torch.autograd.Function):
    """A parameter of each feature (F,) at every entry, (nnz,); backward adds up by feature."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern = pattern
        return parameter[pattern.features]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return feature_sums(gradient, ctx.pattern), None


class PerRow(torch.autograd.Function):
    """Sum of each row's values, (nnz,) → (B,); backward hands a row's gradient to its entries."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern = pattern
        return row_sums(values, pattern)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient[ctx.pattern.rows], None


@cache
def triton_for(device: torch.device) -> ModuleType | None:
    """The kernels to work with on this device: of a GPU whose Triton gives what torch gives."""
    if device.type != "cuda":
        return None
    try:
        from cutaway.sparse import triton_sums

        triton_sums.check(device)
    except ImportError:
        return None
    except Exception as error:  # no C compiler, a GPU that is too old, a driver that is, ...
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(
            f"{device}: Triton's kernels do not work here, torch's are used ({said})", stacklevel=2
        )
        return None
    return triton_sums


def sum_by_row(values: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
    """Σ over a row's entries of value · weight[feature]: (B, d)."""
    return _sum_rows(values, weight, pattern.features, pattern.offsets)


def sum_by_feature(values: Tensor, states: Tensor, pattern: Pattern) -> Tensor:
    """Σ over a feature's entries of value · states[row]: (F, d)."""
    order, rows, offsets = pattern.by_feature
    return _sum_rows(values[order], states, rows, offsets)


def _sum_rows(values: Tensor, table: Tensor, places: Tensor, offsets: Tensor) -> Tensor:
    if kernels := triton_for(table.device):
        return kernels.sum_rows(values, table, places, offsets)
    return F.embedding_bag(
        *(places, table, offsets),
        mode="sum",
        per_sample_weights=values.to(table.dtype),
        include_last_offset=True,
    )


def feature_sums(values: Tensor, pattern: Pattern) -> Tensor:
    """Σ over a feature's entries of their values: (F,)."""
    if kernels := triton_for(values.device):
        order, _, offsets = pattern.by_feature
        return kernels.sum_values(values[order], offsets)
    if values.device.type == "cpu":
        return torch.bincount(pattern.features, values, pattern.shape[1]).to(values.dtype)
    return values.new_zeros(pattern.shape[1]).index_add_(0, pattern.features, values)


def row_sums(values: Tensor, pattern: Pattern) -> Tensor:
    """Σ over a row's entries of their values: (B,)."""
    if kernels := triton_for(values.device):
        return kernels.sum_values(values, pattern.offsets)
    if values.device.type == "cpu":
        return torch.bincount(pattern.rows, values, pattern.shape[0]).to(values.dtype)
    return values.new_zeros(pattern.shape[0]).index_add_(0, pattern.rows, values)


def inner(states: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
    """⟨states[row], weight[feature]⟩ of each entry, (nnz,)."""
    if kernels := triton_for(states.device):
        return kernels.inner(states, weight, pattern.rows, pattern.features)
    if states.device.type == "cpu" and states.dtype == torch.float32:
        ones = states.new_ones(len(pattern))
        where = torch.sparse_csr_tensor(
            pattern.offsets, pattern.features, ones, pattern.shape, check_invariants=False
        )
        return torch.sparse.sampled_addmm(where, states, weight.T, beta=0).values()
    # a slice at a time, so that the gathered rows stay small
    step = max(1, (1 << 26) // states.shape[1])
    parts = [
        torch.linalg.vecdot(states[rows], weight[features])
        for rows, features in zip(pattern.rows.split(step), pattern.features.split(step))
    ]
    return torch.cat(parts) if parts else states.new_zeros(0)
