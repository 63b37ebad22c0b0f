"""L2 logistic regression for many problems at once: every layer, label and strength in one solve.

    minimise over w, b:   ½‖w‖² + C Σᵢ sᵢ·[log(1 + e^{zᵢ}) − yᵢ zᵢ],   zᵢ = xᵢ·w + b

which is scikit-learn's objective: the intercept goes unpenalised, sᵢ are sample weights.

How it is solved. States are centred (exact, as b is free) and turned into their principal
directions, each scaled to variance 1: u with w = V·S·u, so the penalty is Σ (S u)² and the
Hessian Σ s p(1 − p) x̃x̃ᵀ is close to diagonal however the columns were scaled. Newton's steps are
taken there with a line search that keeps the loss falling; each is solved by Cholesky in few
dimensions, else by conjugate gradients preconditioned with that diagonal (Lin, Weng & Keerthi
2008). The directions are found once for all problems over the same x. Losses and gradients are
float64's, whatever x is: hidden states with large means or a few huge columns leave float32 no
digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from cutaway.base import hardware
from cutaway.base.errors import UserError

_DIRECT = 128  # dimensions up to which the Hessian is formed and factored
_BYTES = 512 * 2**20  # working memory that decides how many problems are solved beside each other
_SMALL = 1e-12  # variance, of the largest, below which a direction is not scaled up further
_INNER = 200  # steps of conjugate gradients within one of Newton's


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
    lead = _lead(x, y, strength, weight)
    n, d = x.shape[-2:]
    labels = (y == 1).expand(*lead, n)
    counts = torch.ones((), dtype=wide, device=x.device) if weight is None else weight.to(wide)
    counts = counts.expand(*lead, n)
    _check_classes((counts * labels).sum(-1), (counts * ~labels).sum(-1))
    x, parts, restore = _grouped(x, lead, labels, strength.expand(lead), counts)
    groups, problems = parts[0].shape[:2]

    found = torch.empty(groups, problems, d + 1, dtype=wide, device=x.device)
    converged = torch.zeros(groups, problems, dtype=torch.bool, device=x.device)
    iterations = torch.zeros(groups, problems, dtype=torch.int64, device=x.device)
    size = min(n, d) + 1
    each = 8 * n * (8 + (size if size <= _DIRECT else 0))  # bytes of one problem at work
    for rows in _slices(groups, _BYTES // (16 * n * size + each * problems)):
        turned, penalty, back, mean = _principal(x[rows].to(wide))
        for columns in _slices(problems, _BYTES // each):
            at = (rows, columns)
            mine = [part[at].to(wide) for part in parts]
            u, converged[at], iterations[at] = _newton(
                turned, penalty, *mine, max_iterations, tolerance
            )
            w = u[..., :-1] @ back.mT
            found[*at, :-1] = w
            found[*at, -1] = u[..., -1] - (w * mean).sum(-1)
    found = found.to(dtype)
    return LogisticFit(*map(restore, (found[..., :-1], found[..., -1], converged, iterations)))


def _principal(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (G, n, d) → [x̃, 1] (G, n, r + 1), the penalty on each of its columns, V·S (G, d, r), mean."""
    mean = x.mean(1, keepdim=True)
    x = x - mean
    basis = None
    if x.shape[1] < x.shape[2]:  # w lies in the span of the rows
        basis, upper = torch.linalg.qr(x.mT)
        x = upper.mT
    variance, vectors = torch.linalg.eigh(x.mT @ x / x.shape[1])
    floor = _SMALL * variance[:, -1:]
    scale = torch.where(floor > 0, variance.maximum(floor), 1.0).rsqrt()
    back = vectors * scale[:, None]
    turned = torch.cat([x @ back, torch.ones_like(x[..., :1])], -1)
    penalty = torch.cat([scale.square(), torch.zeros_like(scale[:, :1])], -1)
    return turned, penalty, back if basis is None else basis @ back, mean


