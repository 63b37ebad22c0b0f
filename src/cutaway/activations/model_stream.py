"""Shuffled batches straight from a model, without a store: a buffer of contexts, filled again.

A refill runs the model over the contexts that are next in the order of their epoch and shuffles
their rows: a pure function of (seed, epoch, refill), so that going on at any batch replays one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cutaway.activations.extraction import pack
from cutaway.activations.forward import Forward
from cutaway.activations.reading import context_length_of, decided
from cutaway.activations.stream import BUFFER_BYTES, PARTS, Part, Pool, Stream
from cutaway.base.display import notice
from cutaway.base.doors import door
from cutaway.base.errors import RunFailed, UserError
from cutaway.base.seeds import numpy_generator, stream
from cutaway.nets.model import Model
from cutaway.nets.sites import Site
from cutaway.text.reading import Reading

_MIXED = 65_536  # rows in a buffer, where memory allows: sixteen batches of 4096


class ModelStream(Stream):
    """Batches of a model's states over a text; the same face as `ActivationStream`.

    `sites` is one site, or a list of several: then batches are (sites, batch_size, d). The text is
    packed into contexts once (`tokens` of it); the validation part is the last
    `validation_fraction`, cut at a document. `buffer_contexts` contexts are in memory at a time
    and mix with each other, and as many again are being computed. Every refill has as many rows:
    other rows of it are repeated in the place of special tokens before documents, of tokens outside
    replies (`reply_only`), and of states that are not finite, for which there is a notice. How text is
    read is `reading`, or decided by `bos`, `separator`, `chat` and `reply_only` (`reading.decided`).
    Raises UserError for what cannot be streamed.
    """

    @door
    def __init__(
        self,
        model: Model,
        data: str,
        sites: str | int | Site | Sequence[str | int | Site],
        batch_size: int = 4096,
        *,
        tokens: int = 1_000_000,
        seed: int = 0,
        part: Part = "train",
        validation_fraction: float = 0.1,
        context_length: int | None = None,
        bos: bool | None = None,
        separator: str = "auto",
        chat: bool = False,
        reply_only: bool = False,
        reading: Reading | None = None,
        buffer_contexts: int | None = None,
        forward_batch: int = 8,
        skip_first: bool = True,
        dtype: torch.dtype = torch.float32,
    ):
        several = not isinstance(sites, str | int | Site)
        super().__init__(batch_size, several, dtype, model.device)
        self.sites = model.sites(sites)
        if not several and len(self.sites) > 1:
            self.several = True  # "all" or "0,6"
        self.model, self.seed = model, seed
        self.width, self.reference = model.width_of(self.sites), model.reference
        if reading is None:
            length = context_length_of(model, context_length)
            how = {"bos": bos, "separator": separator, "skip_first": skip_first}
            how |= {"chat": chat, "reply_only": reply_only}
            reading = decided(model, data, context_length=length, **how)
        self.text = pack(model, data, tokens, context_length, reading=reading)
        self._range = self._contexts_of(part, validation_fraction)
        inside = self.text.inside
        self._kept = slice(max(inside.start, int(skip_first)), inside.stop)
        self._each = self._kept.stop - self._kept.start  # rows of a context
        self.rows = len(self._range) * self._each
        if buffer_contexts is not None and buffer_contexts < 1:
            raise UserError(f"buffer_contexts = {buffer_contexts}: expected 1 or more")
        row = len(self.sites) * self.width * model.dtype.itemsize
        mixed = min(_MIXED, BUFFER_BYTES // (2 * row)) // self._each
        self.buffer_contexts = buffer_contexts or max(1, min(mixed, len(self._range)))
        self._forward = Forward(model, self.sites, forward_batch, notice)
        self._order = lru_cache(maxsize=2)(self._ordered)
        self._told = False

    def blocks(self) -> Iterator[Tensor]:
        held: list[Tensor] = []
        count = 0
        step = max(1, self._forward.batch_size)
        for start in range(self._range.start, self._range.stop, step):
            numbers = np.arange(start, min(start + step, self._range.stop))
            # in the thread of refills: a pass in another might use another number of cores
            states, counted = self._filling.submit(self._states, numbers).result()
            kept = states.isfinite().all(-1).all(0) & counted.to(states.device)
            held.append(states[:, kept].to(self.dtype))
            count += held[-1].shape[1]
            last = numbers[-1] + 1 == self._range.stop
            if count >= self.batch_size or last:
                whole = torch.cat(held, dim=1)
                full = count if last else count - count % self.batch_size
                for piece in whole[:, :full].split(self.batch_size, dim=1):
                    if piece.shape[1]:
                        yield piece if self.several else piece[0]
                held, count = [whole[:, full:]], count - full

    def mean(self, site: str | int | Site | None = None) -> Tensor:
        """Mean state of the first refill."""
        return self._statistics[self._index(site)][0]

    def mean_squared_norm(self, site: str | int | Site | None = None) -> float:
        """E‖x‖² over the first refill."""
        return self._statistics[self._index(site)][1]

    # -- inside ----------------------------------------------------------------------------

    def _contexts_of(self, part: str, fraction: float) -> range:
        if part not in PARTS:
            raise UserError(f"part = {part!r}: expected one of {', '.join(PARTS)}")
        if part == "all":
            return range(self.text.n_contexts)
        if not 0 < fraction <= 0.5:
            raise UserError(
                f"validation_fraction = {fraction}: expected a number over 0 and at most 0.5"
            )
        train, validation = self.text.border(fraction)
        return range(train) if part == "train" else range(validation, self.text.n_contexts)

    def _index(self, site: str | int | Site | None) -> int:
        wanted = self.model.site(self._one(site))
        if wanted not in self.sites:
            there = ", ".join(map(str, self.sites))
            raise UserError(f"site = {str(wanted)!r}: this stream has {there}")
        return self.sites.index(wanted)

    @property
    def _statistics(self) -> list[tuple[Tensor, float]]:
        if not hasattr(self, "_first"):
            pool = self._filling.submit(self._fill, (0, 0), None).result()
            self._first = []
            for states in pool.states.cpu():
                rows = states[pool.order.cpu()].double()
                self._first.append((rows.mean(0), float(rows.square().sum(1).mean())))
        return self._first

    def _ordered(self, epoch: int) -> np.ndarray:
        order = numpy_generator(self.seed, epoch, "contexts").permutation(len(self._range))
        return order + self._range.start

    def _spans(self, start: int, stop: int) -> list[tuple[tuple[int, int], int, int]]:
        size = self.buffer_contexts * self._each
        spans = []
        while start < stop:
            epoch, offset = divmod(start, self.rows)
            refill, first = divmod(offset, size)
            # an epoch's last refill may be smaller
            last = min(size, self.rows - refill * size, first + stop - start)
            spans.append(((epoch, refill), first, last))
            start += last - first
        return spans

    def _after(self, pool: tuple[int, int]) -> tuple[int, int]:
        epoch, refill = pool
        more = (refill + 1) * self.buffer_contexts < len(self._range)
        return (epoch, refill + 1) if more else (epoch + 1, 0)

    def _fill(self, pool: tuple[int, int], spare: Pool | None) -> Pool:
        epoch, refill = pool
        size, each = self.buffer_contexts, self._each
        numbers = self._order(epoch)[refill * size : (refill + 1) * size]
        if spare is None:
            shape = (len(self.sites), size * each, self.width)
            states = torch.empty(shape, dtype=self.model.dtype, device=self.device)
        else:
            states = spare.states
        at, step = 0, self._forward.batch_size  # which may be halved meanwhile
        parts = []
        for start in range(0, len(numbers), step):
            piece, counted = self._states(numbers[start : start + step])
            states[:, at : at + piece.shape[1]] = piece
            parts.append(counted)
            at += piece.shape[1]
        order = numpy_generator(stream(self.seed, epoch, "refills"), refill, "rows").permutation(at)
        order = self._finite(states[:, :at], torch.cat(parts).numpy(), order)
        return Pool(states, None, torch.from_numpy(order).to(self.device))

    def _finite(self, states: Tensor, counted: np.ndarray, order: np.ndarray) -> np.ndarray:
        """The order with finite rows that count in the place of others: a refill always has as many
        rows."""
        norms = [torch.linalg.vector_norm(one, dim=-1, dtype=torch.float32) for one in states]
        finite = torch.stack(norms).isfinite().all(0).cpu().numpy()
        good = finite & counted
        if good.all():
            return order
        if not good.any():
            raise RunFailed("every token of a refill has a state that is not finite")
        broken = int((counted & ~finite).sum())
        if broken and not self._told:
            self._told = True
            notice(
                f"{broken:,} of {counted.sum():,} tokens in a refill have a state that is not "
                "finite; other tokens stand in for them, here and wherever it happens"
            )
        able = np.flatnonzero(good)
        return np.where(good[order], order, able[order % len(able)])

    def _states(self, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
        """The states of contexts, (sites, rows, d), without what is left out at their ends, and
        which rows are of the text, (rows,)."""
        contexts = self.text.chosen(numbers)
        states = self._forward(torch.from_numpy(contexts.tokens))
        kept = [states[site][:, self._kept].flatten(0, 1) for site in self.sites]
        return torch.stack(kept), torch.from_numpy(contexts.documents[:, self._kept] >= 0).flatten()
