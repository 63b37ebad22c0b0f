"""The trace of the empirical Fisher information: how much the examples' gradients weigh."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.dynamics import estimation
from cutaway.training.task import Part, Task


def fisher_trace(
    task: Task,
    step: int,
    generators: Sequence[torch.Generator],
    *,
    chunks: int = 1,
    relative_error: float = 0.1,
    most: int = 4,
) -> tuple[Tensor, Tensor]:
    """Mean over a step's examples of ‖∇_θ ℓᵢ‖², and its standard error: () or (members,) each.

    For independent signs sᵢ the cross terms of E‖Σᵢ sᵢ ∇ℓᵢ‖² vanish and Σᵢ ‖∇ℓᵢ‖² is left: one
    backward pass of the sign-weighted losses instead of a gradient for every example. One probe's
    variance is 2 Σ_{i≠j} (∇ℓᵢ·∇ℓⱼ)² over the pairs within a chunk, so smaller chunks are better
    ones; a chunk of one example is exact.
    Measured for p = 113 on a CPU, 8 chunks, two probes: 2 steps' time at a relative error of 2 to
    4 % (transformer and MLP); a gradient for every example takes 140 to 180 steps' time.

    `exact.fisher_trace` is the exact figure.
    """
    parameters, members = estimation.trained(task), task.members

    def sweep(count: int, wanted: Sequence[bool]) -> Tensor:
        terms, examples = [], 0
        for index in range(chunks):
            losses = task.example_losses(task.batch(step, Part(index, chunks)))
            here = losses.shape[-1]
            examples += here
            for probe in range(count):
                drawn = estimation.per_member(
                    lambda g, here=here: estimation.signs(here, g), generators, wanted
                )
                gradient = torch.autograd.grad(
                    losses,
                    parameters,
                    grad_outputs=drawn.to(losses.dtype),
                    retain_graph=probe + 1 < count,
                    allow_unused=True,
                )
                met = [one for one in gradient if one is not None]
                terms.append(estimation.dot(met, met, members))
        return torch.stack(terms).view(chunks, count, members).transpose(0, 1) / examples

    with estimation.measuring(task):
        return estimation.estimate(sweep, chunks, members, relative_error=relative_error, most=most)
