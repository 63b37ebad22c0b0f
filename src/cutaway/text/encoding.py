"""Documents to a file of token ids: all cores encode while the next texts are read and written.

Texts are cut into parts of equal work (`text/cuts.py`), so that one giant document keeps every
core busy, and a few megabytes are in flight at a time, whatever the corpus's size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutaway.base.display import notice
from cutaway.text import long_words
from cutaway.text.cuts import cut

if TYPE_CHECKING:
    from cutaway.text.tokenizers import Tokenizer

_PART = 8_000  # characters of one part
_BATCH = 2_000_000  # characters handed to the library at once
_IN_FLIGHT = 3  # batches: one encoding, one being turned into an array, one waiting


def encoded(
    texts: Iterable[tuple[str, str]],
    tokenizer: Tokenizer,
    around: tuple[Sequence[int], Sequence[int]] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """For texts given as (side, text): (side, ids) in arrays of any length, in order on each side.

    The ids of a text are followed by `end_of_text`, or stand between those of `around`. What
    reading `texts` raises is raised here. Says at the end where long words were read in pieces.
    """
    before = tokenizer.pieces
    around = ((), (tokenizer.end_of_text,)) if around is None else around
    try:
        with ThreadPoolExecutor(2, thread_name_prefix="encoding") as pool:
            waiting: deque[Future[dict[str, np.ndarray]]] = deque()
            for batch in _batches(texts, tokenizer.has_exact_cuts):
                waiting.append(pool.submit(_ids, batch, tokenizer, *around))
                if len(waiting) == _IN_FLIGHT:
                    yield from waiting.popleft().result().items()
            while waiting:
                yield from waiting.popleft().result().items()
    finally:  # also where no more is wanted
        if tokenizer.pieces > before:
            notice(long_words.told(tokenizer.pieces - before))


def token_dtype(vocab_size: int) -> np.dtype:
    """Little-endian uint16 where it holds every id, else uint32."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


@dataclass(frozen=True, slots=True)
class _Part:
    side: str
    text: str
    begins: bool  # whether a text begins with it
    ends: bool  # whether one ends with it


def _batches(texts: Iterable[tuple[str, str]], may_cut: bool) -> Iterator[list[_Part]]:
    """Parts of the texts, about `_BATCH` characters at a time."""
    batch: list[_Part] = []
    size = 0
    for side, text in texts:
        parts = list(cut(text, _PART)) if may_cut else [text]
        for index, part in enumerate(parts, start=1):
            batch.append(_Part(side, part, index == 1, index == len(parts)))
            size += len(part)
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _ids(
    batch: list[_Part], tokenizer: Tokenizer, before: Sequence[int], after: Sequence[int]
) -> dict[str, np.ndarray]:
    dtype = token_dtype(tokenizer.vocab_size)
    begin, end = np.array(before, dtype), np.array(after, dtype)
    arrays: dict[str, list[np.ndarray]] = {}
    for part, encoding in zip(batch, tokenizer.encodings([part.text for part in batch])):
        side = arrays.setdefault(part.side, [])
        if part.begins:
            side.append(begin)
        side.append(np.array(encoding.ids, dtype))
        if part.ends:
            side.append(end)
    return {side: np.concatenate(ids) for side, ids in arrays.items()}
