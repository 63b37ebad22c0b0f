"""L2 multinomial logistic regression for many problems at once, as `logistic.py` does two classes.

    minimise over W, b:   ½‖W‖² + C Σᵢ sᵢ·[log Σₖ e^{zᵢₖ} − zᵢ,yᵢ],   zᵢₖ = xᵢ·wₖ + bₖ

which is scikit-learn's objective: intercepts go unpenalised, sᵢ are sample weights. A constant added
to every intercept changes nothing, so they are given with sum 0; the rows of W sum to 0 by
themselves, that being cheapest. With two classes z₁ − z₀ = xᵢ·(w₁ − w₀) + …, and the cheapest split
of w is w₁ = −w₀ = w/2, ½‖W‖² = ¼‖w‖²: these are the fits of `fit_logistic` with strength 2C.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from cutaway.base import hardware
from cutaway.base.errors import UserError
from cutaway.stats.given import tensors
from cutaway.stats.newton import minimise
from cutaway.stats.problems import WORKING_BYTES, grouped, leading_axes, slices
from cutaway.stats.whitened import whiten


@dataclass(frozen=True)
class SoftmaxFit:
    """Coefficients of every problem: `weight` (..., K, d), `bias` (..., K) of sum 0, in x's dtype
    (float32 at least); `converged` (...,) bool; `iterations` (...,): Newton steps until it was."""

    weight: Tensor
    bias: Tensor
    converged: Tensor
    iterations: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """x (n, d) shared, or (..., n, d) with the problems' leading axes → (..., n, K)."""
        return x.to(self.weight.dtype) @ self.weight.mT + self.bias[..., None, :]


@tensors("x", "y", "c", "weight")
def fit_softmax(
    x: Tensor,
    y: Tensor,
    n_classes: int,
    *,
    c: float | Tensor = 1.0,
    weight: Tensor | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
) -> SoftmaxFit:
    """Fit labels y of 0 … n_classes − 1, (..., n), on x (..., n, d), for strengths c (...).

    Leading axes broadcast, `weight` (..., n) of zero means absent and `tolerance` ends a problem as
    in `fit_logistic`: x (L, 1, n, d) with c (S,) gives weights (L, S, K, d).

    Raises UserError for shapes that do not go together, values that are not finite, fewer than two
    classes, labels out of range, a problem without one of its classes, c ≤ 0, or negative weights.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    wide = hardware.wide(x.device)
    strength = torch.as_tensor(c, dtype=wide, device=x.device)
    lead = leading_axes(x, y, strength, weight)
    _check_labels(y, n_classes)
    n, d = x.shape[-2:]
    counts = torch.ones((), dtype=wide, device=x.device) if weight is None else weight.to(wide)
    counts = counts.expand(*lead, n)
    labels = y.long().expand(*lead, n)
    _check_classes(labels, counts, n_classes)
    x, parts, restore = grouped(x, lead, labels, strength.expand(lead), counts)
    groups, problems = parts[0].shape[:2]

    found = torch.empty(groups, problems, n_classes, d + 1, dtype=wide, device=x.device)
    converged = torch.zeros(groups, problems, dtype=torch.bool, device=x.device)
    iterations = torch.zeros(groups, problems, dtype=torch.int64, device=x.device)
    each = 8 * n * 6 * n_classes  # bytes of one problem at work
    for rows in slices(groups, WORKING_BYTES // (16 * n * (min(n, d) + 1) + each * problems)):
        states = whiten(x[rows], wide)
        for columns in slices(problems, WORKING_BYTES // each):
            at = (rows, columns)
            y, c, s = (part[at] for part in parts)
            loss = _Categorical(y, s * c[..., None], n_classes)
            u = states.exact.x.new_zeros(*y.shape[:2], n_classes, states.penalty.shape[-1])
            u[..., -1] = loss.share.log()
            u, converged[at], iterations[at] = minimise(states, loss, u, max_iterations, tolerance)
            found[at][..., :-1], bias = states.coefficients(u)
            found[at][..., -1] = bias - bias.mean(-1, keepdim=True)
    found = found.to(dtype)
    return SoftmaxFit(*map(restore, (found[..., :-1], found[..., -1], converged, iterations)))


class _Categorical:
    """s·[log Σₖ e^{zₖ} − z_y] of every row: labels (G, P, n), weights s likewise."""

    def __init__(self, labels: Tensor, s: Tensor, n_classes: int):
        self.is_class = one_hot(labels, n_classes).mT.to(s.dtype).contiguous()  # (G, P, K, n)
        self.s = s[..., None, :]
        self.narrow = self.s.float()
        self.share = (self.is_class * self.s).sum(-1) / s.sum(-1, keepdim=True)

    def at(self, z: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mine, s = self.is_class[..., rows], self.s[..., rows]
        # Against its own class's score: the loss of a row that is fitted well is then exact.
        z = z - (z * mine).sum(-2, keepdim=True)
        value = (s * _log_sum(z, mine)).sum((-2, -1))
        p = torch.softmax(z, -2)
        # The same for the slope at the own class, −Σ of the other classes' probabilities.
        others = p * (1 - mine)
        first = s * (others - mine * others.sum(-2, keepdim=True))
        total = torch.diag_embed((s * p).sum(-1)) - (s * p) @ p.mT
        # Flat where all classes move alike, which no step does: any curvature will do there.
        total += total.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] + 1e-18
        return value, first, p.float(), total

    def bent(self, z: Tensor, second: Tensor, rows: slice) -> Tensor:
        mean = (second * z).sum(-2, keepdim=True)
        return z.sub_(mean).mul_(second).mul_(self.narrow[..., rows])


def _log_sum(z: Tensor, mine: Tensor) -> Tensor:
    """log Σₖ e^{zₖ} (..., 1, n) of scores with z = 0 at the own class, digits kept near 0."""
    others = z.masked_fill(mine.bool(), -torch.inf).logsumexp(-2, keepdim=True)
    return softplus(others)


def _check_labels(y: Tensor, n_classes: int) -> None:
    if n_classes < 2:
        raise UserError(f"n_classes = {n_classes}: expected 2 or more")
    if not bool(((y >= 0) & (y < n_classes) & (y == y.long())).all()):
        raise UserError(f"y: expected whole labels 0 to {n_classes - 1} only")


def _check_classes(labels: Tensor, counts: Tensor, n_classes: int) -> None:
    """UserError where a problem has no row of some class; labels and weights (..., n)."""
    present = counts.new_zeros(*labels.shape[:-1], n_classes)
    lacking = present.scatter_add(-1, labels, counts) <= 0
    if bool(lacking.any()):
        *where, label = lacking.nonzero()[0].tolist()
        which = f"problem {', '.join(map(str, where))}" if where else "y"
        raise UserError(f"{which}: no row is of class {label}; a probe needs all {n_classes}")
