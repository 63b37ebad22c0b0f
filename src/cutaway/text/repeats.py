"""Text that comes twice: runs of tokens that no two documents share by chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

RUN = 32  # tokens in a row
RELATED = 0.1  # share of the smaller document's runs that the larger one has, from which they are
_KEPT = 2**22  # runs looked at, about; of more only those with a small hash
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no token's share of a hash is lost


def run_hashes(
    tokens: np.ndarray, begin: np.ndarray, end: np.ndarray, length: int = RUN
) -> tuple[np.ndarray, np.ndarray]:
    """Of every `length` tokens in a row inside of a text Σ_j (token_j + 1)·B^(length−1−j) mod 2^64,
    and where they begin. Texts are `tokens[begin:end]`, one after another.
    """
    if len(tokens) < length:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    hashes = _hashes(tokens, length)
    count = len(hashes)
    # of a text that ends at e, runs that begin after e − length cross into the next one
    crosses = np.zeros(count + 1, np.int64)
    np.add.at(crosses, np.clip(np.maximum(begin, end - length + 1), 0, count), 1)
    np.add.at(crosses, np.clip(end, 0, count), -1)
    begins = np.flatnonzero(crosses[:count].cumsum() == 0)
    return hashes[begins], begins


def _hashes(tokens: np.ndarray, length: int) -> np.ndarray:
    """The hash of the run that begins at each place, by doubling: of 2m tokens it is that of the
    first m times B^m and that of the next m."""
    whole = tokens.astype(np.uint64) + np.uint64(1)
    done, hashes = 0, np.zeros(len(tokens) + 1, np.uint64)
    size, part, base = 1, whole, _BASE
    left = length
    while left:
        if left & 1:  # these tokens come after those done
            kept = len(tokens) - done - size + 1
            hashes = hashes[:kept] * base + part[done : done + kept]
            done += size
        left >>= 1
        if left:
            part = part[: len(part) - size] * base + part[size:]
            size, base = 2 * size, np.uint64(int(base) ** 2 % 2**64)
    return hashes


def related(tokens: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """A number for each text, equal for texts that share text: one in the other, or much the same.

    Two are related where the larger has a tenth or more of the smaller's different runs of 32
    tokens; so are those related to the same one.
    """
    keys, owners = _kept_runs(tokens, begin, end)
    order = np.lexsort((owners, keys))
    keys, owners = keys[order], owners[order]
    first = np.ones(len(keys), bool)  # a run counts once in a text
    first[1:] = (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1])
    keys, owners = keys[first], owners[first]
    size = np.bincount(owners, minlength=len(begin))
    both = keys[1:] == keys[:-1]
    pairs = np.stack([owners[:-1][both], owners[1:][both]], 1)
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    pairs = pairs[counts >= RELATED * size[pairs].min(1)] if len(pairs) else pairs
    group = np.arange(len(begin))
    for a, b in pairs.tolist():
        if group[a] != group[b]:
            group[group == group[b]] = group[a]
    return group


def _kept_runs(
    tokens: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of runs, and the text each is in; a block at a time, so that memory stays small."""
    bits = max(0, int(np.ceil(np.log2(max(1, len(tokens)) / _KEPT))))
    keys, owners = [], []
    for start in range(0, max(1, len(tokens) - RUN + 1), _KEPT):
        stop = min(len(tokens), start + _KEPT + RUN - 1)
        here = (end > start) & (begin < stop)
        # the end-of-text token between two texts is in none
        hashes, places = run_hashes(
            tokens[start:stop],
            np.maximum(begin[here] - start, 0),
            np.minimum(end[here], stop) - start,
        )
        owner = np.searchsorted(begin, places + start, side="right") - 1
        whole = places + start + RUN <= end[owner]
        kept = whole if not bits else whole & (hashes >> np.uint64(64 - bits) == 0)
        keys.append(hashes[kept])
        owners.append(owner[kept])
    return np.concatenate(keys), np.concatenate(owners)


# -- text on two sides of a split ------------------------------------------------------------------

_BLOCK = 1 << 18  # tokens looked at at once
_HELD = 1 << 20  # runs of the held-out side, about; of more an even sample
SAID = 0.01  # share of the held-out text from which that is told


