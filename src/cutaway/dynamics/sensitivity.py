"""Sensitivity to the input: the Jacobian of the logits, the curvature of the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.dynamics import estimation
from cutaway.training.instruments import Moment, Stateless

_CHUNK = 1024  # examples whose graph of second derivatives is held at once


class InputSensitivity(Stateless):
    """`jacobian_norm` = √(mean over examples of ‖∂ logits / ∂ embeddings‖²_F) and `hessian_trace` =
    mean over examples of tr ∂²ℓ / ∂ embeddings², ℓ the cross-entropy in nats; each with its `_se`.

    ‖J‖²_F = classes · E‖Jᵀv‖², v uniform on the unit sphere; tr H = E[uᵀHu], u of signs. Examples
    do not meet in the network, so one pass gives every example's product with its own probe.

    A random `examples` of the step's batch are read (None, or a smaller batch: all), with `probes`
    probes each. The standard error is that of the mean over the whole batch: with n of N examples
    read, s² the variance between their estimates and s_w² that between one example's probes,

        se² = s² / n - s_b² / N,    s_b² = max(0, s² - s_w² / probes),

    the second term being the correction for a finite batch. With n = N only the probes' noise is
    left. One probe cannot tell the two apart: s² / n is then recorded, an upper bound.
    """

    name = "input_sensitivity"

    def __init__(self, every: int, examples: int | None = 512, probes: int = 2):
        self.every, self.examples, self.probes = every, examples, probes

    def read(self, at: Moment) -> dict[str, Tensor]:
        task = at.task
        with estimation.measuring(task):
            batch = task.batch(at.step)
            entering, targets = task.embed(batch), task.targets(batch)
            total = targets.shape[-1]
            if self.examples is not None and self.examples < total:
                entering, targets = self._subset(at, entering, targets)
            along = 1 if task.members > 1 else 0
            pieces = zip(entering.split(_CHUNK, along), targets.split(_CHUNK, along))
            squares, traces = zip(*(self._products(at, *piece) for piece in pieces))
        square, square_se = mean_and_error(torch.cat(squares, -1), total)
        trace, trace_se = mean_and_error(torch.cat(traces, -1), total)
        norm = square.sqrt()
        # the root's error by the delta method; a Jacobian of zeros has none
        norm_se = torch.where(norm > 0, square_se / (2 * norm), 0.0)
        return {
            "jacobian_norm": norm,
            "jacobian_norm_se": norm_se,
            "hessian_trace": trace,
            "hessian_trace_se": trace_se,
        }

    def _subset(self, at: Moment, entering: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Each member's own random examples."""
        total, count = targets.shape[-1], self.examples
        chosen = estimation.per_member(
            lambda g: torch.randperm(total, generator=g, device=g.device)[:count], at.generators
        )
        if at.task.members == 1:
            return entering[chosen], targets[chosen]
        member = torch.arange(at.task.members, device=chosen.device)[:, None]
        return entering[member, chosen], targets[member, chosen]

    def _products(self, at: Moment, entering: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of ‖J‖²_F and tr H: (probes, ..., examples) each."""
        entering = entering.requires_grad_()
        logits = at.task.outputs(entering)
        wide = hardware.wide(logits.device)
        classes, first = logits.shape[-1], logits.ndim - 1  # the first axis within an example
        loss = at.task.output_losses(logits, targets).sum()
        (slope,) = torch.autograd.grad(loss, entering, create_graph=True)
        squares, traces = [], []
        for _ in range(self.probes):
            v = estimation.per_member(
                lambda g: estimation.directions(logits.shape[-2], classes, g, logits.dtype),
                at.generators,
            )
            (pulled,) = torch.autograd.grad(logits, entering, v, retain_graph=True)
            squares.append(classes * pulled.flatten(first).square().sum(-1, dtype=wide))
            size = entering.shape[first - 1 :].numel()
            flat = estimation.per_member(
                lambda g, size=size: estimation.signs(size, g), at.generators
            )
            u = flat.view(entering.shape).to(entering.dtype)
            (product,) = torch.autograd.grad(slope, entering, u, retain_graph=True)
            traces.append((u * product).flatten(first).sum(-1, dtype=wide))
        return torch.stack(squares), torch.stack(traces)


def mean_and_error(estimates: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Mean and standard error, (...) each, of estimates (probes, ..., examples read of `total`).

    See `InputSensitivity` for the formula. One example read alone has no known error: NaN, unless
    it is all there is and has several probes.
    """
    count, read = estimates.shape[0], estimates.shape[-1]
    each = estimates.mean(0)
    if read == total and count > 1:
        return each.mean(-1), (estimates.var(0).mean(-1) / (count * read)).sqrt()
    spread = each.var(-1)
    square = spread / read
    if count > 1:
        between = (spread - estimates.var(0).mean(-1) / count).clamp(min=0)
        square = square - between / total
    return each.mean(-1), square.sqrt()
