"""States as their principal directions at variance 1, without the product that would rotate them.

x̃ = x − mean, x̃ᵀx̃/n = V Λ Vᵀ, B = V Λ^(−½): a linear score is x̃·w = (x̃B)·u with w = B u. The
penalty ‖w‖² is Σ u²/λ, and the Hessian of a sum over rows is close to diagonal in u however the
columns of x were scaled. x̃B would cost n·d² more; (x̃)(B u) costs d² for each u, which is less as
long as few are asked for, so x̃B is formed only where it is small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.stats.problems import slices

_SMALL = 1e-12  # variance, of the largest, below which a direction is not scaled up further
_FORMED = 128  # dimensions up to which x̃B is formed
_FEW = 4  # rows to a dimension up to which it is formed too
_BLOCK = 2**19  # numbers of x that are read once for both products with them
_ROWS = 4096  # summed in float32 before float64 takes over
_COLUMNS = 256  # of a strip of the lower triangle
_NARROW = 1e-5  # variance, of the largest, that eigenvectors of float32 still tell
_DOUBT = 1e-6  # relative error of such sums, with a margin


@dataclass(frozen=True)
class Design:
    """[x̃B, 1] as two products, B left out where x̃ holds it already; all of one dtype."""

    x: Tensor  # (G, n, r)
    back: Tensor | None  # (G, r, r)

    def sums(self, u: Tensor, of_rows: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Σᵢ vᵢ·[x̃B, 1]ᵢ (G, ..., r + 1), where v = of_rows(z, rows) of the scores z = [x̃B, 1] u.

        u (G, ..., r + 1), the intercept last; z and v (G, ..., rows). A block of rows is scored,
        given to `of_rows` and summed before the next one, as long as the cache holds it.
        """
        w = u[..., :-1].flatten(1, -2)
        w = w if self.back is None else w @ self.back.mT
        total, ends = torch.zeros_like(w), torch.zeros_like(u[..., -1:])
        groups, n, r = self.x.shape
        for rows in slices(n, n if self.x.is_cuda else max(_BLOCK // (groups * r), 256)):
            x = self.x[:, rows]
            v = of_rows((w @ x.mT).unflatten(1, u.shape[1:-1]).add_(u[..., -1:]), rows)
            total.baddbmm_(v.flatten(1, -2), x)
            ends += v.sum(-1, keepdim=True)
        total = total if self.back is None else total @ self.back
        return torch.cat([total.unflatten(1, u.shape[1:-1]), ends], -1)


@dataclass(frozen=True)
class Whitened:
    """`exact` is float64's (float32's on Metal), `fast` float32's; `penalty` (G, r + 1) on u² (0 on
    the intercept); `spread` (G, r + 1): mean square of the columns of [x̃B, 1]."""

    exact: Design
    fast: Design
    penalty: Tensor
    spread: Tensor
    back: Tensor  # (G, d, r)
    mean: Tensor  # (G, 1, d)

    def penalised(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """‖w‖² of u (G, K, M, r + 1), summed over M: (G, K), and half its gradient.

        `penalty` says the same of directions that are exactly orthogonal; here they need not be.
        """
        if self.exact.back is None:
            pulled = self.penalty[:, None, None] * u
            return (pulled * u).sum((-2, -1)), pulled
        w = u[..., :-1].flatten(1, -2) @ self.exact.back.mT
        pulled = torch.nn.functional.pad(w @ self.exact.back, (0, 1)).reshape(u.shape)
        return w.square().sum(-1).unflatten(1, u.shape[1:-1]).sum(-1), pulled

    def coefficients(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """u (G, ..., r + 1) → w (G, ..., d) and b (G, ...) of scores x·w + b."""
        w = (u[..., :-1].flatten(1, -2) @ self.back.mT).unflatten(1, u.shape[1:-1])
        mean = self.mean.reshape(len(w), *(1 for _ in w.shape[1:-1]), -1)
        return w, u[..., -1] - (w * mean).sum(-1)


def whiten(x: Tensor, dtype: torch.dtype) -> Whitened:
    """Centre x (G, n, d) and find its directions; `dtype` is that of exact products."""
    # in float64, which leaves nothing of rows that are all the same
    mean = x.mean(1, keepdim=True, dtype=hardware.wide(x.device)).to(dtype)
    x = x.to(dtype, copy=True).sub_(mean)  # any shift is exact, as the intercept is free
    n, d = x.shape[1:]
    basis = None
    if n < d:  # w lies in the span of the rows
        basis, upper = torch.linalg.qr(x.mT)
        x = upper.mT.contiguous()
    size = torch.linalg.vector_norm(x.flatten(1), dim=1)[:, None, None] / x[0].numel() ** 0.5
    size = torch.where(size > 0, size, 1.0)  # keeps float32's products in its range
    fast = x.to(torch.float32, copy=True).div_(size)
    formed = x.shape[2] <= _FORMED or n <= _FEW * x.shape[2]
    variance, vectors = _directions(x, fast, size, formed)
    floor = _SMALL * variance[:, -1:]
    scale = torch.where(floor > 0, variance.maximum(floor), 1.0).rsqrt()
    back = vectors * scale[:, None]
    penalty = scale.square()
    spread = (variance * penalty).clamp(0, 1)
    if formed:
        exact = Design(x @ back, None)
        quick = Design(exact.x.float(), None)
        spread = exact.x.square().mean(1)
    else:
        exact, quick = Design(x, back), Design(fast, (back * size).float())
    return Whitened(
        exact,
        quick,
        torch.cat([penalty, torch.zeros_like(penalty[:, :1])], -1),
        torch.cat([spread, torch.ones_like(spread[:, :1])], -1),
        back if basis is None else basis @ back,
        mean,
    )


def _directions(x: Tensor, fast: Tensor, size: Tensor, orthogonal: bool) -> tuple[Tensor, Tensor]:
    """Λ (G, r), rising, and V (G, r, r) of x̃ᵀx̃/n.

    From products of float32 (`fast` = x̃/size) where those tell: the error of entry i, j is some ε
    σᵢσⱼ, of direction v then about ε Σ vᵢ²σᵢ², and every variance has to stand out of that. Huge
    columns do no harm there, directions that are as good as absent do. Eigenvectors of float32 will
    do where they need not be `orthogonal` to the last digit and no variance is small beside the
    largest.
    """
    covariance, square = _products(fast, x.dtype) / x.shape[1], size[..., 0].square()
    if not orthogonal:
        variance, vectors = torch.linalg.eigh(covariance.float())
        if bool((variance[:, :1] > _NARROW * variance[:, -1:]).all()):
            return variance.to(x.dtype) * square, vectors.to(x.dtype)
    variance, vectors = torch.linalg.eigh(covariance)
    columns = covariance.diagonal(dim1=1, dim2=2)[:, None]
    doubt = _DOUBT * (columns @ vectors.square())[:, 0]
    if bool((variance > doubt).all()):
        return variance * square, vectors
    return torch.linalg.eigh(_products(x, x.dtype) / x.shape[1])


def _products(x: Tensor, dtype: torch.dtype) -> Tensor:
    """xᵀx (G, r, r), the lower triangle only, which is all that `eigh` reads; sums in `dtype`."""
    total = torch.zeros(len(x), x.shape[2], x.shape[2], dtype=dtype, device=x.device)
    for rows in x.split(_ROWS, dim=1):
        for columns in slices(x.shape[2], _COLUMNS):
            below = slice(columns.start, None)
            total[:, below, columns] += rows[..., below].mT @ rows[..., columns]
    return total
