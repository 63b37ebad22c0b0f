"""Probe data from labels: a label for each text, or one for each word of a sentence.

All parts hold the classes as the labels have them; training weighs them. Parts share no document.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cutaway.base.display import notice
from cutaway.base.errors import UserError, nearest
from cutaway.probes.data import PARTS, ProbeData, from_contexts
from cutaway.probes.places import require_ratio, shares
from cutaway.text.labelled import FEWEST, LabelledTexts, split_by_group
from cutaway.text.labelled_files import (
    CONLL,
    NO_SPACE,
    SECTION,
    conll_sentences,
    read_tasks,
    sentence_groups,
)
from cutaway.text.tokenizers import Tokenizer

OUTSIDE = "O"  # the class of words that name nothing, and in a task of one type of all others
Read = Literal["mean", "last"]


def label_data(
    place: str | os.PathLike[str],
    tokenizer: Tokenizer,
    *,
    label: str | None = None,
    read: Read | None = None,
    context_length: int | None = None,
    train_ratio: float = 0.8,
    seed: int = 0,
) -> ProbeData:
    """Probe data of labels in a file or folder: words of a CoNLL file (`word_data`, with `label`),
    else texts as `text.labelled_files.read_tasks` takes them (`text_data`, with `read`).

    Raises UserError where `label` or `read` does not go with the place, and as those do.
    """
    settings: dict[str, Any] = {
        "context_length": context_length,
        "train_ratio": train_ratio,
        "seed": seed,
    }
    require_ratio(train_ratio)
    if str(place) != "docstrings" and Path(place).suffix.lower() in CONLL:
        if read is not None:
            raise UserError(
                f"read = {read!r}: goes with labelled texts; of a word in {place} its last token "
                "is read"
            )
        return word_data(place, tokenizer, label=label, **settings)
    if label is not None:
        raise UserError(
            f"label = {label!r}: goes with a CoNLL file ({', '.join(CONLL)}), not with {place}"
        )
    return text_data(read_tasks(place)[0], tokenizer, read=read or "mean", **settings)


def text_data(
    texts: LabelledTexts,
    tokenizer: Tokenizer,
    *,
    context_length: int | None = None,
    train_ratio: float = 0.8,
    seed: int = 0,
    read: Read = "mean",
) -> ProbeData:
    """An example per text, read as the mean over its tokens' states or at its last token.

    Texts are cut after `context_length` tokens (None: not at all) and left out where they have
    none; both are said. Groups are dealt out to the parts whole. UserError where a part would lack
    a class, and for settings out of range.
    """
    if read not in ("mean", "last"):
        raise UserError(f"read = {read!r}: expected mean or last")
    how = _How(tokenizer, context_length, train_ratio, seed)
    ids = tokenizer.encode_batch(texts.texts)
    if empty := [row for row, one in enumerate(ids) if not one]:
        notice(f"{texts.name}: {len(empty):,} texts have no token and are left out")
        kept = [row for row, one in enumerate(ids) if one]
        texts, ids = texts.chosen(kept), [ids[row] for row in kept]
    cut = sum(len(one) > (context_length or len(one)) for one in ids)
    if cut:
        notice(f"{texts.name}: {cut:,} of {len(ids):,} texts cut after {context_length} tokens")
    ids = [one[:context_length] for one in ids]
    last = [len(one) - 1 for one in ids]
    return _dealt_out(
        _Labelled(
            texts.name,
            contexts=ids,
            context=list(range(len(ids))),
            first=last if read == "last" else [0] * len(ids),
            last=last,
            labels=list(texts.labels),
            groups=list(texts.groups),
        ),
        how,
        {"data": texts.name, "texts": len(ids), "texts_cut": cut, "read": read},
    )


def word_data(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer,
    *,
    label: str | None = None,
    context_length: int | None = None,
    train_ratio: float = 0.8,
    seed: int = 0,
) -> ProbeData:
    """An example per word of a CoNLL file, read at the word's last token; a sentence is a context.

    With `label`, `PER` say, the classes are `O` and it, whether a tag says B- or I-; without one,
    `O` and every type of ten words or more (words of rarer types are left out, which is said).
    Groups are documents, or ten neighbouring sentences. UserError for a label that no word has,
    and as `text_data`.
    """
    how = _How(tokenizer, context_length, train_ratio, seed)
    path = Path(path)
    name = path.name.partition(".")[0]
    sentences = list(conll_sentences(path))
    if not sentences:
        raise UserError(f"{path}: no sentence in it")
    kinds = [[tag.partition("-")[2] or OUTSIDE for tag in tags] for _, tags, _ in sentences]
    counts = Counter(kind for found in kinds for kind in found)
    types = sorted(set(counts) - {OUTSIDE})
    if label is not None:
        if label not in types:
            listed = ", ".join(f"{kind} ({counts[kind]} words)" for kind in types) or "none"
            raise UserError(
                f"label = {label!r}: no word of {path} has it{nearest(label, types) or ';'} "
                f"there are: {listed}"
            )
        labels = [[kind if kind == label else OUTSIDE for kind in found] for found in kinds]
    else:
        labels = kinds
    return _of_words(
        f"{name}: {label}" if label else name,
        [words for words, _, _ in sentences],
        labels,
        sentence_groups([document for _, _, document in sentences]),
        how,
        {"data": str(path)},
    )


def data_of(
    texts: Sequence[str] | Sequence[Sequence[str]],
    labels: Sequence[Hashable] | Sequence[Sequence[Hashable | None]],
    tokenizer: Tokenizer,
    *,
    groups: Sequence[Hashable] | None = None,
    read: Read = "mean",
    context_length: int | None = None,
    train_ratio: float = 0.8,
    seed: int = 0,
    name: str = "labels",
) -> ProbeData:
    """Probe data of labels at hand: texts with a label each, or lists of words with lists of labels.

    A text or word labelled None or NaN is no example; the model reads such a word, and how many
    texts are left out is said. Labels become texts, sorted, `O`
    first; of two the second is the positive one. `groups` says which document each text (or list
    of words) is from, no two parts share one. Without it equal texts are a group; lists of words
    are grouped with up to nine neighbours. UserError as `text_data`, and where lengths differ.
    """
    if not len(texts) == len(labels) == len(groups if groups is not None else texts):
        raise UserError(
            f"{name}: {len(texts)} texts, {len(labels)} labels"
            + (f", {len(groups)} groups" if groups is not None else "")
            + "; expected one of each per text"
        )
    named = None if groups is None else [str(one) for one in groups]
    if all(isinstance(text, str) for text in texts):
        known = [row for row, one in enumerate(labels) if not _missing(one)]
        if without := len(labels) - len(known):
            notice(f"{name}: {without:,} texts have no label and are left out")
        of = named or texts
        found = LabelledTexts(
            name,
            [texts[row] for row in known],
            [str(labels[row]) for row in known],
            [of[row] for row in known],
        )
        return text_data(
            found,
            tokenizer,
            context_length=context_length,
            train_ratio=train_ratio,
            seed=seed,
            read=read,
        )
    how = _How(tokenizer, context_length, train_ratio, seed)
    for number, (words, tags) in enumerate(zip(texts, labels, strict=True)):
        if isinstance(words, str) or isinstance(tags, str) or len(words) != len(tags):
            raise UserError(
                f"{name}: text {number}: expected a list of words and as many labels, as the "
                "other texts have"
            )
    section = max(1, min(SECTION, len(texts) // 30))
    return _of_words(
        name,
        [list(words) for words in texts],
        [[None if _missing(one) else str(one) for one in tags] for tags in labels],
        named or sentence_groups([0] * len(texts), section),
        how,
        {"data": name},
    )


# -- inside ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _How:
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
class _Labelled:
    """Contexts, and of each example where it is read, its label and its group."""

    name: str
    contexts: list[list[int]]
    context: list[int]
    first: list[int]
    last: list[int]
    labels: list[str]
    groups: list[str]


def _missing(label: Hashable | None) -> bool:
    """Whether a label is None, or not equal to itself: NaN, as tables have it for none."""
    try:
        return label is None or bool(label != label)
    except TypeError:  # pandas' NA will not even be compared
        return True


def _of_words(
    name: str,
    sentences: Sequence[Sequence[str]],
    labels: Sequence[Sequence[str | None]],
    groups: Sequence[str],
    how: _How,
    source: Mapping[str, Any],
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
    data = _Labelled(name, [], [], [], [], [], [])
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
        if tokens:
            data.contexts.append(tokens[:longest])
    if cut:
        notice(f"{name}: {cut:,} words beyond the first {longest} tokens are left out")
    data.first.extend(data.last)
    about = {**source, "sentences": len(data.contexts), "words": len(data.labels), "words_cut": cut}
    return _dealt_out(data, how, about)


def _pieces(words: Sequence[str], spaced: bool) -> Iterable[str]:
    """Each word with the space that running text has before it.

    Encoded one by one, words keep their tokens to themselves. `spaced`: the tokenizer puts that
    space itself.
    """
    for before, word in pairwise(["", *words]):
        none = spaced or not before or NO_SPACE.search(f"{before[-1:]} {word[:1]}")
        yield word if none else f" {word}"


def _dealt_out(
    found: _Labelled,
    how: _How,
    source: Mapping[str, Any],
) -> ProbeData:
    """The examples in three parts that share no group."""
    labels = np.array(found.labels)
    classes = tuple(sorted(set(found.labels), key=lambda label: (label != OUTSIDE, label)))
    names = tuple(dict.fromkeys(found.groups))
    place = {name: index for index, name in enumerate(names)}
    groups = np.array([place[group] for group in found.groups])
    try:
        split = split_by_group(labels, groups, shares=shares(how.train_ratio), seed=how.seed)
    except UserError as error:
        raise UserError(f"{found.name}: {error}") from None
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
        source={**source, "documents": len(names), "train_ratio": how.train_ratio},
    )
