"""One rule for ties: what only a rounding could decide is not decided by the rounding.

Processors and libraries add in different orders, so the last digits of a figure differ between
machines. Where two numbers differ by less than `TIE` (log-odds, log-probabilities and losses in
nats, shares), they are equal here, and a rule that does not depend on rounding decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from cutaway.base import hardware

TIE = 1e-6

T = TypeVar("T")


def decided(log_probability: Tensor) -> Tensor:
    """The likeliest class, (..., C) → (...); of classes within `TIE` of it the first."""
    most = log_probability.amax(-1, keepdim=True)
    return (log_probability >= most - TIE).int().argmax(-1)


def agreement(logit: Tensor, truth: Tensor) -> Tensor:
    """How far a decision agrees with labels 0 and 1: 1 or 0, and ½ where |logit| < `TIE`, as AUROC
    counts ties; NaN where the logit is; float64."""
    right = ((logit > 0) == truth.bool()).to(hardware.wide(logit.device))
    right = torch.where(logit.abs() < TIE, 0.5, right)
    return torch.where(logit.isnan(), torch.nan, right)


def least(losses: Tensor) -> Tensor:
    """The place of the smallest, (..., n) → (...); of those within `TIE` of it the first. NaN counts
    as infinite."""
    losses = losses.nan_to_num(nan=torch.inf, posinf=torch.inf)
    return (losses <= losses.amin(-1, keepdim=True) + TIE).int().argmax(-1)


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest along the last axis in falling order and their places, (..., count) each;
    of equal values those that come first, NaN last. (`topk` says nothing about equal ones.)"""
    if not count:
        return values[..., :0], torch.zeros_like(values[..., :0], dtype=torch.int64)
    key = values.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    last = key.topk(count, -1).values[..., -1:]
    over, even = key > last, key == last
    room = count - over.sum(-1, keepdim=True)
    chosen = over | (even & (even.cumsum(-1) <= room))
    places = chosen.nonzero()[:, -1].view(*values.shape[:-1], count)
    order = key.gather(-1, places).argsort(dim=-1, descending=True, stable=True)
    places = places.gather(-1, order)
    return values.gather(-1, places), places


def best(among: Sequence[T], score: Callable[[T], float]) -> T:
    """The one with the highest score; of those within `TIE` of it the first. A score that is not
    finite never wins."""
    scores = [rank(score(one)) for one in among]
    most = max(scores)
    return next(one for one, its in zip(among, scores) if its >= most - TIE)


def rank(value: float | None) -> float:
    """`value` as a key of `max` and of sorting upwards: NaN, infinities and a missing value come
    last. `max` alone keeps a NaN that happens to be first."""
    return value if value is not None and math.isfinite(value) else -math.inf
