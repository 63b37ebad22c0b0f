"""The sparse products on a GPU, in Triton: every sum in a fixed order, so that runs repeat.

Segments (a row's entries, or a feature's) are uneven: most features are active on a handful of a
batch's tokens, a few on all of them. The list of entries is therefore cut at every `PIECE`-th one,
wherever segments begin and end:

    one segment:      begin ... cut | ....piece.... cut | ....piece.... cut | ... end
                      leaves its piece   enters                               enters

One program sums a segment up to the first cut; where it goes on, one for each cut sums what enters
the piece behind it. These parts are kept apart and then added in their order. So no program reads
more than `PIECE` entries, and nothing is added by atomics, whose order would be chance. Sums are
worked in float32, or in float64 where the table is.

To import this file takes Triton, which torch for CUDA brings along; `sparse` decides on its use.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cutaway.sparse.pattern import Pattern

PIECE = 128  # entries one program reads at most
TILE = 16  # of which so many at once
WIDE = 128  # columns of a table at once
LONG = 256  # values at once, where they alone are summed


def sum_rows(values: Tensor, table: Tensor, places: Tensor, offsets: Tensor) -> Tensor:
    """Σ over a segment's entries of value · table[place]: (segments, d), in the table's dtype.

    `values` and `places` (nnz,) are given segment by segment, `offsets` (segments + 1,) where each
    begins.
    """
    values, table, places = values.contiguous(), table.contiguous(), places.contiguous()
    segments, width = len(offsets) - 1, table.shape[1]
    sums = table.new_empty(segments, width)
    if not sums.numel():
        return sums
    cuts = torch.arange(0, len(values), PIECE, device=offsets.device)
    owners = torch.searchsorted(offsets, cuts, right=True) - 1  # whose entry it is
    pieces = len(owners)
    exact = _exact(table)
    parts = table.new_empty(pieces, 2, width, dtype=exact)  # of each piece: what enters and leaves
    wide, columns = _columns(width)
    sizes = {"PIECE": PIECE, "TILE": TILE, "WIDE": wide, "EXACT": _TRITON[exact]}
    with torch.cuda.device_of(table):
        _sum_up_to_cuts[(pieces + segments, columns)](
            values, table, places, offsets, owners, sums, parts, pieces, width, **sizes
        )
        if pieces > 1:
            _add_parts[(pieces - 1, columns)](offsets, owners, sums, parts, width, **sizes)
    return sums


def inner(states: Tensor, weight: Tensor, rows: Tensor, features: Tensor) -> Tensor:
    """⟨states[row], weight[feature]⟩ of each entry, (nnz,), float32 or float64."""
    states, weight, width = states.contiguous(), weight.contiguous(), states.shape[1]
    exact = _exact(states)
    products = states.new_empty(len(rows), dtype=exact)
    if len(rows):
        wide, _ = _columns(width)
        sizes = {"TILE": TILE, "WIDE": wide, "EXACT": _TRITON[exact]}
        with torch.cuda.device_of(states):
            _inner[(triton.cdiv(len(rows), TILE),)](
                states, weight, rows, features, products, len(rows), width, **sizes
            )
    return products


def sum_values(values: Tensor, offsets: Tensor) -> Tensor:
    """Σ over a segment's values, (nnz,) given segment by segment: (segments,)."""
    values, segments = values.contiguous(), len(offsets) - 1
    sums = values.new_empty(segments)
    if segments:
        sizes = {"LONG": LONG, "EXACT": _TRITON[_exact(values)]}
        with torch.cuda.device_of(values):
            _sum_values[(segments,)](values, offsets, sums, **sizes)
    return sums


def check(device: torch.device) -> None:
    """Work a small problem and compare with dense products; ArithmeticError where they differ.

    Compilers and drivers differ between machines, and a wrong sum would train a wrong dictionary.
    """
    tokens, features, width = 4, 2 * PIECE + 1, WIDE + 1  # one row in three pieces, one of none
    every = torch.tensor([1, 2, 9 * features, 5], device=device)[:, None]
    chosen = torch.arange(tokens * features, device=device).view(tokens, features) % every == 0
    pattern = Pattern(chosen.view(-1).nonzero().view(-1), (tokens, features))
    values = torch.linspace(-1.0, 1.0, len(pattern), device=device)
    weight = torch.arange(features * width, device=device).sin().view(features, width)
    states = torch.arange(tokens * width, device=device).cos().view(tokens, width)
    codes = torch.zeros(tokens * features, device=device, dtype=torch.float64)
    codes = codes.index_put((pattern.flat,), values.double()).view(tokens, features)
    order, rows, offsets = pattern.by_feature
    pairs = [
        (sum_rows(values, weight, pattern.features, pattern.offsets), codes @ weight.double()),
        (sum_rows(values[order], states, rows, offsets), codes.T @ states.double()),
        (sum_values(values[order], offsets), codes.sum(0)),
        (
            inner(states, weight, pattern.rows, pattern.features),
            (states.double() @ weight.double().T)[chosen],
        ),
    ]
    for found, expected in pairs:
        off = (found - expected).abs().max() / expected.abs().max()
        if not off < 1e-5:
            raise ArithmeticError(f"sums are off by {float(off):.1e} of the largest")


