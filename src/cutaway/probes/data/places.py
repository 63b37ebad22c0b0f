"""Places in texts where a token may stand with a full window before it, and their split in parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import torch

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.progress import progress
from cutaway.labelled.texts import FEWEST, split_by_group
from cutaway.probes.data.examples import PARTS, Examples
from cutaway.text.documents import Source
from cutaway.text.encoding import encoded
from cutaway.text.repeats import related
from cutaway.text.tokenizers import Tokenizer

_ROWS = 50_000  # of each class that stand for a text's places where documents are dealt out
_FEW = 11  # texts for which every split is tried: 3^11 of them
_SECTIONS = 50  # that a text of few documents is cut into, at most


def require_ratio(train_ratio: float) -> None:
    """Refuse a training share that is not over 0.5 and at most 0.98."""
    if not 0.5 < train_ratio <= 0.98:
        raise UserError(
            f"train_ratio = {train_ratio}: expected a number over 0.5 and at most 0.98 (0.8 is 80 % "
            "for training, 10 % each for validation and test)"
        )


def shares(train_ratio: float) -> tuple[float, float, float]:
    """Of training, validation and test: what training leaves is halved."""
    return train_ratio, (1 - train_ratio) / 2, (1 - train_ratio) / 2


@dataclass(frozen=True)
class Text:
    """All token ids, and of each document its name and where it begins and ends (exclusive).

    `group` is equal for documents that share text (`repeats.related`).
    """

    ids: np.ndarray
    names: tuple[str, ...]
    begin: np.ndarray
    end: np.ndarray
    group: np.ndarray


@dataclass(frozen=True)
class Texts:
    """Places in some texts, numbered from 0 through all of them: positions with a window before.

    Text k has the places `first[k]`, `first[k] + 1`, ..., `count[k]` of them; `name[k]` is its
    place in `names`; texts of a `group` go to one part. `positions` are those of the target in all
    of `ids`, sorted.
    """

    ids: np.ndarray
    names: tuple[str, ...]
    first: np.ndarray
    count: np.ndarray
    name: np.ndarray
    group: np.ndarray
    positions: np.ndarray
    context_length: int
    sections: bool = False

    @classmethod
    def of(cls, text: Text, context_length: int, target_id: int) -> Texts:
        count = np.maximum(0, text.end - text.begin - context_length)
        return cls(
            text.ids,
            text.names,
            text.begin + context_length,
            count,
            np.arange(len(count)),
            text.group,
            np.flatnonzero(text.ids == target_id),
            context_length,
        ).chosen(count > 0)

    def __len__(self) -> int:
        return int(self.count.sum())

    @cached_property
    def _before(self) -> np.ndarray:
        """Places in the texts before each, and in all."""
        return np.concatenate([[0], self.count.cumsum()])

    @cached_property
    def _hit_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each place with the target: its text, and its number."""
        if not len(self.first):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        row = np.searchsorted(self.first, self.positions, side="right") - 1
        offset = self.positions - self.first[row]
        inside = (row >= 0) & (offset >= 0) & (offset < self.count[row])
        row = row[inside]
        return row, self._before[row] + offset[inside]

    @property
    def hits(self) -> np.ndarray:
        """The numbers of the places with the target, sorted."""
        return self._hit_rows[1]

    def counts(self) -> np.ndarray:
        """Places without and with the target in each text, (texts, 2)."""
        hits = np.bincount(self._hit_rows[0], minlength=len(self.first))
        return np.stack([self.count - hits, hits], 1)

    def chosen(self, which: np.ndarray) -> Texts:
        """Some of these texts."""
        kept = (one[which] for one in (self.first, self.count, self.name, self.group))
        rest = (self.positions, self.context_length, self.sections)
        return Texts(self.ids, self.names, *kept, *rest)

    def others(self, draw: np.random.Generator, count: int) -> np.ndarray:
        """The numbers of random places without the target.

        Among the places without it, the j-th has the number j plus the hits before it.
        """
        j = drawn(draw, len(self) - len(self.hits), count)
        return j + np.searchsorted(self.hits - np.arange(len(self.hits)), j, side="right")

    def examples(self, numbers: np.ndarray) -> Examples:
        """The windows before the places of these numbers, each with the token of its place."""
        row = np.searchsorted(self._before, numbers, side="right") - 1
        position = self.first[row] + numbers - self._before[row]
        length = self.context_length + 1
        windows = np.lib.stride_tricks.sliding_window_view(self.ids, length)
        tokens = windows[position - self.context_length].astype(np.int32)
        begin = torch.arange(len(numbers)) * length
        last = torch.full_like(begin, self.context_length - 1)
        return Examples(
            tokens=torch.from_numpy(tokens.reshape(-1)),
            begin=begin,
            end=begin + length,
            context=torch.arange(len(numbers)),
            first=last,
            last=last.clone(),
            label=torch.from_numpy(np.isin(numbers, self.hits).astype(np.int64)),
            document=torch.from_numpy(self.name[row].astype(np.int64)),
        )

    def divided(self) -> Texts:
        """The texts cut into sections, 10 to 50 in all where windows are short enough for that."""
        length, window = self.count + self.context_length, self.context_length + 1
        whole = int(length.sum())
        wanted = max(2 * window, min(whole // 10, max(whole // _SECTIONS, 8 * window)))
        first, count, names = [], [], []
        for row, size in enumerate(length.tolist()):
            pieces = max(1, size // wanted)
            edges = self.first[row] - self.context_length + np.arange(pieces + 1) * size // pieces
            first.append(edges[:-1] + self.context_length)
            count.append(np.diff(edges) - self.context_length)
            name = self.names[self.name[row]]
            names += [f"{name} section {number}" for number in range(1, pieces + 1)]
        return Texts(
            self.ids,
            tuple(names),
            np.concatenate(first),
            np.concatenate(count),
            np.arange(len(names)),
            np.arange(len(names)),
            self.positions,
            self.context_length,
            sections=True,
        )


def read(source: Source, tokenizer: Tokenizer, max_texts: int) -> Text:
    """The first documents of a source, encoded, those left out that repeat another."""
    names: list[str] = []
    repeats = 0

    def texts() -> Iterator[tuple[str, str]]:
        nonlocal repeats
        known: set[bytes] = set()
        for document in islice(source.documents(), max_texts):
            content = hashlib.blake2b(document.text.encode("utf-8", "replace")).digest()
            if content in known:
                repeats += 1
                continue
            known.add(content)
            names.append(document.id)
            yield str(len(names) - 1), document.text

    arrays: list[np.ndarray] = []
    sizes: dict[int, int] = {}
    with progress("encoding", unit="tokens") as bar:
        for number, ids in encoded(texts(), tokenizer):
            arrays.append(ids)
            sizes[int(number)] = sizes.get(int(number), 0) + len(ids)
            bar.advance(len(ids))
    if not names:
        raise UserError(f"{source.name}: empty corpus, no text in it")
    if repeats:
        notice(f"{source.name}: {repeats:,} texts repeat another and are left out")
    end = np.cumsum([sizes[number] for number in range(len(names))])
    begin = np.concatenate([[0], end[:-1]])
    ids = np.concatenate(arrays)
    end -= 1  # less its end of text
    group = related(ids, begin, end)
    if shared := len(names) - len(np.unique(group)):
        notice(f"{source.name}: {shared:,} texts share text with another and stay on its side")
    return Text(ids, tuple(names), begin, end, group)


def drawn(draw: np.random.Generator, total: int, count: int) -> np.ndarray:
    """`count` different numbers below `total`, or all of them where there are no more; sorted."""
    return np.sort(draw.choice(total, min(count, total), replace=False, shuffle=False))


def split_texts(texts: Texts, train_ratio: float, seed: int) -> np.ndarray | None:
    """The part of each text; None where one would have either class under ten times.

    Texts of a group go to the same part.
    """
    names, group = np.unique(texts.group, return_inverse=True)
    counts = np.zeros((len(names), 2), dtype=np.int64)
    np.add.at(counts, group, texts.counts())
    split = _split_groups(counts, train_ratio, seed)
    return None if split is None else split[group]


def _split_groups(counts: np.ndarray, train_ratio: float, seed: int) -> np.ndarray | None:
    """The part of each group with so many places without and with the target, (groups, 2)."""
    if len(counts) <= _FEW:
        return _best_split(counts, train_ratio)
    # so many rows stand for a class's places, at least one for every text that has any
    scale = np.minimum(1, _ROWS / counts.sum(0))
    rows = np.ceil(counts * scale).astype(np.int64)
    group, label = (one.ravel() for one in np.indices(rows.shape))
    groups, labels = np.repeat(group, rows.ravel()), np.repeat(label, rows.ravel())
    try:
        found = split_by_group(labels, groups, shares=shares(train_ratio), seed=seed)
    except UserError:
        return None
    split = np.zeros(len(counts), dtype=np.int64)
    split[groups] = found
    held = np.stack([counts[split == part].sum(0) for part in range(len(PARTS))])
    return split if held.min() >= FEWEST else None


def _best_split(counts: np.ndarray, train_ratio: float) -> np.ndarray | None:
    """Of all splits of a few texts the one nearest to the wanted shares s of both classes:
    least Σ (share − s)²/s over parts and classes."""
    n = len(counts)
    splits = np.arange(3**n)[:, None] // 3 ** np.arange(n) % 3
    held = np.stack([(splits == part) @ counts for part in range(len(PARTS))], 1)
    wanted = np.array(shares(train_ratio))[:, None]
    off = ((held / counts.sum(0) - wanted) ** 2 / wanted).sum((1, 2))
    off[held.min((1, 2)) < FEWEST] = np.inf
    best = int(off.argmin())
    return splits[best] if np.isfinite(off[best]) else None
