"""Estimates from random probes, each with a standard error, for one network or a stack of them.

A trace is estimated from random vectors: E[vᵀAv] = tr A for signs v ∈ {-1, 1}ⁿ (Hutchinson 1990;
signs have the least variance of all, 2(‖A‖² - Σ aᵢᵢ²)). The members of a stack are independent, so
a gradient of the sum of their losses holds each member's own in its slice, and one pass serves all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.training.task import Task

_FREEDOM = 4  # degrees of freedom of a first round: its error is then good to a third of itself


@contextmanager
def measuring(task: Task) -> Iterator[None]:
    """Dropout off, gradients on, twice differentiable; afterwards all as it was."""
    was = task.training
    task.eval()
    try:
        with torch.enable_grad(), task.twice_differentiable():
            yield
    finally:
        task.train(was)


def trained(task: Task) -> list[Tensor]:
    """The parameters that training changes."""
    return [parameter for parameter in task.parameters() if parameter.requires_grad]


def signs(count: int, generator: torch.Generator) -> Tensor:
    """`count` independent signs, -1 or 1 with equal chance, (count,) int8; eight per byte drawn."""
    on = generator.device
    drawn = torch.randint(
        256, (-(-count // 8), 1), dtype=torch.uint8, device=on, generator=generator
    )
    bits = (drawn >> torch.arange(8, dtype=torch.uint8, device=on)) & 1
    return bits.flatten()[:count].to(torch.int8).mul_(2).sub_(1)


def directions(rows: int, width: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """`rows` vectors uniform on the unit sphere, (rows, width)."""
    drawn = torch.randn(rows, width, generator=generator, device=generator.device, dtype=dtype)
    return drawn / drawn.norm(dim=-1, keepdim=True)


def per_member(
    draw: Callable[[torch.Generator], Tensor],
    generators: Sequence[torch.Generator],
    wanted: Sequence[bool] | None = None,
) -> Tensor:
    """Each member's draw from its own generator, (members, ...), without that axis for one.

    A member that is not `wanted` draws nothing (so that its stream stays where it would be alone);
    it is given the draw of one that is.
    """
    if len(generators) == 1:
        return draw(generators[0])
    drawn = [draw(g) if w else None for g, w in zip(generators, wanted or [True] * len(generators))]
    filler = next(one for one in drawn if one is not None)
    return torch.stack([filler if one is None else one for one in drawn])


def like(flat: Tensor, parameters: Sequence[Tensor], members: int) -> list[Tensor]:
    """A flat probe (n,) or (members, n) cut into the shapes and dtypes of the parameters."""
    sizes = [parameter.numel() // members for parameter in parameters]
    pieces = flat.split(sizes, -1)
    return [piece.view(p.shape).to(p.dtype) for piece, p in zip(pieces, parameters)]


def dot(left: Sequence[Tensor], right: Sequence[Tensor], members: int) -> Tensor:
    """Σ left · right over all tensors, summed in float64: (members,)."""
    wide = hardware.wide(left[0].device)
    terms = [(a * b).reshape(members, -1).sum(1, dtype=wide) for a, b in zip(left, right)]
    return torch.stack(terms).sum(0)


def count_examples(task: Task, step: int) -> int:
    """How many examples the batch of a step has."""
    batch = task.batch(step)
    try:
        return task.targets(batch).shape[-1]
    except TypeError:
        with torch.no_grad():
            return task.example_losses(batch).shape[-1]


def estimate(
    sweep: Callable[[int, Sequence[bool]], Tensor],
    chunks: int,
    members: int,
    *,
    relative_error: float,
    most: int,
) -> tuple[Tensor, Tensor]:
    """A sum of chunks' terms from random probes, and its standard error: () or (members,) each.

    `sweep(probes, wanted)` gives (probes, chunks, members) terms in float64, of which the sum over
    chunks has the right mean; probes differ from chunk to chunk. So the error is

        se² = Σ_chunks s²_chunk / probes,

    known to about 1 / √(2 · chunks · (probes - 1)) of itself: with eight chunks two probes say as
    much of it as nine do without chunks. A first round has as many probes as make that a third;
    further ones are added singly until se ≤ relative_error · |value| or there are `most` (the first
    round is always made). A member stops when it would have stopped alone. Stopping on a measured
    error favours rounds that happen to agree: the error is then a little too small.
    """
    probes = 1 + max(1, math.ceil(_FREEDOM / chunks))
    wanted = [True] * members
    seen = sweep(probes, wanted)
    value, error = _mean(seen)
    while len(seen) < most:
        small = (error <= relative_error * value.abs()).tolist()
        wanted = [one and not done for one, done in zip(wanted, small)]
        if not any(wanted):
            break
        seen = torch.cat([seen, sweep(1, wanted)])
        mask = torch.tensor(wanted, device=seen.device)
        newer = _mean(seen)
        value, error = (torch.where(mask, new, old) for new, old in zip(newer, (value, error)))
    return (value, error) if members > 1 else (value[0], error[0])


def _mean(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Value and standard error, (members,), of terms (probes, chunks, members)."""
    return seen.mean(0).sum(0), (seen.var(0) / len(seen)).sum(0).sqrt()
