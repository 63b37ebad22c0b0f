"""The states that examples read, of every wanted layer, from one pass over each context.

Contexts are read in batches of like length; only the states at the examples' positions are kept,
in memory or, where they would take too much of it, in a file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cutaway.activations.capture import capture, capture_with_logits
from cutaway.activations.forward import out_of_memory
from cutaway.base import files, hardware
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.progress import progress
from cutaway.nets.model import Model
from cutaway.nets.sites import Site
from cutaway.probes.data.examples import Examples
from cutaway.text.reading import PLAIN, Reading

TOKENS = 4096  # in a batch, about: more is no faster on a CPU
_LOGITS = 2**26  # of the vocabulary's head at once: 256 MB
_CGROUP_1 = "/sys/fs/cgroup/memory/memory.limit_in_bytes"
_SHARE = 0.25  # of the machine's memory that states may take before they go to a file


@dataclass(frozen=True)
class States:
    """`values` (sites, n, d) in the model's dtype, `sites` in their order.

    `finite` (n,) says which examples have finite states at every site. `own` (n,) is the model's
    own log-odds that the next token is the target, where that was asked for.
    """

    sites: Sequence[Site]
    values: Tensor
    finite: Tensor
    own: Tensor | None = None

    def __len__(self) -> int:
        return self.values.shape[1]


def states_of(
    model: Model,
    examples: Examples,
    sites: Sequence[Site],
    *,
    reading: Reading = PLAIN,
    at_start: bool = False,
    target_id: int | None = None,
    batch_tokens: int = TOKENS,
    label: str = "reading",
    folder: Path | None = None,
    held: int = 0,
) -> States:
    """One pass over the contexts, ended after the deepest site.

    Each context is read between the special tokens of `reading`; with `at_start` examples read the
    first of these (or, without any, the context's first token), not their own positions. With
    `target_id` the pass goes on to the head, at the examples' positions only, for the model's own
    log-odds of that token; each context must then have one example. What takes, with the `held`
    bytes of other states, more than a quarter of the memory lies in an unnamed file in `folder`
    (default: the system's temporary one). A batch that does not fit memory is halved, once, with a
    notice. Raises UserError for contexts longer than the model reads and for a disk without room.
    """
    longest = int(examples.lengths.max()) + reading.overhead
    if model.max_length is not None and longest > model.max_length:
        raise UserError(
            f"context_length = {longest - reading.overhead}: {model.reference.id} reads at most "
            f"{model.max_length}{reading.counted()}"
        )
    values = _room((len(sites), len(examples), model.width_of(sites)), model.dtype, folder, held)
    own = torch.empty(len(examples), dtype=torch.float32) if target_id is not None else None
    order = examples.context.argsort(stable=True)
    counts = examples.context.bincount(minlength=len(examples.begin))
    ends = counts.cumsum(0)
    size = max(1, batch_tokens // max(1, longest))
    most = len(examples) if target_id is None else max(1, _LOGITS // model.vocab_size)
    size = min(size, most)
    halved = False
    if model.device.type == "cpu":
        hardware.keep_freed_memory()
    contexts = examples.lengths.argsort(stable=True, descending=True)
    with progress(label, len(contexts), "contexts") as bar:
        at = 0
        while at < len(contexts):
            chosen = contexts[at : at + size]
            each = counts[chosen]
            row = torch.arange(len(chosen)).repeat_interleave(each)
            inside = torch.arange(len(row)) - (each.cumsum(0) - each)[row]
            rows = order[(ends - counts)[chosen][row] + inside]
            try:
                batch = _batch(examples, chosen, rows, reading, at_start=at_start)
                _read(model, batch, rows, row, sites, values, own, target_id)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if halved or size == 1:
                    raise UserError(
                        f"out of memory at {size} contexts of {longest} tokens: give shorter "
                        "contexts, fewer layers, or --device cpu"
                    ) from None
                halved, size = True, size // 2
                notice(f"out of memory: contexts in a batch halved to {size}")
                continue
            at += len(chosen)
            # as many tokens in every batch, however short its contexts are
            if at < len(contexts) and not halved:
                each_long = int(examples.lengths[contexts[at]]) + reading.overhead
                size = min(most, max(1, batch_tokens // each_long))
            bar.update(at)
    return States(list(sites), values, _finite(values), own)


@dataclass(frozen=True)
class _Batch:
    """Contexts as the model reads them: tokens (n, T) and their mask; where each of the examples in
    them reads, `first` to `last` (inclusive)."""

    tokens: Tensor
    mask: Tensor
    first: Tensor
    last: Tensor


def _batch(
    examples: Examples, contexts: Tensor, rows: Tensor, reading: Reading, *, at_start: bool
) -> _Batch:
    """The `contexts` between special tokens, for the examples `rows`."""
    begin, lengths = examples.begin[contexts], examples.lengths[contexts]
    front, back = len(reading.prefix), len(reading.suffix)
    inside = torch.arange(int(lengths.max()))
    real = inside < lengths[:, None]
    places = (begin[:, None] + inside).clamp(max=len(examples.tokens) - 1)
    text = torch.where(real, examples.tokens[places].long(), 0)
    tokens = torch.nn.functional.pad(text, (front, back))
    tokens[:, :front] = torch.tensor(reading.prefix, dtype=torch.int64)
    for offset, id in enumerate(reading.suffix):
        tokens[torch.arange(len(tokens)), front + lengths + offset] = id
    mask = torch.arange(tokens.shape[1]) < (lengths + front + back)[:, None]
    if at_start:
        first = last = torch.zeros_like(rows)
    else:
        first, last = examples.first[rows] + front, examples.last[rows] + front
    return _Batch(tokens, mask, first, last)


def _read(
    model: Model,
    batch: _Batch,
    rows: Tensor,
    row: Tensor,
    sites: Sequence[Site],
    values: Tensor,
    own: Tensor | None,
    target_id: int | None,
) -> None:
    """The states of the examples `rows`, each in the context `row` of the batch, into `values` and
    `own`."""
    tokens, mask = batch.tokens.to(model.device), batch.mask
    padding = None if bool(mask.all()) else mask.long()
    first, last = batch.first, batch.last
    single = torch.equal(first, last)
    inside = torch.arange(tokens.shape[1])
    spanned = (inside >= first[:, None]) & (inside <= last[:, None])
    row, first, last, spanned = (one.to(model.device) for one in (row, first, last, spanned))

    def keep(state: Tensor) -> Tensor:
        if single:
            return state[row, last]
        sums = torch.einsum("nt,ntd->nd", spanned.to(state.dtype), state[row])
        return sums / (last - first + 1)[:, None]

    if own is None or target_id is None:
        states = capture(model, tokens, sites, padding)
    else:
        states, own[rows] = _with_head(model, tokens, sites, padding, row, last, target_id)
    for index, site in enumerate(sites):
        values[index, rows] = keep(states[site]).to("cpu")


def _with_head(
    model: Model,
    tokens: Tensor,
    sites: Sequence[Site],
    padding: Tensor | None,
    row: Tensor,
    last: Tensor,
    target_id: int,
) -> tuple[Mapping[Site, Tensor], Tensor]:
    """States, and the log-odds of the target after the examples' positions: one per context."""
    at = torch.empty_like(last)
    at[row] = last
    states, logits = capture_with_logits(model, tokens, sites, padding, at)
    logits = logits[row].float()
    target = logits[:, target_id].clone()
    logits[:, target_id] = -torch.inf
    return states, (target - logits.logsumexp(-1)).cpu()


def _finite(values: Tensor) -> Tensor:
    """Which examples have finite states at every site; one site at a time."""
    found = torch.ones(values.shape[1], dtype=torch.bool)
    for state in values:
        for start in range(0, len(state), 65_536):
            part = state[start : start + 65_536]
            found[start : start + len(part)] &= part.float().sum(-1).isfinite()
    return found


def _room(shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None, held: int) -> Tensor:
    """An empty tensor, in memory or over a file that has no name any more."""
    count = 1
    for size in shape:
        count *= size
    needed = count * dtype.itemsize
    if needed + held <= _SHARE * _memory():
        return torch.empty(shape, dtype=dtype)
    place = Path(folder or tempfile.gettempdir())
    files.require_writable(place, needed)
    notice(
        f"{files.human_bytes(needed)} of states: kept in a file in {place} while they are needed"
    )
    with tempfile.NamedTemporaryFile(dir=place, suffix=".states") as file:
        # the mapping keeps the file until the tensor goes
        return torch.from_file(file.name, shared=True, size=count, dtype=dtype).view(shape)


def _memory() -> int:
    """Bytes of memory of the machine, or of the container where that has less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path(_CGROUP_1)):
        try:
            return min(whole, int(limit.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return whole