@dataclass(frozen=True)
class Side:
    """One side of a split: `count` tokens, and `read(start, stop)` of them with the number of the
    document each is of (int64, not falling)."""

    count: int
    read: Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def side(ids: np.ndarray, starts: np.ndarray, begin: int = 0, end: int | None = None) -> Side:
    """Tokens begin to end − 1 of `ids`, whose documents begin at `starts` (ascending)."""
    end = len(ids) if end is None else end

    def read(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        places = np.arange(begin + start, begin + stop)
        return np.asarray(ids[places[0] : places[-1] + 1]), np.searchsorted(starts, places, "right")

    return Side(end - begin, read)


@dataclass(frozen=True)
class Shared:
    """How much of the held-out text training has too.

    `share`: of its runs of 32 tokens (and its whole documents under that length, by their tokens).
    `documents`: those of which half or more is so, of `of` in all.
    """

    share: float
    documents: int
    of: int

    def described(self, name: str, held_out: str = "validation") -> list[str]:
        """A line for people where it matters: from 1 % of the text on, and a document."""
        if self.share < SAID or not self.documents:
            return []
        return [
            f"{name}: {self.share:.0%} of the {held_out} text is in training text too "
            f"({self.documents:,} of {self.of:,} {held_out} documents at least half): {held_out} "
            "figures are too good for new text"
        ]


def shared(train: Side, held_out: Side) -> Shared:
    """What two sides of a split have in common: documents that come twice, or nearly.

    Memory is that of a million hashes of the held-out side, of which a longer one gives an even
    sample; the training side is read once, a block at a time.
    """
    bits = max(0, int(np.ceil(np.log2(max(1, held_out.count) / _HELD))))
    keys, owners, weights = (np.concatenate(one) for one in _columns(held_out, bits))
    wanted = np.unique(keys)
    found = np.zeros(len(wanted), dtype=bool)
    for some, _, _ in _units(train, bits):
        place = np.searchsorted(wanted, some)
        place[place == len(wanted)] = 0
        if len(wanted):
            found[place[wanted[place] == some]] = True
    met = found[np.searchsorted(wanted, keys)] * weights
    names, number = np.unique(owners, return_inverse=True)
    of_document = np.bincount(number, weights, len(names)) if len(names) else np.zeros(0)
    met_of_document = np.bincount(number, met, len(names)) if len(names) else np.zeros(0)
    return Shared(
        float(met.sum() / weights.sum()) if len(weights) else 0.0,
        int((met_of_document >= 0.5 * of_document).sum()),
        len(names),
    )


def _columns(side: Side, bits: int) -> list[list[np.ndarray]]:
    columns: list[list[np.ndarray]] = [[np.zeros(0, kind)] for kind in ("u8", "i8", "f8")]
    for unit in _units(side, bits):
        for column, values in zip(columns, unit, strict=True):
            column.append(values)
    return columns


def _units(side: Side, bits: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Hashes, document and weight of every run of 32 tokens within a document and of every shorter
    document; of more than enough only those with a small hash."""
    start = 0
    while start < side.count:
        stop = min(side.count, start + _BLOCK)
        # far enough that a run, or a short document, that begins here is whole
        tokens, owners = side.read(start, min(side.count, stop + RUN))
        here = stop - start
        hashes = _hashes(tokens, RUN)[:here] if len(tokens) >= RUN else np.zeros(0, np.uint64)
        inside = np.flatnonzero(owners[: len(hashes)] == owners[RUN - 1 : RUN - 1 + len(hashes)])
        first = np.flatnonzero(np.diff(owners, prepend=owners[0] - 1))
        if start:  # whether a document begins here or goes on
            before = side.read(start - 1, start)[1][0]
            first = first[(first > 0) | (owners[0] != before)]
        lengths = np.diff(np.append(first, len(owners)))
        short = first[(lengths < RUN) & (first < here)]
        sizes = lengths[(lengths < RUN) & (first < here)]
        keys = np.concatenate([hashes[inside], _whole_hashes(tokens, short, sizes)])
        of = np.concatenate([owners[inside], owners[short]])
        weight = np.concatenate([np.ones(len(inside)), sizes.astype(float)])
        kept = slice(None) if not bits else keys >> np.uint64(64 - bits) == 0
        yield keys[kept], of[kept], weight[kept]
        start = stop


def _whole_hashes(tokens: np.ndarray, first: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """A hash of each text tokens[first:first + size], size under 32."""
    hashes = sizes.astype(np.uint64)
    values = tokens.astype(np.uint64) + np.uint64(1)
    for offset in range(int(sizes.max(initial=0))):
        there = sizes > offset
        hashes[there] = hashes[there] * _BASE + values[first[there] + offset]
    return hashes * _BASE
