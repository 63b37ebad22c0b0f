"""L2 logistic regression for many problems at once: every layer, label and strength in one solve.

    minimise over w, b:   ½‖w‖² + C Σᵢ sᵢ·[log(1 + e^{zᵢ}) − yᵢ zᵢ],   zᵢ = xᵢ·w + b

which is scikit-learn's objective: the intercept goes unpenalised, sᵢ are sample weights.

States are centred (exact, as b is free) and seen through their principal directions, found once for
all problems over the same x (`whitened.py`); Newton's steps are taken there (`newton.py`), solved by
Cholesky in few dimensions and by conjugate gradients in many. Losses and gradients are float64's,
whatever x is: hidden states with large means or a few huge columns leave float32 no digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from cutaway.base import hardware
from cutaway.base.errors import UserError
from cutaway.stats.given import tensors
from cutaway.stats.newton import minimise
from cutaway.stats.problems import WORKING_BYTES, grouped, leading_axes, slices
from cutaway.stats.whitened import Whitened, whiten

_DIRECT = 128  # dimensions up to which the Hessian is formed and factored


@dataclass(frozen=True)
class LogisticFit:
    """Coefficients of every problem: `weight` (..., d), `bias` (...,), in x's dtype (float32 at
    least); `converged` (...,) bool; `iterations` (...,): Newton steps until it was."""

    weight: Tensor
    bias: Tensor
    converged: Tensor
    iterations: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """x (n, d) shared, or (..., n, d) with the problems' leading axes → x·w + b, (..., n)."""
        x = x.to(self.weight.dtype)
        if x.ndim == 2:
            return self.weight @ x.T + self.bias[..., None]
        return (x @ self.weight[..., None])[..., 0] + self.bias[..., None]


@tensors("x", "y", "c", "weight")
def fit_logistic(
    x: Tensor,
    y: Tensor,
    *,
    c: float | Tensor = 1.0,
    weight: Tensor | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
) -> LogisticFit:
    """Fit labels y of 0 and 1, (..., n), on x (..., n, d), for strengths c (...).

    Leading axes broadcast as in all tensor arithmetic, and what x is shared over costs no copy:
    x (L, 1, n, d) with c (K,) gives (L, K) fits, x (n, d) with y (T, n) gives (T,). `weight`
    (..., n) ≥ 0; rows of weight 0 count as absent, so that folds and problems of unequal size
    share one x. A problem is done when a whole Newton step changes w by at most `tolerance`·‖w‖.

    Raises UserError for shapes that do not go together, values that are not finite, labels other
    than 0 and 1, a problem with one class only, c ≤ 0, or negative weights.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    wide = hardware.wide(x.device)
    strength = torch.as_tensor(c, dtype=wide, device=x.device)
    lead = leading_axes(x, y, strength, weight)
    if not bool(((y == 0) | (y == 1)).all()):
        raise UserError("y: expected labels 0 and 1 only")
    n, d = x.shape[-2:]
    labels = (y == 1).expand(*lead, n)
    counts = torch.ones((), dtype=wide, device=x.device) if weight is None else weight.to(wide)
    counts = counts.expand(*lead, n)
    _check_classes((counts * labels).sum(-1), (counts * ~labels).sum(-1))
    x, parts, restore = grouped(x, lead, labels, strength.expand(lead), counts)
    groups, problems = parts[0].shape[:2]

    found = torch.empty(groups, problems, d + 1, dtype=wide, device=x.device)
    converged = torch.zeros(groups, problems, dtype=torch.bool, device=x.device)
    iterations = torch.zeros(groups, problems, dtype=torch.int64, device=x.device)
    size = min(n, d) + 1
    each = 8 * n * (8 + (size if size <= _DIRECT else 0))  # bytes of one problem at work
    for rows in slices(groups, WORKING_BYTES // (16 * n * size + each * problems)):
        states = whiten(x[rows], wide)
        for columns in slices(problems, WORKING_BYTES // each):
            at = (rows, columns)
            mine = (part[at].to(wide) for part in parts)
            u, converged[at], iterations[at] = _fitted(states, *mine, max_iterations, tolerance)
            w, found[*at, -1] = states.coefficients(u)
            found[*at, :-1] = w
    found = found.to(dtype)
    return LogisticFit(*map(restore, (found[..., :-1], found[..., -1], converged, iterations)))


def _fitted(
    states: Whitened, y: Tensor, c: Tensor, s: Tensor, max_iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(G, K) problems over `states`: u (G, K, r + 1), converged, iterations."""
    s = s * c[..., None]  # C goes with the sample weights from here on
    u = y.new_zeros(*y.shape[:2], 1, states.penalty.shape[-1])
    u[..., 0, -1] = torch.logit((s * y).sum(-1) / s.sum(-1))
    formed = states.exact.back is None
    solve = _Cholesky(states) if formed and u.shape[-1] <= _DIRECT else None
    loss = _Binary(y[..., None, :], s[..., None, :])
    u, converged, iterations = minimise(states, loss, u, max_iterations, tolerance, solve)
    return u[..., 0, :], converged, iterations


class _Binary:
    """s·[log(1 + e^z) − y z] of every row; all (G, K, 1, n)."""

    def __init__(self, y: Tensor, s: Tensor):
        self.y, self.s, self.against = y, s, 1 - 2 * y

    def at(self, z: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y, s, against = self.y[..., rows], self.s[..., rows], self.against[..., rows]
        # not softplus(z) − y·z, whose difference has no digits left where labels are fitted well
        value = (s * softplus(against * z)).sum((-2, -1))
        p = torch.sigmoid(z)
        # Kept off zero, where every label is fitted beyond doubt; the gradient stays exact.
        second = s * (p * (1 - p)).clamp_(min=1e-18)
        return value, s * (p - y), second.float(), second.sum(-1, keepdim=True)

    def bent(self, z: Tensor, second: Tensor, rows: slice) -> Tensor:
        return z.mul_(second)


class _Cholesky:
    """H⁻¹g, H = diag(penalty) + [x̃B, 1]ᵀ diag(second) [x̃B, 1], for each problem."""

    def __init__(self, states: Whitened):
        x = states.exact.x
        self.x = torch.cat([x, torch.ones_like(x[..., :1])], -1)[:, None]
        self.penalty = torch.diag_embed(states.penalty)[:, None]

    def __call__(self, second: Tensor, gradient: Tensor) -> Tensor:
        hessian = (self.x * second.to(self.x.dtype).mT).mT @ self.x + self.penalty
        return torch.cholesky_solve(gradient.mT, torch.linalg.cholesky(hessian)).mT


def _check_classes(positive: Tensor, negative: Tensor) -> None:
    """UserError where a problem's rows are of one class; both hold (...,) weights of the classes."""
    lacking = (positive <= 0) | (negative <= 0)
    if bool(lacking.any()):
        where = lacking.nonzero()[0].tolist()
        which = f"problem {', '.join(map(str, where))}" if where else "y"
        only = 0 if bool(positive[tuple(where)] <= 0) else 1
        raise UserError(f"{which}: all labels are {only}; a probe needs both classes")