def _newton(
    x: Tensor,
    penalty: Tensor,
    y: Tensor,
    c: Tensor,
    s: Tensor,
    max_iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Newton's method for (G, K) problems over x (G, n, r): u (G, K, r), converged, iterations."""
    penalty, c = penalty[:, None], c[..., None]
    s = s * c  # C goes with the sample weights from here on
    spread = x.square().mean(1)[:, None]
    direct = x.shape[2] <= _DIRECT
    narrow = x if direct else x.float()
    against = 1 - 2 * y

    def loss(u: Tensor, z: Tensor) -> Tensor:
        # not softplus(z) − y·z, whose difference has no digits left where labels are fitted well
        return (penalty * u.square()).sum(-1) / 2 + (s * softplus(against * z)).sum(-1)

    positive = (s * y).sum(-1) / s.sum(-1)
    u = x.new_zeros(*y.shape[:2], x.shape[2])
    u[..., -1] = torch.logit(positive)
    z = u @ x.mT
    value = loss(u, z)
    done = torch.zeros_like(positive, dtype=torch.bool)
    iterations = torch.zeros_like(positive, dtype=torch.int64)
    first = None
    for _ in range(max_iterations):
        p = torch.sigmoid(z)
        gradient = penalty * u + (s * (p - y)) @ x
        # Kept off zero, where every label is fitted beyond doubt; the gradient stays exact.
        curvature = s * (p * (1 - p)).clamp_(min=1e-18)
        diagonal = penalty + curvature.sum(-1, keepdim=True) * spread
        size = (gradient.square() / diagonal).sum(-1).sqrt()
        first = size if first is None else first
        if direct:
            step = _solved(x, penalty, curvature, gradient)
        else:
            accuracy = (size / first.clamp(min=1e-300)).sqrt_().clamp_(1e-4, 0.1)
            accuracy = torch.where(done, torch.inf, accuracy)
            step = _conjugate(narrow, penalty, curvature, diagonal, gradient, accuracy)
        step = torch.where(done[..., None], 0.0, -step)
        along = step @ x.mT
        slope = (gradient * step).sum(-1)
        length = torch.ones_like(value)
        for _ in range(40):
            tried = u + length[..., None] * step
            reached = z + length[..., None] * along
            new = loss(tried, reached)
            worse = new > value + 1e-4 * length * slope + 1e-13 * value.abs()
            if not worse.any():
                break
            length = torch.where(worse, length / 2, length)
        u, z, value = tried, tried @ x.mT, new
        iterations += ~done
        change = (penalty * step.square()).sum(-1).sqrt()
        norm = (penalty * u.square()).sum(-1).sqrt()
        shift, level = step[..., -1].abs(), 1 + u[..., -1].abs()
        done |= (length == 1) & (change <= tolerance * norm) & (shift <= tolerance * level)
        if done.all():
            break
    return u, done, iterations


def _solved(x: Tensor, penalty: Tensor, curvature: Tensor, gradient: Tensor) -> Tensor:
    """H⁻¹g by Cholesky, H = diag(penalty) + xᵀ diag(curvature) x for each problem."""
    x = x[:, None]
    hessian = (x * curvature[..., None]).mT @ x + torch.diag_embed(penalty)
    return torch.cholesky_solve(gradient[..., None], torch.linalg.cholesky(hessian))[..., 0]


def _conjugate(
    x: Tensor,
    penalty: Tensor,
    curvature: Tensor,
    diagonal: Tensor,
    gradient: Tensor,
    accuracy: Tensor,
) -> Tensor:
    """H⁻¹g by conjugate gradients until the residual is `accuracy` of g, in the diagonal's norm.

    The two products with x are float32's, half the memory to move: x's columns are of one size,
    and Newton's next gradient, in float64, takes what the step lacks.
    """
    wide, weight = gradient.dtype, curvature.to(x.dtype)
    step = torch.zeros_like(gradient)
    residual = gradient
    direction = scaled = residual / diagonal
    product = (residual * scaled).sum(-1)
    enough = accuracy.square() * product
    for _ in range(_INNER):
        going = product > enough
        if not going.any():
            break
        bent = penalty * direction + ((direction.to(x.dtype) @ x.mT).mul_(weight) @ x).to(wide)
        size = product / (direction * bent).sum(-1)
        size = torch.where(going, size, 0.0)[..., None]
        step = step + size * direction
        residual = residual - size * bent
        scaled = residual / diagonal
        before, product = product, torch.where(going, (residual * scaled).sum(-1), product)
        direction = scaled + (product / before)[..., None] * direction
    return step


def _grouped(
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

    def grouped(values: Tensor) -> Tensor:
        rest = range(axes, values.ndim)
        return values.permute((*order, *rest)).reshape(groups, problems, *values.shape[axes:])

    def restore(values: Tensor) -> Tensor:
        values = values.reshape((*sizes, *values.shape[2:]))
        back = [order.index(axis) for axis in range(axes)]
        return values.permute((*back, *range(axes, values.ndim))).contiguous()

    return x.reshape(groups, *x.shape[-2:]), [grouped(one) for one in others], restore


def _slices(total: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _lead(x: Tensor, y: Tensor, c: Tensor, weight: Tensor | None) -> torch.Size:
    """The problems' axes; UserError for what cannot be fitted."""
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
    if not bool(x.isfinite().all()):
        raise UserError("x: holds values that are not finite")
    if not bool(((y == 0) | (y == 1)).all()):
        raise UserError("y: expected labels 0 and 1 only")
    if not bool((c.isfinite() & (c > 0)).all()):
        raise UserError(f"c = {c.tolist()}: expected finite strengths above 0")
    if weight is not None and not bool((weight.isfinite() & (weight >= 0)).all()):
        raise UserError("weight: expected finite sample weights of 0 or more")
    return lead


def _check_classes(positive: Tensor, negative: Tensor) -> None:
    """UserError where a problem's rows are of one class; both hold (...,) weights of the classes."""
    lacking = (positive <= 0) | (negative <= 0)
    if bool(lacking.any()):
        where = lacking.nonzero()[0].tolist()
        which = f"problem {', '.join(map(str, where))}" if where else "y"
        only = 0 if bool(positive[tuple(where)] <= 0) else 1
        raise UserError(f"{which}: all labels are {only}; a probe needs both classes")
