"""Probe data from labels: a label for each text, or one for each word of a sentence.

All parts hold the classes as the labels have them; training weighs them. Parts share no document.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from cutaway.base.columns import Column
from cutaway.base.display import notice
from cutaway.base.errors import UserError, nearest
from cutaway.labelled.files import (
    CONLL,
    SECTION,
    conll_sentences,
    parts_in,
    read_tasks,
    sentence_groups,
)
from cutaway.labelled.official import shared, tell
from cutaway.labelled.rows import TABLES
from cutaway.labelled.tables import Columns, table_task
from cutaway.labelled.texts import LabelledTexts
from cutaway.probes.data.dealing import OUTSIDE, How, Labelled, dealt_out, of_words, split_of
from cutaway.probes.data.examples import ProbeData
from cutaway.probes.data.gathering import gathered
from cutaway.probes.data.places import require_ratio
from cutaway.text.conversations import Chosen
from cutaway.text.tokenizers import Tokenizer

Read = Literal["mean", "last", "first"]


def label_data(
    place: str | os.PathLike[str],
    tokenizer: Tokenizer,
    *,
    validation: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    columns: Columns | None = None,
    label: str | None = None,
    read: Read | None = None,
    chat: Chosen | None = None,
    reply_only: bool = False,
    context_length: int | None = None,
    train_ratio: float = 0.8,
    seed: int = 0,
) -> ProbeData:
    """Probe data of labels in a file or folder: words of a CoNLL file (`word_data`, with `label`),
    else texts as `labelled.files.read_tasks` takes them (`text_data`, with `read`).

    `validation` and `test` are files like `place`, which then holds training only. A table may be
    named by `columns`, and its column `split`, or files named by part in a folder, are kept as the
    split. With `chat` the rows of a table hold conversations (`text_data`). Raises UserError where
    `label`, `read` or `columns` does not go with the place, and as those do.
    """
    settings: dict[str, Any] = {
        "context_length": context_length,
        "train_ratio": train_ratio,
        "seed": seed,
    }
    require_ratio(train_ratio)
    files = _parts(place, validation, test)
    if chat is not None and (files is None or Path(files["train"][0]).suffix.lower() in CONLL):
        raise UserError(f"chat: goes with a table of conversations (.jsonl, .parquet), not {place}")
    if files is not None and Path(files["train"][0]).suffix.lower() in CONLL:
        if columns is not None:
            raise UserError(f"{place}: CoNLL words, whose columns have no names to give")
        if read is not None:
            raise UserError(
                f"read = {read!r}: goes with labelled texts; of a word in {place} its last token "
                "is read"
            )
        return word_data(place, tokenizer, files=files, label=label, **settings)
    if label is not None:
        raise UserError(
            f"label = {label!r}: goes with a CoNLL file ({', '.join(CONLL)}), not with {place}"
        )
    if files is not None and (len(files) > 1 or chat is not None):
        texts = table_task(files if len(files) > 1 else files["train"][0], columns, chat)
    elif columns is not None and files is None:
        raise UserError(f"{place}: names of columns go with a table ({', '.join(TABLES)})")
    else:
        texts = read_tasks(place, columns=columns)[0]
    settings |= {"chat": chat, "reply_only": reply_only}
    return text_data(texts, tokenizer, read=read or "mean", **settings)


def _parts(
    place: str | os.PathLike[str],
    validation: str | os.PathLike[str] | None,
    test: str | os.PathLike[str] | None,
) -> dict[str, list[Path]] | None:
    """Files with rows of labels by their part; None for other places (docstrings, a folder)."""
    others = {"validation": validation, "test": test}
    others = {part: Path(one) for part, one in others.items() if one is not None}
    path = Path(place)
    if str(place) == "docstrings" or path.is_dir():
        if others:
            raise UserError(
                f"{place}: a file for each part goes with a file for training, not with this"
            )
        if path.is_dir():
            return parts_in(path, TABLES) or parts_in(path, CONLL)
        return None
    kinds = CONLL if path.suffix.lower() in CONLL else TABLES
    if path.suffix.lower() not in kinds:
        return None
    for part, one in others.items():
        if not one.is_file():
            raise UserError(f"{part} = {str(one)!r}: no such file")
        if one.suffix.lower() not in kinds:
            raise UserError(
                f"{part} = {str(one)!r}: expected one of {', '.join(kinds)}, as {place}"
            )
        if one.resolve() == path.resolve():
            raise UserError(f"{part} = {str(one)!r}: the file of training itself")
    return {"train": [path], **{part: [one] for part, one in others.items()}}


def text_data(
    texts: LabelledTexts,
    tokenizer: Tokenizer,
    *,
    context_length: int | None = None,
    train_ratio: float = 0.8,
    seed: int = 0,
    read: Read = "mean",
    chat: Chosen | None = None,
    reply_only: bool = False,
) -> ProbeData:
    """An example per text, read as the mean over its tokens' states, at its last token, or where it
    begins (`first`: the state of the special token before it, [CLS] of encoders, where there is one).

    With `chat` the texts are conversations that it wrote; with `reply_only` their last replies are
    read, and those without one (or cut before it) are left out, which is announced. Texts are cut
    after `context_length` tokens (None: not at all) and left out where they have none; both are
    announced. Groups are dealt out to the parts whole, unless a split came with the texts, which is
    kept; texts and groups on two sides are announced. UserError where a part would lack a class,
    and for settings out of range.
    """
    if read not in get_args(Read):
        raise UserError(f"read = {read!r}: expected {', '.join(get_args(Read))}")
    how = How(tokenizer, context_length, train_ratio, seed)
    if reply_only and (chat is None or read == "first"):
        why = "chat, which says what a reply is" if chat is None else "read = mean or last"
        raise UserError(f"reply_only: goes with {why}")
    ids, replies = _encoded(texts, tokenizer, chat)
    if reply_only:
        texts, ids, replies = _with_reply(texts, ids, replies, context_length)
    if empty := [row for row, one in enumerate(ids) if not one]:
        notice(f"{texts.name}: {len(empty):,} texts have no token and are left out")
        kept = [row for row, one in enumerate(ids) if one]
        texts, ids = texts.chosen(kept), [ids[row] for row in kept]
        replies = [replies[row] for row in kept]
    cut = sum(len(one) > (context_length or len(one)) for one in ids)
    if cut:
        notice(f"{texts.name}: {cut:,} of {len(ids):,} texts cut after {context_length} tokens")
    ids = [one[:context_length] for one in ids]
    ends = [len(one) - 1 for one in ids]
    starts = [0] * len(ids)
    if reply_only:
        starts = [reply[0] for reply in replies if reply is not None]
        ends = [min(reply[1], end) for reply, end in zip(replies, ends) if reply is not None]
    found = Labelled(
        texts.name,
        contexts=ids,
        context=list(range(len(ids))),
        first=ends if read == "last" else starts,
        last=starts if read == "first" else ends,
        labels=list(texts.labels),
        groups=list(texts.groups),
        split=None if texts.split is None else list(texts.split),
    )
    source: dict[str, Any] = {"data": texts.name, "texts": len(ids), "texts_cut": cut, "read": read}
    if chat is not None:
        template = chat.template
        source |= {"chat": template.sha256, "chat_date": template.day, "reply_only": reply_only}
    part = split_of(found, how)
    tell(texts.name, shared(texts.texts, part, "different texts"))
    return dealt_out(found, part, how, source)


_Spans = list[tuple[int, int] | None]


def _encoded(
    texts: LabelledTexts, tokenizer: Tokenizer, chat: Chosen | None
) -> tuple[list[list[int]], _Spans]:
    """The ids of each text, and of conversations the first and last token of the last reply."""
    if chat is None:
        return tokenizer.encode_batch(texts.texts), [None] * len(texts)
    found = chat.conversations(texts.texts)
    return [one.ids.tolist() for one in found], [one.last_reply for one in found]


def _with_reply(
    texts: LabelledTexts, ids: list[list[int]], replies: _Spans, longest: int | None
) -> tuple[LabelledTexts, list[list[int]], _Spans]:
    """Those with a reply that begins within the first `longest` tokens; the others are announced."""
    kept = [
        row
        for row, reply in enumerate(replies)
        if reply is not None and (longest is None or reply[0] < longest)
    ]
    if not kept:
        raise UserError(
            f"{texts.name}: reply_only: no conversation has a reply (role assistant)"
            + ("" if longest is None else f" that begins in its first {longest} tokens")
        )
    if len(kept) < len(ids):
        notice(
            f"{texts.name}: {len(ids) - len(kept):,} of {len(ids):,} conversations have no reply"
            + ("" if longest is None else f" that begins in their first {longest} tokens")
            + " and are left out"
        )
    return texts.chosen(kept), [ids[row] for row in kept], [replies[row] for row in kept]


def word_data(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer,
    *,
    files: Mapping[str, Sequence[Path]] | None = None,
    label: str | None = None,
    context_length: int | None = None,
    train_ratio: float = 0.8,
    seed: int = 0,
) -> ProbeData:
    """An example per word of a CoNLL file, read at the word's last token; a sentence is a context.

    With `label`, `PER` say, the classes are `O` and it, whether a tag says B- or I-; without one,
    `O` and every type of ten words or more (words of rarer types are left out, which is said).
    Groups are documents, or ten neighbouring sentences. `files` by part (train, test, ...) in the
    place of `path` are a split that is kept. UserError for a label that no word has,
    and as `text_data`.
    """
    how = How(tokenizer, context_length, train_ratio, seed)
    path = Path(path)
    name = path.name.partition(".")[0]
    files = files or {"train": [path]}
    sentences, groups, split = [], [], []
    for part, paths in files.items():
        for file in paths:
            found = list(conll_sentences(file))
            if not found:
                raise UserError(f"{file}: no sentence in it")
            sentences += found
            split += [part] * len(found)
            front = f"{file.name} " if len(files) > 1 else ""
            documents = sentence_groups([document for _, _, document in found])
            groups += [f"{front}{document}" for document in documents]
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
    return of_words(
        f"{name}: {label}" if label else name,
        [words for words, _, _ in sentences],
        labels,
        groups,
        how,
        {"data": str(path)},
        split if len(files) > 1 else None,
    )


def data_of(
    texts: Column,
    labels: Column | str | None,
    tokenizer: Tokenizer,
    *,
    groups: Column | str | None = None,
    split: Column | str | None = None,
    columns: Columns | None = None,
    read: Read = "mean",
    context_length: int | None = None,
    train_ratio: float = 0.8,
    seed: int = 0,
    name: str = "labels",
    chat: Chosen | None = None,
    reply_only: bool = False,
) -> ProbeData:
    """Probe data of labels at hand: texts with a label each, or lists of words with lists of labels.

    Columns are whatever holds values in order (`base.columns`), read by position; or `texts` is a
    table whose columns have these names (`columns`), or tables by part. A text or word without a
    label (None, NaN, a null) is no example; the model reads such a word, and how many texts are left
    out is announced, with their positions. Labels become texts, sorted, `O` first; of two the second
    is the positive one. `groups` says which document each text (or list of words) is from, no two
    parts share one. Without it equal texts are a group; lists of words are grouped with up to nine
    neighbours. With `chat` the texts are conversations that it wrote (`text_data`). `split` names the part of each text (train, validation, test), which is kept.
    UserError as `text_data`, and where lengths differ.
    """
    given = gathered(texts, labels, groups, split, columns or Columns(), name)
    how = How(tokenizer, context_length, train_ratio, seed)
    if given.of_words:
        section = max(1, min(SECTION, len(given.texts) // 30))
        groups = given.groups or sentence_groups([0] * len(given.texts), section)
        return of_words(name, given.texts, given.labels, groups, how, {"data": name}, given.split)
    found = LabelledTexts(name, given.texts, given.labels, given.groups, given.split)
    return text_data(
        found,
        tokenizer,
        context_length=context_length,
        train_ratio=train_ratio,
        seed=seed,
        read=read,
        chat=chat,
        reply_only=reply_only,
    )
