"""Text that comes twice: runs of tokens that no two documents share by chance."""

from __future__ import annotations

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
