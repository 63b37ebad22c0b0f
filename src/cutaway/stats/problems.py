"""Many problems as leading axes: which go together, in what order they are solved, how many at once.

A problem is states x (n, d), labels (n,), a strength and sample weights (n,); leading axes of any of
them broadcast. Solvers see them as (G, K, ...): G groups, each with states of its own, and in each K
problems that share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cutaway.base.errors import UserError

WORKING_BYTES = 512 * 2**20  # decides how many problems are solved beside each other


def slices(total: int, size: int) -> Iterator[slice]:
    """0 … total in slices of `size`, or of 1 where that is less."""
    size = max(1, size)
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def grouped(
    x: Tensor, lead: torch.Size, *others: Tensor
) -> tuple[Tensor, list[Tensor], Callable[[Tensor], Tensor]]:
    """Leading axes as (G, K): those x has of its own, then those it is shared over.

    x (G, n, d); each of `others`, (*lead, ...) → (G, K, ...); and what undoes that.
    """
    axes = len(lead)
    of_x = (1,) * (axes - (x.ndim - 2)) + tuple(x.shape[:-2])
    order = sorted(range(axes), key=lambda axis: of_x[axis] == 1)
    own = sum(length != 1 for length in of_x)
    sizes = [lead[axis] for axis in order]
    groups, problems = math.prod(sizes[:own]), math.prod(sizes[own:])

    def group(values: Tensor) -> Tensor:
        rest = range(axes, values.ndim)
        return values.permute((*order, *rest)).reshape(groups, problems, *values.shape[axes:])

    def restore(values: Tensor) -> Tensor:
        values = values.reshape((*sizes, *values.shape[2:]))
        back = [order.index(axis) for axis in range(axes)]
        return values.permute((*back, *range(axes, values.ndim))).contiguous()

    return x.reshape(groups, *x.shape[-2:]), [group(one) for one in others], restore


def leading_axes(x: Tensor, y: Tensor, c: Tensor, weight: Tensor | None) -> torch.Size:
    """The problems' axes; UserError for x, c or weights that cannot be fitted. y's values are the
    caller's to check."""
    if x.ndim < 2 or not x.is_floating_point() or not x.numel():
        raise UserError(f"x: expected floats (..., n, d), got {x.dtype} {tuple(x.shape)}")
    n = x.shape[-2]
    for name, values in (("y", y), ("weight", weight)):
        if values is not None and (values.ndim < 1 or values.shape[-1] != n):
            raise UserError(
                f"{name}: shape {tuple(values.shape)}, expected (..., {n}) as x has rows"
            )
    try:
        rest = () if weight is None else (weight.shape[:-1],)
        lead = torch.broadcast_shapes(x.shape[:-2], y.shape[:-1], c.shape, *rest)
    except RuntimeError:
        raise UserError(
            f"x {tuple(x.shape)}, y {tuple(y.shape)}, c {tuple(c.shape)}: leading axes that do not "
            "go together"
        ) from None
    if not bool(x.sum().isfinite()) and not bool(x.isfinite().all()):  # the sum is quick to take
        raise UserError("x: holds values that are not finite")
    if not bool((c.isfinite() & (c > 0)).all()):
        raise UserError(f"c = {c.tolist()}: expected finite strengths above 0")
    if weight is not None and not bool((weight.isfinite() & (weight >= 0)).all()):
        raise UserError("weight: expected finite sample weights of 0 or more")
    return lead
