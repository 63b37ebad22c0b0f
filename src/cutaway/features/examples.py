"""What is kept of a feature while text goes by: its strongest examples, and on which tokens it fires.

Both take the active entries of a piece of text at once and hold a bounded amount, whatever its
length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_PAIRS = 1 << 23  # (feature, token) pairs kept: 128 MB, twice that with those that wait


@dataclass(frozen=True)
class Piece:
    """Whole contexts of a text, padding left out, token after token, (n,) each but `states` (n, d).

    `contexts` counts them from 0 within the piece; `documents` is the source's count.
    """

    states: Tensor
    tokens: Tensor
    positions: Tensor
    documents: Tensor
    contexts: Tensor


@dataclass(frozen=True)
class Entries:
    """Active entries of a piece, (nnz,) each: `flat` is row · F + feature, ascending."""

    flat: Tensor
    rows: Tensor
    features: Tensor
    values: Tensor
    width: int

    def at(self, rows: Tensor, features: Tensor) -> Tensor:
        """The values there, 0 where a feature is silent; of the indices' broadcast shape."""
        wanted = rows * self.width + features
        places = torch.searchsorted(self.flat, wanted).clamp_(max=len(self.flat) - 1)
        return torch.where(self.flat[places] == wanted, self.values[places], 0.0)


class Examples:
    """Each feature's k strongest examples so far, at most one of a context: where it is largest.

    `values` (F, k), strongest first, 0 where there is none; `documents`, `positions` (F, k);
    `tokens` and `activations` (F, k, W): the window of `before` tokens, the one itself and `after`,
    within its context; token -1 is outside. Of equal ones the earlier is kept.
    """

    def __init__(
        self, features: int, k: int, before: int, after: int, device: torch.device | str = "cpu"
    ):
        self.before, self.after = before, after
        window = before + 1 + after
        self.values = torch.zeros(features, k, device=device)
        self.documents = torch.zeros(features, k, dtype=torch.int64, device=device)
        self.positions = torch.zeros(features, k, dtype=torch.int32, device=device)
        self.tokens = torch.full((features, k, window), -1, dtype=torch.int32, device=device)
        self.activations = torch.zeros(features, k, window, device=device)

    def add(self, piece: Piece, entries: Entries) -> None:
        """Take what is stronger than the weakest kept."""
        hot = (entries.values > self.values[entries.features, -1]).nonzero().view(-1)
        chosen = self._best_of_contexts(piece, entries, hot)
        if not len(chosen):
            return
        k = self.values.shape[1]
        rows, features = entries.rows[chosen], entries.features[chosen]
        touched, own = features.unique_consecutive(return_inverse=True)
        rank = torch.arange(len(own), device=own.device) - torch.searchsorted(own, own)
        kept = rank < k
        rows, own, rank, chosen = rows[kept], own[kept], rank[kept], chosen[kept]
        new = self.values.new_zeros(len(touched), k)
        new[own, rank] = entries.values[chosen]
        which = torch.full((len(touched), k), -1, dtype=torch.int64, device=new.device)
        which[own, rank] = rows
        both = torch.cat([self.values[touched], new], 1)
        values, order = both.sort(dim=1, descending=True, stable=True)
        values, order = values[:, :k], order[:, :k]
        # of each place: the old example that moves there, or the row of the new one
        old = order.clamp(max=k - 1)
        row = torch.where(order < k, -1, which.gather(1, (order - k).clamp(min=0)))
        fresh = row >= 0
        place = row[fresh]
        tokens, activations = self._windows(
            piece, entries, place, touched[:, None].expand_as(row)[fresh]
        )
        self.values[touched] = values
        for kept_of, fill in (
            (self.documents, piece.documents[place]),
            (self.positions, piece.positions[place]),
            (self.tokens, tokens),
            (self.activations, activations),
        ):
            index = old if kept_of.ndim == 2 else old[..., None].expand(-1, -1, kept_of.shape[2])
            moved = kept_of[touched].gather(1, index)
            moved[fresh] = fill.to(moved.dtype)
            kept_of[touched] = moved

    @staticmethod
    def _best_of_contexts(piece: Piece, entries: Entries, hot: Tensor) -> Tensor:
        """Of each feature and context the strongest entry; by feature, then by falling value."""
        hot = hot[entries.values[hot].argsort(descending=True, stable=True)]
        contexts = piece.contexts[entries.rows[hot]]
        key = entries.features[hot] * (int(piece.contexts[-1]) + 1) + contexts
        key, order = key.sort(stable=True)
        first = torch.ones_like(key, dtype=torch.bool)
        first[1:] = key[1:] != key[:-1]
        best = order[first].sort().values  # back in the order of falling values
        best = hot[best]
        return best[entries.features[best].argsort(stable=True)]

    def _windows(
        self, piece: Piece, entries: Entries, rows: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens and activations around each row, (m, W) each."""
        reach = torch.arange(-self.before, self.after + 1, device=rows.device)
        around = rows[:, None] + reach
        there = around.clamp(0, len(piece.tokens) - 1)
        same = (there == around) & (piece.contexts[there] == piece.contexts[rows][:, None])
        tokens = torch.where(same, piece.tokens[there], -1)
        activations = entries.at(there, features[:, None])
        return tokens, torch.where(same, activations, 0.0)


class PairCounts:
    """How often each feature fired on each token, for the pairs that matter.

    Exact up to `limit` different pairs. Beyond, the rarest are dropped (lossy counting, Manku &
    Motwani 2002): a count is then too low by at most `missed`.
    """

    def __init__(self, vocabulary: int, limit: int = _PAIRS):
        self.vocabulary, self.limit, self.missed = vocabulary, limit, 0
        self._keys: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._waiting = 0

    def add(self, features: Tensor, tokens: Tensor) -> None:
        """Firings: the feature and the token of each, (nnz,)."""
        keys, counts = _summed((features * self.vocabulary + tokens).sort().values)
        self._keys.append(keys)
        self._counts.append(counts)
        self._waiting += len(keys)
        # merged when what waits outgrows what is merged: each pair is sorted a few times in all
        if self._waiting > max(self.limit // 4, len(self._keys[0])):
            self._merge()

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features, tokens, counts, ascending by feature and token."""
        self._merge()
        if not self._keys:
            none = torch.empty(0, dtype=torch.int64)
            return none, none, none
        keys = self._keys[0]
        features = keys.div(self.vocabulary, rounding_mode="floor")
        return features, keys - features * self.vocabulary, self._counts[0]

    def _merge(self) -> None:
        if not self._keys:
            return
        keys, order = torch.cat(self._keys).sort()
        keys, counts = _summed(keys, torch.cat(self._counts)[order])
        if len(keys) > self.limit:
            least = int(counts.kthvalue(len(keys) - self.limit).values)
            kept = counts > least
            keys, counts, self.missed = keys[kept], counts[kept], self.missed + least
        self._keys, self._counts, self._waiting = [keys], [counts], 0


def _summed(keys: Tensor, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Each of the ascending keys once, with how often, or how much, it came."""
    unique, places, times = keys.unique_consecutive(return_inverse=True, return_counts=True)
    if counts is None:
        return unique, times
    return unique, torch.zeros_like(times).index_add_(0, places, counts)
