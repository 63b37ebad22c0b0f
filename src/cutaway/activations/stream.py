"""Shuffled batches of states at memory speed, each a pure function of (seed, index).

A stream is an endless row of pools: some rows in memory in an order of their own, of which batches
take one slice after the other. Here a pool is a window of the store: blocks of consecutive rows
are shuffled, some of them read (one contiguous read each), and their rows shuffled. `window` says
how far rows mix. Epochs follow each other without a seam: the batch in which one ends is filled up
from the next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cutaway.activations.quantise import DTYPES, dequantise
from cutaway.activations.store import ActivationStore
from cutaway.base import hardware
from cutaway.base.doors import door
from cutaway.base.errors import UserError, require_whole
from cutaway.base.seeds import numpy_generator, stream
from cutaway.nets.model import ModelReference
from cutaway.nets.sites import Site

Part = Literal["train", "validation", "all"]
PARTS = ("train", "validation", "all")
BUFFER_BYTES = 256_000_000  # both windows: the one being read from and the one being filled
BLOCK = 256  # rows read at once: 0.8 MB of 768 float32


@dataclass
class Pool:
    """Rows in memory: `states` (sites, n, d) as stored, int8's `scale` (sites, n), and their order."""

    states: Tensor
    scale: Tensor | None
    order: Tensor


