"""Co-activations of a batch's features, a strip of pairs at a time: Σ over tokens of fᵢ·fⱼ.

The products of sparse codes are themselves nearly as many as there are pairs, and far more events
add to them (8.3 million at 64 of 4,096 features and 4,096 tokens). What was fastest is the oldest
way, row by row into a dense strip small enough for the cache: a sparse product with a dense result
(12 ms on 2 cores; one with a sparse result 150 ms). A strip is looked through for what counts while
it is in the cache, and its place is then used for the next: memory grows with the number of active
entries, never with F².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.sparse.codes import Codes, DenseCodes

if TYPE_CHECKING:
    import numpy as np
    from scipy import sparse

CELLS = 1 << 21  # of a strip: 8 MB. Half and twice as many were slower at F = 4,096
GPU_CELLS = 1 << 26
EXACT_CELLS = 1 << 21  # entries of pairs that are summed exactly at once
DENSE_FROM = 1 / 8  # share of active entries from which on a dense product is the faster one


class Strips:
    """FᵀF of a batch's codes, below the diagonal, in strips of columns.

    Features are taken in the order of their length |fᵢ|₂ over the batch, the longest first:
    `order` (active,) holds their numbers; features that are nowhere active are left out. How a sum is
    rounded depends on the library, the processor and the strip it comes in: by `slack`, relative to
    its true value, it may be off at most. What must not depend on that asks `exact`.
    """

    def __init__(self, codes: Codes):
        values = codes.values.detach()
        values = values.float() if values.dtype.itemsize < 4 else values
        self.tokens, self.features = codes.shape
        self.dtype, self.device = values.dtype, values.device
        found = _entries(codes, values) if self.device.type == "cpu" else None
        self.sparse = found is not None
        if found is not None:
            entries, columns, ends = found
            # what is no number is taken for nothing: the loss says that the run has failed
            entries = entries.nan_to_num(0.0, 0.0, 0.0)
            self._largest = float(entries.abs().max()) if len(entries) else 0.0
            squares = torch.bincount(columns, self._whole(entries.double().square()), self.features)
            counts = torch.bincount(columns, minlength=self.features)
            place = self._rank(squares, counts > 0)
            self._by_feature = _by_feature(entries, place[columns], ends, len(self.order))
            terms = int(counts.max()) if len(counts) else 0
        else:
            dense = codes.of(values).dense().nan_to_num(0.0, 0.0, 0.0)
            self._largest = float(dense.abs().max()) if dense.numel() else 0.0
            squares = torch.zeros(self.features, dtype=torch.float64)
            for rows in dense.split(max(1, EXACT_CELLS // max(1, self.features))):
                squares += self._whole(hardware.widened(rows).square()).sum(0).cpu()
            self._rank(squares.to(self.device, hardware.wide(self.device)), (dense != 0).any(0))
            self._dense, terms = dense[:, self.order], self.tokens
        self.slack = _slack(self.dtype, terms)

    def _whole(self, products: Tensor, room: int = 52) -> Tensor:
        """Products in float64 rounded to whole multiples of 2^−`_bits`: sums of them have no rounding,
        and so do not depend on the order of the terms."""
        return (products * 2.0 ** self._bits(room)).round_()

    def _bits(self, room: int) -> int:
        """By how many bits products are shifted, such that the largest sum there can be has `room`."""
        if not self._largest:
            return 0
        return room - math.ceil(2 * math.log2(self._largest) + math.log2(max(1, self.tokens)) + 1)

    def _rank(self, squares: Tensor, present: Tensor) -> Tensor:
        """Set `order` and `lengths`; each feature's place in the order."""
        lengths = (squares * 2.0 ** -self._bits(52)).sqrt()
        # every feature with an entry has its place, however small its square
        lengths = torch.where(present, lengths.clamp(min=torch.finfo(lengths.dtype).tiny), 0.0)
        found = lengths.sort(descending=True, stable=True)
        active = int((found.values > 0).sum())
        self.order, self.lengths = found.indices[:active], found.values[:active].cpu().double()
        place = torch.empty(len(lengths), dtype=torch.int32, device=lengths.device)
        place[found.indices] = torch.arange(len(lengths), dtype=torch.int32, device=lengths.device)
        return place

    def visit(self, look: Callable[[Tensor, int], float], bar: float) -> None:
        """Hand every strip to `look`, which returns the new bar.

        `look` gets a strip (rows, columns) whose first row and first column both belong to the
        feature `order[first]`, and that `first`. Pairs whose sum cannot reach the bar (by Cauchy
        and Schwarz |fᵢ|·|fⱼ| is the most it can be) may be left out. A pair is below the diagonal
        of one strip; cells on and above it are there too, as they are computed together.
        """
        active, falling = len(self.order), -self.lengths
        cells = CELLS if self.device.type == "cpu" else GPU_CELLS
        buffer = torch.empty(max(cells, active), dtype=self.dtype, device=self.device)
        first, end = 0, active
        while first < active:
            least = bar * (1 - self.slack) / float(self.lengths[first])
            end = int(torch.searchsorted(falling, -least, right=True))
            if end <= first + 1:  # not even the next pair can reach it, and all later ones less
                break
            rows = end - first
            columns = min(max(1, cells // rows), rows)
            strip = buffer[: rows * columns].view(rows, columns)
            self._product(first, first + columns, end, strip)
            bar = look(strip, first)
            first += columns

    def exact(self, ids: Tensor) -> Tensor:
        """Σ over tokens of fᵢ·fⱼ for pairs i·F + j, (P,): the same bits however it is summed.

        Each product is rounded once, to a multiple of a power of two at which the largest sum there
        can be still fits 61 bits; sums of integers do not depend on their order.
        """
        wide = hardware.wide(self.device)
        if not len(ids) or not self._largest:
            return torch.zeros(len(ids), dtype=wide, device=self.device)
        bits = self._bits(62)
        place = torch.full((self.features,), -1, dtype=torch.int64, device=self.device)
        place[self.order] = torch.arange(len(self.order), device=self.device)
        one = place[ids.div(self.features, rounding_mode="floor")]
        other = place[ids % self.features]
        if self.sparse:
            sums = self._exact_sparse(one, other, bits)
        else:
            size = max(1, EXACT_CELLS // max(1, self.tokens))
            parts = zip(one.split(size), other.split(size))
            sums = torch.cat([self._exact_dense(*both) for both in parts])
        return (sums.double() * 2.0**-bits).to(self.device, wide)

    def _exact_dense(self, one: Tensor, other: Tensor) -> Tensor:
        products = hardware.widened(self._dense[:, one]) * hardware.widened(self._dense[:, other])
        return self._whole(products, 62).long().sum(0).cpu()

    def _exact_sparse(self, one: Tensor, other: Tensor, bits: int) -> Tensor:
        import numpy as np

        rows = self._by_feature.T.astype(np.float64)
        entries = torch.from_numpy(np.diff(rows.indptr))
        # pairs in lots whose entries fit into a few megabytes
        lots = (entries[one] + entries[other]).cumsum(0) // EXACT_CELLS
        sizes = lots.unique_consecutive(return_counts=True)[1].tolist()
        sums = []
        for i, j in zip(one.split(sizes), other.split(sizes)):
            found = rows[i.numpy()].multiply(rows[j.numpy()]).tocsr()
            whole = np.rint(np.ldexp(found.data, bits)).astype(np.int64)
            ends = np.concatenate([[0], whole.cumsum()])[found.indptr]
            sums.append(torch.from_numpy(np.diff(ends)))
        return torch.cat(sums)

    def _product(self, first: int, last: int, end: int, out: Tensor) -> None:
        """⟨fᵢ, fⱼ⟩ of features `first` to `end` (rows of `out`) with `first` to `last` (columns)."""
        if not self.sparse:
            torch.mm(self._dense[:, first:end].T, self._dense[:, first:last], out=out)
            return
        from scipy import sparse

        whole = self._by_feature
        begin, middle, stop = (int(whole.indptr[place]) for place in (first, last, end))
        ends = whole.indptr[first : end + 1] - begin
        # the rows' features as they lie, feature by feature; the columns' fewer, token by token
        left = (whole.data[begin:stop], whole.indices[begin:stop], ends)
        right = (whole.data[begin:middle], whole.indices[begin:middle], ends[: last - first + 1])
        turned = sparse.csc_array(right, shape=(self.tokens, last - first)).tocsr()
        shape = (end - first, self.tokens)
        if torch.backends.mkl.is_available():
            other = _tensor((turned.data, turned.indices, turned.indptr), turned.shape)
            torch.addmm(out, _tensor(left, shape), other, beta=0, out=out)
        else:
            product = sparse.csr_array(left, shape=shape) @ turned
            out.copy_(torch.from_numpy(product.toarray()))


def _slack(dtype: torch.dtype, terms: int) -> float:
    """How far, relative to what is true, a sum of so many products that are not negative may be off.

    Twice the classical bound n·u/(1 − n·u) (Higham 2002, eq. 3.3), whatever the order of the terms.
    """
    step = torch.finfo(dtype).eps
    if torch.get_float32_matmul_precision() != "highest":  # products may be made in bfloat16
        step = max(step, torch.finfo(torch.bfloat16).eps)
    return min(0.25, (terms + 2) * step)


def _entries(codes: Codes, values: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Values that are not zero, token by token, their features, and where each token's end.

    None where they are so many that a dense product is faster.
    """
    flat = values.reshape(-1)
    on = flat.nonzero().view(-1)
    if len(on) > DENSE_FROM * codes.shape[0] * codes.shape[1]:
        return None
    if isinstance(codes, DenseCodes):
        bounds = torch.arange(codes.shape[0] + 1) * codes.shape[1]
        return flat[on], on % codes.shape[1], torch.searchsorted(on, bounds)
    features, ends = codes.pattern.features, codes.pattern.offsets
    if len(on) == len(flat):
        return flat, features, ends
    return flat[on], features[on], torch.searchsorted(on, ends)  # JumpReLU's, near thresholds


def _by_feature(values: Tensor, columns: Tensor, ends: Tensor, features: int) -> sparse.csc_array:
    from scipy import sparse

    parts = (values.numpy(), columns.numpy(), ends.int().numpy())
    return sparse.csr_array(parts, shape=(len(ends) - 1, features)).tocsc()


def _tensor(parts: tuple[np.ndarray[Any, Any], ...], shape: tuple[int, int]) -> Tensor:
    """A sparse tensor of scipy's data, indices and row ends."""
    data, indices, ends = (torch.from_numpy(part) for part in parts)
    return torch.sparse_csr_tensor(ends, indices, data, shape, check_invariants=False)


def reaching(strip: Tensor, bar: float) -> Tensor:
    """Flat places of the cells of at least `bar`, ascending.

    They are one in a thousand: the mask is looked through eight cells, one word, at a time.
    """
    flat = strip.view(-1)
    if strip.device.type != "cpu":
        return (flat >= bar).nonzero().view(-1)
    mask = torch.empty(-(-len(flat) // 8) * 8, dtype=torch.bool)
    mask[len(flat) :] = False
    torch.ge(flat, bar, out=mask[: len(flat)])
    words = mask.view(torch.int64).nonzero()
    near = (8 * words + torch.arange(8)).view(-1)
    return near[mask[near]]
