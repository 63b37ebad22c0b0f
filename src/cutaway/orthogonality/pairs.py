"""Which pairs of features a step's penalty is on.

A pair's score is the mean over the batch's tokens of fᵢ·fⱼ. Features are taken as they are, without
a gradient: the penalty turns decoder rows, it does not teach features to fire less often together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.base.seeds import torch_generator
from cutaway.orthogonality.products import Strips, reaching
from cutaway.sparse.codes import Codes

_MOST = 4  # times as many candidates as are wanted are held before the bar is raised
_DRAWN = 4  # times as many pairs are drawn as, at a guess, are needed


@dataclass(frozen=True)
class Selection:
    """Pairs i < j of one step, as i·F + j ascending, (P,); what their scores are asked of.

    `least` is the smallest score, within rounding.
    """

    ids: Tensor
    features: int
    strips: Strips
    least: float

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def scores(self) -> Tensor:
        """The score of each, (P,)."""
        return self.scores_of(torch.arange(len(self.ids), device=self.ids.device))

    def scores_of(self, places: Tensor) -> Tensor:
        """The scores of the pairs at these places; the same bits however they were found."""
        return self.strips.exact(self.ids[places]) / max(1, self.strips.tokens)

    @property
    def first(self) -> Tensor:
        return self.ids.div(self.features, rounding_mode="floor")

    @property
    def second(self) -> Tensor:
        return self.ids % self.features


class _Found:
    """Candidates gathered strip by strip; those are kept whose sum, rounded as it may be, could be
    `bar` or more."""

    def __init__(self, strips: Strips, bar: float):
        self.order, self.features = strips.order, strips.features
        self.slack, self.bar = 2 * strips.slack, bar
        self.ids: list[Tensor] = []
        self.sums: list[Tensor] = []
        self.held = 0

    def add(self, strip: Tensor, first: int, places: Tensor) -> None:
        """Keep the cells below the diagonal at these flat places of a strip."""
        row = places.div(strip.shape[1], rounding_mode="floor")
        column = places - row * strip.shape[1]
        below = (row > column).nonzero().view(-1)
        one, other = self.order[row[below] + first], self.order[column[below] + first]
        ids = torch.minimum(one, other) * self.features + torch.maximum(one, other)
        self.ids.append(ids)
        self.sums.append(strip.view(-1)[places[below]])
        self.held += len(ids)

    @property
    def cut(self) -> float:
        """The least sum of a candidate."""
        return self.bar * (1 - self.slack)

    def together(self) -> tuple[Tensor, Tensor]:
        if not self.ids:
            return self.order.new_zeros(0), self.order.new_zeros(0).float()
        return torch.cat(self.ids), torch.cat(self.sums)

    def raise_bar(self, count: int) -> None:
        """Drop what is surely below the count-th largest so far."""
        ids, sums = self.together()
        self.bar = max(self.bar, float(sums.kthvalue(len(sums) - count + 1).values))
        keep = sums >= self.cut
        self.ids, self.sums = [ids[keep]], [sums[keep]]
        self.held = len(self.ids[0])


@torch.no_grad()
def top_pairs(codes: Codes, count: int, guess: float = 0.0) -> Selection:
    """The `count` pairs with the largest mean over tokens of fᵢ·fⱼ; fewer where fewer co-occur.

    Exact, over the whole batch; of pairs with equal scores at the end of the list those with the
    lower (i, j) are taken. Sums as the fast product gives them only say which pairs it is between:
    those too near to call are summed once more (`Strips.exact`), so that the selection is the same
    for any `guess`, strips, kind of codes and processor. `guess`, at best a little under the least
    score that will be selected (the last step's is close), only makes it faster.
    """
    strips = Strips(codes)
    tiny = torch.finfo(strips.dtype).tiny
    bar = guess * strips.tokens
    found = _Found(strips, max(bar, tiny))

    def look(strip: Tensor, first: int) -> float:
        found.add(strip, first, reaching(strip, found.cut))
        if found.held > _MOST * count:
            found.raise_bar(count)
        return found.bar

    strips.visit(look, found.bar)
    ids, sums = found.together()
    if bar > tiny and int((sums >= bar).sum()) < count:  # the guess was too high
        return top_pairs(codes, count)
    if len(ids) > count:
        ids, sums = _largest(strips, ids, sums, count)
    least = float(sums.min()) / max(1, strips.tokens) if len(sums) else 0.0
    return Selection(ids.sort().values, strips.features, strips, least)


def _largest(strips: Strips, ids: Tensor, sums: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` pairs with the largest sums, of equal ones those with the lower (i, j)."""
    last = sums.kthvalue(len(sums) - count + 1).values
    slack = 2.5 * strips.slack
    sure = sums > last * (1 + slack)
    near = ((sums >= last * (1 - slack)) & ~sure).nonzero().view(-1)
    near = near[ids[near].argsort()]
    exact = strips.exact(ids[near])
    chosen = near[exact.argsort(descending=True, stable=True)[: count - int(sure.sum())]]
    return torch.cat([ids[sure], ids[chosen]]), torch.cat([sums[sure], sums[chosen]])


@torch.no_grad()
def random_pairs(codes: Codes, count: int, seed: int, step: int) -> Selection:
    """`count` pairs drawn uniformly among those that co-occur in the batch; fewer where fewer do.

    The control of `top_pairs`: the same number, from the same candidates, whatever their score.
    (Drawn among all pairs they would also differ in that most never fire together, many not at
    all, and what the ranking does could not be told from what firing together does.) A pure
    function of the codes and (seed, step).
    """
    strips = Strips(codes)
    active = len(strips.order)
    pairs = active * (active - 1) // 2
    events = _events(codes)
    drawn = math.ceil(_DRAWN * count * pairs / max(1, min(events, pairs)))
    while True:
        found = _Found(strips, 0.0)
        places = _drawn(pairs, drawn, active, seed, step).to(strips.order.device)

        def look(
            strip: Tensor, first: int, places: Tensor = places, found: _Found = found
        ) -> float:
            low, high = first * active, (first + strip.shape[1]) * active
            ends = torch.tensor([low, high], device=places.device)
            begin, end = torch.searchsorted(places, ends).tolist()
            here = places[begin:end]
            column = here.div(active, rounding_mode="floor")
            flat = (here - column * active - first) * strip.shape[1] + (column - first)
            found.add(strip, first, flat[strip.view(-1)[flat] > 0])
            return 0.0

        strips.visit(look, 0.0)
        if found.held >= count or drawn >= pairs:
            break
        drawn *= 4
    ids, order = (together := found.together())[0].sort()
    sums = together[1][order]
    generator = torch_generator(seed, step, "orthogonality.pick")
    chosen = torch.randperm(len(ids), generator=generator)[:count].sort().values.to(ids.device)
    least = float(sums[chosen].min()) / max(1, strips.tokens) if len(chosen) else 0.0
    return Selection(ids[chosen], strips.features, strips, least)


def _events(codes: Codes) -> int:
    """How often two features are active on one token: Σ n(n − 1)/2; co-occurring pairs are fewer."""
    on = codes.of((codes.values.detach() != 0).float()).row_sums().double()
    return int((on * (on - 1) / 2).sum())


def _drawn(pairs: int, count: int, active: int, seed: int, step: int) -> Tensor:
    """Places column·active + row, column < row, ascending: so many pairs, or all there are."""
    if count >= pairs:
        column, row = torch.triu_indices(active, active, 1)
        return column * active + row
    generator = torch_generator(seed, step, "orthogonality.draw")
    # uniform among pairs: two places that differ, in order
    one = torch.randint(active, (count,), generator=generator)
    other = torch.randint(active - 1, (count,), generator=generator)
    other += other >= one
    return (torch.minimum(one, other) * active + torch.maximum(one, other)).unique()
