"""Newton's method for the convex losses of linear scores, many problems beside each other.

    minimise over u:   ½ Σ penalty·u² + Σᵢ lossᵢ(z),   z = [x̃B, 1] u

in the whitened directions of `whitened.py`, M scores to a row (1 for two classes). A step solves
H·step = −gradient by conjugate gradients (Lin, Weng & Keerthi 2008), or as the caller says, and a line
search keeps the loss falling. They are preconditioned with what H would be if second derivatives had
nothing to do with x̃: for direction j, penaltyⱼ + spreadⱼ·A with A (M, M) the rows' sum. Losses and gradients are exact
(float64); the products within conjugate gradients are float32's, half the memory to move, and what a
step lacks the next gradient shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from cutaway.stats.whitened import Whitened

_INNER = 200  # steps of conjugate gradients within one of Newton's
_FINEST, _COARSEST = 1e-4, 0.1  # residuals they leave, of the gradient


class Loss(Protocol):
    """Of rows' scores z (G, K, M, rows), sample weights and strength included."""

    def at(self, z: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Its sum (G, K), first derivatives (as z), what `bent` needs (as z, float32), and the sum
        of the second derivatives (G, K, M, M), made definite where they are not."""

    def bent(self, z: Tensor, second: Tensor, rows: slice) -> Tensor:
        """Second derivatives times z, float32; z may be overwritten."""


Solve = Callable[[Tensor, Tensor], Tensor]


def minimise(
    states: Whitened,
    loss: Loss,
    u: Tensor,
    max_iterations: int,
    tolerance: float,
    solve: Solve | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """From u (G, K, M, r + 1): the minimum, `converged` (G, K) bool, steps until then (G, K).

    A problem is done when a whole step changes its coefficients by at most `tolerance` of them.
    `solve(second, gradient)` is H⁻¹·gradient where that is not left to conjugate gradients.
    """
    penalty, spread = states.penalty[:, None, None], states.spread[:, None, None]

    def read(u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss, gradient, second derivatives of the rows and their sum A."""
        values, seconds, totals = [], [], []

        def slope(z: Tensor, rows: slice) -> Tensor:
            value, first, second, total = loss.at(z, rows)
            values.append(value), seconds.append(second), totals.append(total)
            return first

        gradient = states.exact.sums(u, slope)
        square, pulled = states.penalised(u)
        return sum(values) + square / 2, gradient + pulled, torch.cat(seconds, -1), sum(totals)

    value, gradient, second, total = read(u)
    done = torch.zeros_like(value, dtype=torch.bool)
    iterations = torch.zeros_like(value, dtype=torch.int64)
    start = norm = None
    for _ in range(max_iterations):
        if solve is not None:
            step = solve(second, gradient)
        else:
            roughly = _Preconditioner(penalty, spread, total)
            size = _total(gradient * roughly(gradient)).sqrt().clamp(min=1e-300)
            start = size if start is None else start
            accuracy = (size / start).sqrt().clamp(_FINEST, _COARSEST)
            if norm is not None:  # no finer than what ends this problem
                accuracy = accuracy.maximum(0.1 * tolerance * norm / size).clamp(max=_COARSEST)
            accuracy = torch.where(done, torch.inf, accuracy)

            def product(direction: Tensor, second: Tensor = second) -> Tensor:
                def bent(z: Tensor, rows: slice) -> Tensor:
                    return loss.bent(z, second[..., rows], rows)

                return penalty * direction + states.fast.sums(direction.float(), bent)

            step = _conjugate(product, roughly, gradient, accuracy)
        step = torch.where(done[..., None, None], 0.0, -step)
        falling = _total(gradient * step)
        length = torch.ones_like(value)
        for _ in range(40):
            tried = u + length[..., None, None] * step
            new, gradient, second, total = read(tried)
            worse = new > value + 1e-4 * length * falling + 1e-13 * value.abs()
            if not worse.any():
                break
            length = torch.where(worse, length / 2, length)
        u, value = tried, new
        iterations += ~done
        change, norm = _total(penalty * step.square()).sqrt(), _total(penalty * u.square()).sqrt()
        shift, level = step[..., -1].norm(dim=-1), 1 + u[..., -1].norm(dim=-1)
        done |= (length == 1) & (change <= tolerance * norm) & (shift <= tolerance * level)
        if done.all():
            break
    return u, done, iterations


def _total(values: Tensor) -> Tensor:
    return values.sum((-2, -1))


class _Preconditioner:
    """g (G, K, M, r + 1) → (penaltyⱼ + spreadⱼ·A)⁻¹ g for each direction j."""

    def __init__(self, penalty: Tensor, spread: Tensor, total: Tensor):
        if total.shape[-1] == 1:
            values, self.vectors = total, None
        else:
            values, self.vectors = torch.linalg.eigh(total)
            values = values.maximum(1e-12 * values[..., -1:])[..., None]
        self.diagonal = penalty + spread * values

    def __call__(self, gradient: Tensor) -> Tensor:
        if self.vectors is None:
            return gradient / self.diagonal
        return self.vectors @ ((self.vectors.mT @ gradient) / self.diagonal)


def _conjugate(
    product: Callable[[Tensor], Tensor],
    roughly: Callable[[Tensor], Tensor],
    gradient: Tensor,
    accuracy: Tensor,
) -> Tensor:
    """H⁻¹g by conjugate gradients until the residual is `accuracy` of g; `roughly` is about H⁻¹,
    and residuals are measured by it."""
    step = torch.zeros_like(gradient)
    residual = gradient
    direction = scaled = roughly(residual)
    size = _total(residual * scaled)
    enough = accuracy.square() * size
    for _ in range(_INNER):
        going = size > enough
        if not going.any():
            break
        bent = product(direction)
        length = torch.where(going, size / _total(direction * bent), 0.0)[..., None, None]
        step = step + length * direction
        residual = residual - length * bent
        scaled = roughly(residual)
        before, size = size, torch.where(going, _total(residual * scaled), size)
        direction = scaled + (size / before)[..., None, None] * direction
    return step
