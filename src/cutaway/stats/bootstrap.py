"""How sure a score is: groups (documents) drawn again, and seeds compared.

Texts of one document are alike, so it is documents that are drawn with replacement, whole
(Davison & Hinkley 1997, §3.8). A draw is a weight per sample, how often its group was drawn; all
draws are scored at once as weighted scores (`scores`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import fmean, stdev
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.base.columns import column
from cutaway.base.errors import UserError
from cutaway.base.seeds import torch_generator
from cutaway.stats.given import tensors

DRAWS = 1000
LEVEL = 0.95
_ENTRIES = 2**24  # weights of draws held at once


class Interval(NamedTuple):
    """A value and where it lies with the level's confidence; NaN where that is not defined."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """Mean of a − b with its interval; `within_noise` where that holds 0 or is not defined."""

    mean: float
    low: float
    high: float
    within_noise: bool


@tensors("groups")
def group_draws(groups: Tensor, draws: int = DRAWS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """How often each group comes in each draw, (draws, G) in float64, and each sample's group (n,).

    `groups` (n,) holds any integer names. G groups are drawn G times with replacement.
    """
    names, member = groups.unique(return_inverse=True)
    count = len(names)
    generator = torch_generator(seed, 0, "bootstrap")
    drawn = torch.randint(count, (draws, count), generator=generator)
    counts = torch.zeros(draws, count, dtype=torch.int64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn))
    return counts.to(member.device).to(hardware.wide(member.device)), member


@tensors("groups")
def score_interval(
    score: Callable[[Tensor], Tensor],
    groups: Tensor,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Low and high of `score(weight)`, by percentiles over draws of whole groups.

    `score` takes weights (draws, n) and gives (..., draws), as those of `scores` do. Draws where
    it is NaN (a class was not drawn) are left out; NaN where all are, and with a single group,
    which says nothing about others. Each of the two is (...,).
    """
    counts, member = group_draws(groups, draws, seed)
    size = max(1, _ENTRIES // max(1, len(member)))
    found = torch.cat([score(part[:, member]) for part in counts.split(size)], -1)
    return percentiles(found, level, groups)


@tensors("values", "groups", "weight")
def mean_draws(
    values: Tensor,
    groups: Tensor,
    weight: Tensor | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Mean over samples of values (..., n), weighted (..., n) or not, and in each draw (..., draws).

    From sums per group, at the cost of (draws × groups) a value. NaN in draws without weight. The
    same seed draws the same groups, so that means of several scores can be taken draw by draw.
    """
    counts, member = group_draws(groups, draws, seed)
    values = values.to(counts.dtype)
    weight = torch.ones_like(values) if weight is None else weight.to(counts.dtype)
    weight = weight.expand_as(values)
    empty = values.new_zeros(*values.shape[:-1], counts.shape[1])
    sums = empty.index_add(-1, member, values * weight)
    sizes = empty.index_add(-1, member, weight)
    return sums.sum(-1) / sizes.sum(-1), (sums @ counts.T) / (sizes @ counts.T)


@tensors("values", "groups", "weight")
def mean_interval(
    values: Tensor,
    groups: Tensor,
    weight: Tensor | None = None,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over samples of values (..., n) with low and high: of accuracies, for instance.

    Equals `score_interval` of the weighted mean.
    """
    mean, found = mean_draws(values, groups, weight, draws=draws, seed=seed)
    return mean, *percentiles(found, level, groups)


@tensors("found", "groups")
def percentiles(found: Tensor, level: float, groups: Tensor) -> tuple[Tensor, Tensor]:
    """The central `level` of scores of draws (..., draws), NaN left out: low and high, (...,).

    NaN where `groups` holds one group only: it says nothing about others.
    """
    if not 0 < level < 1:
        raise UserError(f"level = {level}: expected a number between 0 and 1")
    if bool((groups == groups[:1]).all()):
        nothing = found.new_full(found.shape[:-1], math.nan)
        return nothing, nothing
    tails = found.new_tensor([(1 - level) / 2, (1 + level) / 2])
    low, high = found.nanquantile(tails, -1)
    return low, high


def seed_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean over seeds and Student's interval, mean ± t·s/√n with n − 1 degrees of freedom.

    Low and high are NaN for one seed; all three where a value is. UserError for none.
    """
    values = [math.nan if one is None else float(one) for one in column(values, "values")]
    if not values:
        raise UserError("values: expected one per seed, got none")
    mean, n = fmean(values), len(values)
    if n < 2 or math.isnan(mean):
        return Interval(mean, math.nan, math.nan)
    half = student_quantile((1 + level) / 2, n - 1) * stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Difference:
    """a − b seed by seed: `seed_interval` of the differences, and whether it holds 0.

    With one seed there is no interval, so the difference counts as noise. UserError where the two
    are not of one length.
    """
    a, b = column(a, "a"), column(b, "b")
    if len(a) != len(b):
        raise UserError(f"seeds: {len(a)} values against {len(b)}; expected the same seeds in both")
    mean, low, high = seed_interval(
        [math.nan if None in (x, y) else x - y for x, y in zip(a, b, strict=True)], level
    )
    return Difference(mean, low, high, not (low > 0 or high < 0))


@lru_cache
def student_quantile(p: float, degrees: int) -> float:
    """t with P(T ≤ t) = p, ½ ≤ p < 1, for whole degrees of freedom.

    Bisection of the closed form (Abramowitz & Stegun 26.7.3 and 26.7.4).
    """
    if not 0.5 <= p < 1 or degrees < 1:
        raise UserError(f"p = {p}, degrees = {degrees}: expected 0.5 ≤ p < 1 and 1 or more")
    low, high = 0.0, math.pi / 2  # of θ = atan(t/√ν)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < 2 * p - 1 else (low, middle)
    return math.tan(low) * math.sqrt(degrees)


def _within(angle: float, degrees: int) -> float:
    """P(|T| ≤ √ν tan θ)."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= square * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
