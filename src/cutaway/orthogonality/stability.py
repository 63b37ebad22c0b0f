"""How long the selected pairs stay the same: Jaccard overlap, half-life, and a sketch of a selection.

Selections are sets of pairs i < j as i·F + j, ascending.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_EMPTY = -1  # in places of a buffer that hold no pair


def jaccard(one: Tensor, other: Tensor) -> Tensor:
    """|A ∩ B| / |A ∪ B| of two ascending lists of distinct pairs, (); NaN where both are empty."""
    if not len(one) or not len(other):
        return torch.tensor(0.0 if len(one) or len(other) else math.nan, device=one.device)
    place = torch.searchsorted(other, one).clamp_(max=len(other) - 1)
    common = (other[place] == one).sum()
    return common / (len(one) + len(other) - common)


def sketch(ids: Tensor, size: int) -> Tensor:
    """Places, ascending, of the `size` pairs whose hash is least (Broder 1997, "bottom-k").

    The hash is the pair's own, the same at every step: so this is both a uniform sample of a
    selection and one in which a pair that stays selected stays. Of two selections' sketches
    `sketch_overlap` estimates the overlap of the whole.
    """
    return _mixed(ids).argsort(stable=True)[:size].sort().values


def sketch_overlap(one: Tensor, other: Tensor, size: int) -> float:
    """The Jaccard overlap of two selections, estimated from their sketches of `size` pairs.

    Of the `size` pairs of least hash in the union of both, the share that is in both: unbiased,
    with standard error √(J(1 − J)/size); exact where neither selection was larger than `size`.
    """
    union = torch.cat([one, other]).unique()
    least = union[sketch(union, size)]
    both = torch.isin(least, one) & torch.isin(least, other)
    return float(both.double().mean()) if len(least) else math.nan


def half_life(steps: Sequence[float], overlaps: Sequence[float]) -> float:
    """Steps after which an overlap has fallen to half of what it was at the first of `steps`.

    `overlaps[n]` is the overlap with one reference selection `steps[n]` steps after it was taken,
    ascending, the first as soon after it as was looked. Measured against that, not against 1: two
    batches in a row already choose differently by chance, whatever the weights do. Linear between
    the two steps around the crossing; infinity where it did not fall so far.
    """
    if not overlaps or not overlaps[0] > 0:
        return math.nan
    bar = overlaps[0] / 2
    for n in range(1, len(overlaps)):
        if overlaps[n] <= bar:
            above, below = overlaps[n - 1], overlaps[n]
            share = (above - bar) / (above - below)
            return steps[n - 1] + share * (steps[n] - steps[n - 1])
    return math.inf


class Stability(torch.nn.Module):
    """Overlap with the selection before, and the half-life of a reference selection, as it trains.

    The reference is the first selection. When its overlap has halved (see `half_life`), the steps
    that took are the half-life, and the present selection is the next reference. Everything is in
    buffers of the size of a selection, so that a resumed run goes on as the whole would.
    """

    previous: Tensor
    reference: Tensor
    age: Tensor
    at_first: Tensor
    half_life: Tensor

    def __init__(self, pairs: int):
        super().__init__()
        for name in ("previous", "reference"):
            self.register_buffer(name, torch.full((pairs,), _EMPTY, dtype=torch.int64))
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))
        for name in ("at_first", "half_life"):
            self.register_buffer(name, torch.full((), math.nan))

    def figures(self, ids: Tensor) -> dict[str, Tensor]:
        """Of the selection of a step, before `advance` takes it up; NaN at the first step.

        `pair_overlap`: Jaccard with the step before. `pair_reference_overlap`: with the reference.
        `pair_half_life`: the newest completed one, steps (NaN until then).
        """
        overlaps = {
            "pair_overlap": jaccard(ids, _held(self.previous)),
            "pair_reference_overlap": jaccard(ids, _held(self.reference)),
        }
        begun = self.age > 0
        told = {name: torch.where(begun, one, math.nan) for name, one in overlaps.items()}
        return told | {"pair_half_life": self.half_life.clone()}

    def advance(self, ids: Tensor, overlap: Tensor) -> None:
        """A step is done: its selection, and its overlap with the reference."""
        _hold(self.previous, ids)
        first = self.age == 1
        self.at_first.copy_(torch.where(first, overlap, self.at_first))
        over = (self.age > 1) & (overlap <= self.at_first / 2)
        self.half_life.copy_(torch.where(over, self.age, self.half_life))
        # a reference with nothing in common with the very next selection has no half to fall to
        renew = (self.age == 0) | over | (first & ~(self.at_first > 0))
        fresh = torch.full_like(self.reference, _EMPTY)
        _hold(fresh, ids)
        self.reference.copy_(torch.where(renew, fresh, self.reference))
        self.age.copy_(torch.where(renew, 1, self.age + 1))


def _held(buffer: Tensor) -> Tensor:
    return buffer[buffer != _EMPTY]


def _hold(buffer: Tensor, ids: Tensor) -> None:
    buffer.fill_(_EMPTY)
    buffer[: len(ids)] = ids


def _mixed(ids: Tensor) -> Tensor:
    """A hash of each, int64: the finaliser of MurmurHash3, whose products wrap around."""
    mixed = ids.clone()
    for factor in (-49064778989728563, -4265267296055464877):
        mixed ^= (mixed >> 33) & 0x7FFFFFFF
        mixed *= factor
    return mixed ^ ((mixed >> 33) & 0x7FFFFFFF)