class Stream(ABC):
    """What every stream has: `batch`, `blocks`, `rows`, `width`, statistics. See the two below.

    `batch(index)` may be asked for in any order; the next one is made ready in a thread.
    """

    sites: list[Site]
    rows: int
    """Rows of one epoch."""
    width: int
    reference: ModelReference

    def __init__(
        self, batch_size: int, several: bool, dtype: torch.dtype, device: str | torch.device
    ):
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size}: expected 1 or more")
        self.batch_size, self.several, self.dtype = batch_size, several, dtype
        self.device = hardware.device(str(device))
        self._batches = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._filling = ThreadPoolExecutor(1, thread_name_prefix="pools")
        self._ahead: tuple[int, Future[Tensor]] | None = None
        self._pools: dict[tuple[int, int], Future[Pool]] = {}
        self._spare: list[Pool] = []  # memory to fill again
        self._lock = Lock()

    @property
    def n_batches_per_epoch(self) -> int:
        """Batches until every row was given at least once."""
        return -(-self.rows // self.batch_size)

    def batch(self, index: int) -> Tensor:
        """Batch `index`, (batch_size, d), or (sites, batch_size, d) where several sites were named.

        The same for the same seed and index, whatever was asked for before. It is the caller's own.
        """
        if index < 0:
            raise IndexError(f"batch {index}: they are counted from 0")
        with self._lock:
            ahead = self._ahead
            if ahead is None or ahead[0] != index:
                if ahead is not None:
                    ahead[1].cancel()
                ahead = (index, self._batches.submit(self._make, index))
            # asked for before the wait, so that its thread goes straight on
            self._ahead = (index + 1, self._batches.submit(self._make, index + 1))
            return ahead[1].result()

    def close(self) -> None:
        """End the threads; batches can no longer be had."""
        self._batches.shutdown(cancel_futures=True)
        self._filling.shutdown(cancel_futures=True)

    @abstractmethod
    def blocks(self) -> Iterator[Tensor]:
        """Every row of the part once, in order, at most `batch_size` at a time."""

    @abstractmethod
    def mean(self, site: str | int | Site | None = None) -> Tensor:
        """Mean state of a site (of the only one), float64 (d,)."""

    @abstractmethod
    def mean_squared_norm(self, site: str | int | Site | None = None) -> float:
        """E‖x‖² of a site (of the only one)."""

    # -- what a stream is made of ----------------------------------------------------------

    @abstractmethod
    def _spans(self, start: int, stop: int) -> list[tuple[tuple[int, int], int, int]]:
        """(pool, first, last): rows start to stop − 1 of the endless row as slices of pools."""

    @abstractmethod
    def _after(self, pool: tuple[int, int]) -> tuple[int, int]:
        """The pool that follows."""

    @abstractmethod
    def _fill(self, pool: tuple[int, int], spare: Pool | None) -> Pool:
        """Read or compute a pool, into the memory of `spare` where that is given."""

    # -- inside: runs in the thread of batches ---------------------------------------------

    def _make(self, index: int) -> Tensor:
        spans = self._spans(index * self.batch_size, (index + 1) * self.batch_size)
        pieces = [self._taken(self._pool(pool), first, last) for pool, first, last in spans]
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        return whole if self.several else whole[0]

    def _taken(self, pool: Pool, first: int, last: int) -> Tensor:
        rows = pool.order[first:last]
        states = pool.states.index_select(1, rows)
        if pool.scale is not None:
            return dequantise(states, pool.scale.index_select(1, rows)).to(self.dtype)
        return states.to(self.dtype)

    def _pool(self, key: tuple[int, int]) -> Pool:
        following = self._after(key)
        for other in [other for other in self._pools if other not in (key, following)]:
            gone = self._pools.pop(other)
            if not gone.cancel() and gone.exception() is None:
                self._spare.append(gone.result())
        for wanted in (key, following):
            if wanted not in self._pools:
                spare = self._spare.pop() if self._spare else None
                self._pools[wanted] = self._filling.submit(self._fill, wanted, spare)
        return self._pools[key].result()

    def _one(self, site: str | int | Site | None) -> str | int | Site:
        if site is None:
            if self.several:
                raise UserError("this stream has several sites: name one")
            return self.sites[0]
        return site


class ActivationStream(Stream):
    """Batches from a store. `sites=[...]` gives (sites, batch_size, d): the same rows of each.

    `part` is train, validation or all; the validation part is the last `validation_fraction` of
    the rows, cut at a document. `window` rows (default: what half of 256 MB holds) mix with each
    other; `block` consecutive ones are read at once. `skip_first` leaves out position 0. Batches
    are `dtype` whatever the store holds. Raises UserError where there are no rows to give.
    """

    @door
    def __init__(
        self,
        store: ActivationStore,
        site: str | int | Site | None = None,
        batch_size: int = 4096,
        *,
        sites: Sequence[str | int | Site] | None = None,
        seed: int = 0,
        part: Part = "train",
        validation_fraction: float = 0.1,
        window: int | None = None,
        block: int = BLOCK,
        skip_first: bool = True,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ):
        super().__init__(batch_size, sites is not None, dtype, device)
        if window is not None:
            require_whole("window", window, 1)
        if (site is None) == (sites is None) or (sites is not None and not sites):
            raise UserError("a stream needs a site, or sites=[...] for several")
        self.store, self.seed, self.skip_first = store, seed, skip_first
        self.sites = [store.site(one) for one in (sites if sites is not None else [site])]
        self.width, self.reference = store.width, store.reference
        self._range = rows_of(store, part, validation_fraction)
        self._block = require_whole("block", block, 1)
        self._counts = self._usable()
        self.rows = int(self._counts.sum())
        if not self.rows:
            raise UserError(
                f"{store.path}: the {part} part holds {len(self._range)} rows, all of them at "
                "position 0: nothing to stream; skip_first=False keeps them"
            )
        itemsize = DTYPES[store.dtype].itemsize
        fits = BUFFER_BYTES // (2 * len(self.sites) * self.width * itemsize)
        self._blocks = max(1, (fits if window is None else window) // block)
        self._blocks = min(self._blocks, len(self._counts))
        self._plan = lru_cache(maxsize=2)(self._planned)

    def blocks(self) -> Iterator[Tensor]:
        for start in range(self._range.start, self._range.stop, self.batch_size):
            stop = min(start + self.batch_size, self._range.stop)
            states = torch.stack([self.store.read(site, start, stop) for site in self.sites])
            if self.skip_first:
                states = states[:, self.store.positions(start, stop) != 0]
            if states.shape[1]:
                states = states.to(self.device, self.dtype)
                yield states if self.several else states[0]

    def mean(self, site: str | int | Site | None = None) -> Tensor:
        """Mean state of the whole store, both parts, without position 0 where that is left out."""
        return self.store.mean(self._one(site), "rest" if self.skip_first else "all")

    def mean_squared_norm(self, site: str | int | Site | None = None) -> float:
        """E‖x‖² over the whole store, both parts, without position 0 where that is left out."""
        return self.store.mean_squared_norm(self._one(site), "rest" if self.skip_first else "all")

    # -- inside ----------------------------------------------------------------------------

    def _usable(self) -> np.ndarray:
        """Rows that each block gives, int64 (blocks,)."""
        start, stop, block = self._range.start, self._range.stop, self._block
        counts = []
        for at in range(start, stop, 4096 * block):
            end = min(at + 4096 * block, stop)
            edges = np.arange(0, end - at, block)
            if self.skip_first:
                given = (self.store.positions(at, end) != 0).numpy().astype(np.int64)
                counts.append(np.add.reduceat(given, edges))
            else:
                counts.append(np.diff(np.append(edges, end - at)))
        return np.concatenate(counts)

    def _planned(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's order of blocks, and where each window of it ends, in rows."""
        order = numpy_generator(self.seed, epoch, "blocks").permutation(len(self._counts))
        windows = np.add.reduceat(self._counts[order], np.arange(0, len(order), self._blocks))
        return order, np.cumsum(windows)

    def _spans(self, start: int, stop: int) -> list[tuple[tuple[int, int], int, int]]:
        spans = []
        while start < stop:
            epoch, offset = divmod(start, self.rows)
            _, ends = self._plan(epoch)
            window = int(np.searchsorted(ends, offset, side="right"))
            before = int(ends[window - 1]) if window else 0
            last = min(int(ends[window]), offset + stop - start)
            spans.append(((epoch, window), offset - before, last - before))
            start += last - offset
        return spans

    def _after(self, pool: tuple[int, int]) -> tuple[int, int]:
        epoch, window = pool
        end = epoch * self.rows + int(self._plan(epoch)[1][window])
        return self._spans(end, end + 1)[0][0]

    def _fill(self, pool: tuple[int, int], spare: Pool | None) -> Pool:
        epoch, window = pool
        order, _ = self._plan(epoch)
        chosen = order[window * self._blocks : (window + 1) * self._blocks]
        states, scale = self._memory() if spare is None else (spare.states, spare.scale)
        usable, at = [], 0
        for block in chosen.tolist():
            start = self._range.start + block * self._block
            stop = min(start + self._block, self._range.stop)
            for index, site in enumerate(self.sites):
                place = at
                for codes, scales in self.store.raw(site, start, stop):
                    end = place + len(codes)
                    states[index, place:end].copy_(codes)
                    if scale is not None and scales is not None:
                        scale[index, place:end].copy_(scales)
                    place = end
            given = np.arange(at, at + stop - start)
            if self._counts[block] < stop - start:
                given = given[(self.store.positions(start, stop) != 0).numpy()]
            usable.append(given)
            at += stop - start
        rows = np.concatenate(usable)
        numpy_generator(stream(self.seed, epoch, "windows"), window, "rows").shuffle(rows)
        return Pool(states, scale, torch.from_numpy(rows).to(self.device))

    def _memory(self) -> tuple[Tensor, Tensor | None]:
        shape = (len(self.sites), self._blocks * self._block)
        dtype = DTYPES[self.store.dtype]
        states = torch.empty(*shape, self.width, dtype=dtype, device=self.device)
        return states, torch.empty(shape, device=self.device) if dtype == torch.int8 else None


def rows_of(store: ActivationStore, part: str, validation_fraction: float) -> range:
    """The rows of a part of a store."""
    if part not in PARTS:
        raise UserError(f"part = {part!r}: expected one of {', '.join(PARTS)}")
    if part == "all":
        return range(store.rows)
    return store.split(validation_fraction)[part == "validation"]
