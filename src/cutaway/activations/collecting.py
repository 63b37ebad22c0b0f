"""Batches of states become shards: rows in place, figures summed, a thread writing behind."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from cutaway.activations.quantise import dequantise, quantise, relative_errors
from cutaway.activations.shards import write_shard
from cutaway.activations.store import MANIFEST, SHARDS
from cutaway.base import files, hardware
from cutaway.base.errors import RunFailed
from cutaway.nets.model import Model
from cutaway.nets.sites import Site
from cutaway.text.packing import Contexts, PackedText

_REST, _FIRST = 0, 1  # rows of a site's sums: position 0 apart


class ShardWriter:
    """Writes shards in a thread, one at a time, and after each the manifest that counts it."""

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self._folder, self._manifest = folder, manifest
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._writing: Future[None] | None = None

    def submit(self, tensors: Mapping[str, Tensor], entry: dict[str, Any]) -> None:
        """Write a shard behind; waits for the one before, and raises what that raised."""
        self.wait()
        self._writing = self._pool.submit(self._write, dict(tensors), entry)

    def wait(self) -> None:
        """Until everything handed over is on the disk."""
        if (writing := self._writing) is not None:
            self._writing = None
            writing.result()

    def _write(self, tensors: dict[str, Tensor], entry: dict[str, Any]) -> None:
        path = self._folder / SHARDS / f"{len(self._manifest['shards']):05d}.safetensors"
        try:
            written = write_shard(path, tensors)
            self._manifest["shards"].append({"file": path.name, **entry, **written})
            files.write_json(self._folder / MANIFEST, self._manifest)
        except OSError as error:
            raise RunFailed(f"{path}: cannot write: {error.strerror or error}") from None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except RunFailed:
            if error is None:
                raise
        finally:
            self._pool.shutdown()


@dataclass(frozen=True)
class Batch:
    """Contexts start to stop − 1: their states, and when these are ready on a GPU."""

    states: Mapping[Site, Tensor]
    text: PackedText
    start: int
    stop: int
    ready: torch.cuda.Event | None


class Collector:
    """Takes batches in order and hands whole shards to the writer.

    Two sets of buffers: one is filled while the other is written, so memory does not grow. On a
    GPU it works on a stream of its own beside the forward pass.
    """

    def __init__(
        self,
        sites: list[Site],
        model: Model,
        dtype: torch.dtype,
        capacity: int,
        first: int,
        writer: ShardWriter,
    ):
        self._sites, self._writer, self._dtype = sites, writer, dtype
        self._device, self._width = model.device, model.width_of(sites)
        self._lossy = dtype not in (model.dtype, torch.float32)
        cuda = self._device.type == "cuda"
        self._side = torch.cuda.Stream(self._device) if cuda else None
        self._buffers = [self._allocated(capacity, pinned=cuda) for _ in range(2)]
        self._begin(first)

    def _allocated(self, capacity: int, *, pinned: bool) -> dict[str, Tensor]:
        made = {
            name: torch.empty(capacity, dtype=torch.int32)
            for name in ("tokens", "positions", "documents")
        }
        for site in self._sites:
            made[str(site)] = torch.empty(
                capacity, self._width, dtype=self._dtype, pin_memory=pinned
            )
            if self._dtype == torch.int8:
                made[f"{site}.scale"] = torch.empty(capacity, pin_memory=pinned)
        return made

    def _begin(self, context: int) -> None:
        """A new shard whose first context is `context`."""
        self._context, self._rows, self._left_out = context, 0, 0
        wide = hardware.wide(self._device)

        def zeros(*shape: int) -> dict[Site, Tensor]:
            return {
                site: torch.zeros(*shape, dtype=wide, device=self._device) for site in self._sites
            }

        self._sums, self._norms = zeros(2, self._width), zeros(2, 2)
        self._errors, self._non_finite = zeros(1), zeros(1)
        self._counts = [0, 0]

    def hand_over(
        self, states: Mapping[Site, Tensor], text: PackedText, start: int, stop: int
    ) -> Batch:
        """A batch that was just computed (on a GPU: launched)."""
        ready = None
        if self._side is not None:
            ready = torch.cuda.Event()
            ready.record()
            for state in states.values():
                state.record_stream(self._side)
        return Batch(states, text, start, stop, ready)

    def collect(self, batch: Batch, *, ends_shard: bool) -> None:
        """Put the batch's rows into the shard at hand, and write that where it ends here."""
        with nullcontext() if self._side is None else torch.cuda.stream(self._side):
            if self._side is not None and batch.ready is not None:
                self._side.wait_event(batch.ready)
            self._add(batch)
            if ends_shard:
                self._end(batch.stop)

    def _add(self, batch: Batch) -> None:
        inside = batch.text.inside
        states = {site: batch.states[site][:, inside] for site in self._sites}
        contexts = batch.text.contexts(batch.start, batch.stop)
        of_text = contexts.documents[:, inside] >= 0
        counted = torch.from_numpy(of_text).to(self._device)
        norms = {
            site: torch.linalg.vector_norm(state, dim=-1, dtype=torch.float32)
            for site, state in states.items()
        }
        finite = {site: norm.isfinite() for site, norm in norms.items()}
        kept = torch.stack([counted, *finite.values()]).all(0)
        whole = bool(kept.all())
        rows = self._columns(contexts, inside, kept)
        self._left_out += int(of_text.sum()) - (rows.stop - rows.start)
        first = int(inside.start == 0)  # whether column 0 is position 0
        each = kept.sum(0)
        self._counts[_FIRST] += int(each[:first].sum())
        self._counts[_REST] += int(each[first:].sum())
        for site, state in states.items():
            norm = norms[site]
            if not whole:
                self._non_finite[site] += (counted & ~finite[site]).sum()
                state = torch.where(kept[..., None], state, 0)
                norm = torch.where(kept, norm, 0)
            self._measure(site, state, norm, first)
            flat = state.reshape(-1, self._width)
            self._put(site, flat if whole else flat[kept.flatten()], rows)
            if self._lossy:
                self._errors[site] += self._error(site, state[:, first:])
        self._rows = rows.stop

    def _measure(self, site: Site, state: Tensor, norm: Tensor, first: int) -> None:
        wide = self._sums[site].dtype
        for part, columns in ((_FIRST, slice(0, first)), (_REST, slice(first, None))):
            self._sums[site][part] += state[:, columns].sum((0, 1), dtype=wide)
            size = norm[:, columns].to(wide)
            self._norms[site][part, 0] += size.square().sum()
            self._norms[site][part, 1] += size.sum()

    def _error(self, site: Site, state: Tensor) -> Tensor:
        rows = state.reshape(-1, self._width).float()
        stored = dequantise(*quantise(rows)) if self._dtype == torch.int8 else rows.to(self._dtype)
        return relative_errors(rows, stored).sum(dtype=self._errors[site].dtype)

    def _put(self, site: Site, states: Tensor, rows: slice) -> None:
        buffers = self._buffers[0]
        if self._dtype == torch.int8:
            codes, scale = quantise(states)
            buffers[f"{site}.scale"][rows].copy_(scale, non_blocking=True)
            buffers[str(site)][rows].copy_(codes, non_blocking=True)
        else:
            buffers[str(site)][rows].copy_(states.to(self._dtype), non_blocking=True)

    def _columns(self, contexts: Contexts, inside: slice, kept: Tensor) -> slice:
        """Tokens, positions and documents of the rows that are kept; where these rows go."""
        mask = kept.flatten().cpu()
        rows = slice(self._rows, self._rows + int(mask.sum()))
        for name in ("tokens", "positions", "documents"):
            column = torch.tensor(getattr(contexts, name)[:, inside].reshape(-1))
            self._buffers[0][name][rows] = column[mask].int()
        return rows

    def _end(self, stop: int) -> None:
        if self._side is not None:
            self._side.synchronize()
        rows, counts = self._rows, self._counts
        tensors = {name: buffer[:rows] for name, buffer in self._buffers[0].items()}
        figures = {}
        for site in self._sites:
            tensors[f"{site}.sums"] = self._sums[site].cpu().double()
            rest, first = self._norms[site].tolist()
            figures[str(site)] = {
                "rest": [counts[_REST], *rest],
                "first": [counts[_FIRST], *first],
                "relative_error": self._errors[site].item(),
                "non_finite": int(self._non_finite[site].item()),
            }
        entry = {
            "contexts": [self._context, stop],
            "rows": rows,
            "rows_left_out": self._left_out,
            "statistics": figures,
        }
        self._writer.submit(tensors, entry)
        self._buffers.reverse()
        self._begin(stop)
