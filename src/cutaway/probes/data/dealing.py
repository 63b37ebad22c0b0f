"""Labelled contexts dealt out to training, validation and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.labelled.files import NO_SPACE
from cutaway.labelled.official import official, shared, tell
from cutaway.labelled.texts import FEWEST, split_by_group
from cutaway.probes.data.examples import PARTS, ProbeData, from_contexts
from cutaway.probes.data.places import require_ratio, shares
from cutaway.text.tokenizers import Tokenizer

OUTSIDE = "O"  # the class of words that name nothing, and in a task of one type of all others


@dataclass(frozen=True)
class How:
    """What examples of any labels are made with; UserError for what is out of range."""

    tokenizer: Tokenizer
    context_length: int | None
    train_ratio: float
    seed: int

    def __post_init__(self) -> None:
        require_ratio(self.train_ratio)
        if self.context_length is not None and self.context_length < 1:
            raise UserError(f"context_length = {self.context_length}: expected 1 or more")


@dataclass(frozen=True)
class Labelled:
    """Contexts, and of each example where it is read, its label and its group."""

    name: str
    contexts: list[list[int]]
    context: list[int]
    first: list[int]
    last: list[int]
    labels: list[str]
    groups: list[str]
    split: list[str] | None = None


def of_words(
    name: str,
    sentences: Sequence[Sequence[str]],
    labels: Sequence[Sequence[str | None]],
    groups: Sequence[str],
    how: How,
    source: Mapping[str, Any],
    split: Sequence[str] | None = None,
) -> ProbeData:
    """An example for each word that has a label, a token, and room in its context."""
    counts = Counter(one for found in labels for one in found if one is not None)
    if rare := sorted(one for one, count in counts.items() if count < FEWEST):
        listed = ", ".join(f"{one} ({counts[one]})" for one in rare)
        notice(f"{name}: labels of fewer than {FEWEST} words, which are left out: {listed}")
    if len(wanted := set(counts) - set(rare)) < 2:
        raise UserError(
            f"{name}: {len(wanted)} label(s) of {FEWEST} words or more "
            f"({', '.join(sorted(wanted)) or 'none'}); a task needs two classes or more"
        )
    tokenizer, longest = how.tokenizer, how.context_length
    spaced = tokenizer.token(tokenizer.encode("x")[0])[:1] == " "
    pieces = [list(_pieces(words, spaced)) for words in sentences]
    different = sorted({piece for found in pieces for piece in found})
    ids = dict(zip(different, tokenizer.encode_batch(different), strict=True))
    data = Labelled(name, [], [], [], [], [], [], None if split is None else [])
    cut = 0
    for number, found in enumerate(pieces):
        tokens: list[int] = []
        for piece, label in zip(found, labels[number], strict=True):
            tokens += ids[piece]
            if label not in wanted or not ids[piece]:
                continue
            if longest is not None and len(tokens) > longest:
                cut += 1
                continue
            data.context.append(len(data.contexts))
            data.last.append(len(tokens) - 1)
            data.labels.append(label)
            data.groups.append(groups[number])
            if data.split is not None and split is not None:
                data.split.append(split[number])
        if tokens:
            data.contexts.append(tokens[:longest])
    if cut:
        notice(f"{name}: {cut:,} words beyond the first {longest} tokens are left out")
    data.first.extend(data.last)
    about = {**source, "sentences": len(data.contexts), "words": len(data.labels), "words_cut": cut}
    return dealt_out(data, split_of(data, how), how, about)


def _pieces(words: Sequence[str], spaced: bool) -> Iterable[str]:
    """Each word with the space that running text has before it.

    Encoded one by one, words keep their tokens to themselves. `spaced`: the tokenizer puts that
    space itself.
    """
    for before, word in pairwise(["", *words]):
        none = spaced or not before or NO_SPACE.search(f"{before[-1:]} {word[:1]}")
        yield word if none else f" {word}"


def split_of(found: Labelled, how: How) -> np.ndarray:
    """The part of each example, (n,): as it came with the data, else by group."""
    names, labels = np.unique(found.labels, return_inverse=True)
    groups = np.unique(found.groups, return_inverse=True)[1]
    into = shares(how.train_ratio)

    def deal(labels: np.ndarray, groups: np.ndarray, shares: Sequence[float]) -> np.ndarray:
        try:
            return split_by_group(names[labels], groups, shares=shares, seed=how.seed)
        except UserError as error:
            raise UserError(f"{found.name}: {error}") from None

    part = None
    if found.split is not None:
        part = official(found.name, found.split, labels, groups, into, deal)
        if part is not None:
            tell(found.name, shared(found.groups, part, "documents"))
    if part is None:
        return deal(labels, _numbered(found.groups), into)
    return part


def _numbered(names: Sequence[str]) -> np.ndarray:
    """A number for each name, in the order in which they come first."""
    place = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names])


def dealt_out(found: Labelled, split: np.ndarray, how: How, source: Mapping[str, Any]) -> ProbeData:
    """The examples in three parts, of which `split` (n,) says where each goes."""
    classes = tuple(sorted(set(found.labels), key=lambda label: (label != OUTSIDE, label)))
    names = tuple(dict.fromkeys(found.groups))
    groups = _numbered(found.groups)
    number = {label: index for index, label in enumerate(classes)}
    label_ids = np.array([number[label] for label in found.labels])
    whole = from_contexts(found.contexts, found.context, found.first, found.last, label_ids, groups)
    counts = np.stack(
        [np.bincount(label_ids[split == part], minlength=len(classes)) for part in range(3)]
    )
    for part, name in enumerate(PARTS):
        few = [f"{classes[c]} ({counts[part, c]})" for c in np.flatnonzero(counts[part] < FEWEST)]
        if few:
            notice(f"{found.name}: few examples in {name}, figures will be rough: {', '.join(few)}")
    return ProbeData(
        name=found.name,
        task="labels",
        classes=classes,
        prevalence=tuple((counts[0] / counts[0].sum()).tolist()),
        documents=names,
        parts={
            name: whole.chosen(np.flatnonzero(split == part)).compact()
            for part, name in enumerate(PARTS)
        },
        tokenizer=how.tokenizer,
        context_length=how.context_length,
        seed=how.seed,
        source={
            **source,
            "documents": len(names),
            "train_ratio": how.train_ratio,
            **({} if found.split is None else {"official_split": True}),
        },
    )