@triton.jit(do_not_specialize=["pieces"])
def _sum_up_to_cuts(
    values,
    table,
    places,
    offsets,
    owners,
    sums,
    parts,
    pieces,
    width,
    PIECE: tl.constexpr,
    TILE: tl.constexpr,
    WIDE: tl.constexpr,
    EXACT: tl.constexpr,
):
    """First the programs of what enters each piece, then those of each segment up to a cut."""
    program = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    inside = column < width
    if program < pieces:
        segment = tl.load(owners + program)
        first = tl.load(offsets + segment)
        begin = program * PIECE
    else:
        segment = program - pieces
        first = tl.load(offsets + segment)
        begin = first
    last = tl.load(offsets + segment + 1)
    piece = begin // PIECE
    end = tl.minimum((piece + 1) * PIECE, last)
    total = tl.zeros((WIDE,), dtype=EXACT)
    for start in range(begin, end, TILE):
        entry = start + tl.arange(0, TILE)
        here = entry < end
        value = tl.load(values + entry, mask=here, other=0).to(EXACT)
        place = tl.load(places + entry, mask=here, other=0)
        where = table + place[:, None] * width + column[None, :]
        row = tl.load(where, mask=here[:, None] & inside[None, :], other=0).to(EXACT)
        total += tl.sum(value[:, None] * row, axis=0)
    part = parts + piece * 2 * width + column
    if program < pieces:  # of no use where the segment begins at the cut: nothing reads it then
        tl.store(part, total, mask=inside)
    elif end < last:
        tl.store(part + width, total, mask=inside)
    else:
        tl.store(sums + segment * width + column, total, mask=inside)


@triton.jit
def _add_parts(
    offsets,
    owners,
    sums,
    parts,
    width,
    PIECE: tl.constexpr,
    TILE: tl.constexpr,
    WIDE: tl.constexpr,
    EXACT: tl.constexpr,
):
    """One program for each cut, which adds up the segment whose first cut that is, if it is one's."""
    piece = tl.program_id(0).to(tl.int64) + 1
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    inside = column < width
    segment = tl.load(owners + piece)
    first = tl.load(offsets + segment)
    last = tl.load(offsets + segment + 1)
    if (first < piece * PIECE) & (first // PIECE == piece - 1):
        left = parts + (piece * 2 - 1) * width + column
        total = tl.load(left, mask=inside, other=0)
        stop = (last + PIECE - 1) // PIECE
        for start in range(piece, stop, TILE):
            entered = start + tl.arange(0, TILE)
            where = parts + entered[:, None] * 2 * width + column[None, :]
            some = tl.load(where, mask=(entered < stop)[:, None] & inside[None, :], other=0)
            total += tl.sum(some, axis=0)
        tl.store(sums + segment * width + column, total, mask=inside)


@triton.jit(do_not_specialize=["entries"])
def _inner(
    states,
    weight,
    rows,
    features,
    products,
    entries,
    width,
    TILE: tl.constexpr,
    WIDE: tl.constexpr,
    EXACT: tl.constexpr,
):
    entry = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    here = entry < entries
    state = states + tl.load(rows + entry, mask=here, other=0)[:, None] * width
    feature = weight + tl.load(features + entry, mask=here, other=0)[:, None] * width
    total = tl.zeros((TILE,), dtype=EXACT)
    for start in range(0, width, WIDE):
        column = (start + tl.arange(0, WIDE))[None, :]
        inside = here[:, None] & (column < width)
        left = tl.load(state + column, mask=inside, other=0).to(EXACT)
        right = tl.load(feature + column, mask=inside, other=0).to(EXACT)
        total += tl.sum(left * right, axis=1)
    tl.store(products + entry, total, mask=here)


@triton.jit
def _sum_values(values, offsets, sums, LONG: tl.constexpr, EXACT: tl.constexpr):
    segment = tl.program_id(0).to(tl.int64)
    last = tl.load(offsets + segment + 1)
    total = tl.zeros((LONG,), dtype=EXACT)
    for start in range(tl.load(offsets + segment), last, LONG):
        entry = start + tl.arange(0, LONG)
        total += tl.load(values + entry, mask=entry < last, other=0).to(EXACT)
    tl.store(sums + segment, tl.sum(total, axis=0))


_TRITON = {torch.float32: tl.float32, torch.float64: tl.float64}


def _exact(given: Tensor) -> torch.dtype:
    """What sums of these are worked in."""
    return torch.float64 if given.dtype == torch.float64 else torch.float32


def _columns(width: int) -> tuple[int, int]:
    """How many columns a program works at once, and how many programs a row takes."""
    wide = min(WIDE, triton.next_power_of_2(width))
    return wide, triton.cdiv(width, wide)
