"""Documents packed one after another into full contexts, any of which can be reached at once.

The tokens are encoded once and kept (`<cache>/packed/<key>`: `tokens.bin`, `documents.bin`,
`manifest.json`), as many as were asked for and no more, so that ten million tokens of a huge
corpus cost ten million tokens. What stands between documents and around contexts is a `Reading`'s.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.files import flush_to_disk, read_json, require_writable, write_json
from cutaway.base.progress import progress
from cutaway.text.conversations import ConversationSource
from cutaway.text.documents import Source
from cutaway.text.encoding import encoded, token_dtype
from cutaway.text.reading import Reading
from cutaway.text.repeats import Side, side
from cutaway.text.token_files import cache_folder
from cutaway.text.tokenizers import Tokenizer

FORMAT = 1
_CHARACTERS = 4  # in a token of prose, before anything is counted


@dataclass(frozen=True)
class Contexts:
    """Some contexts: arrays (n, T). `documents` counts the source's documents from 0.

    Special tokens around contexts, and those before a document, belong to no document (-1): their
    states are never kept.
    """

    tokens: np.ndarray
    positions: np.ndarray
    documents: np.ndarray


@dataclass(frozen=True)
class PackedText:
    """The contexts of a source: context n holds tokens [n·P, (n+1)·P) of the whole text.

    P is `payload`: the context length, less the special tokens around a context. What is left of
    the text after the last full context is not used.
    """

    name: str
    ids: np.ndarray
    """All tokens, a read-only memory map."""
    starts: np.ndarray
    """Where each document begins in `ids`, int64 (documents,)."""
    reading: Reading
    fingerprint: str
    """Of the tokens: source, tokenizer and how many stand in full contexts. Asking for more than a
    source has gives the same one."""
    asked: str
    """The same with how many were asked for: what `fingerprint` was before it was of what is kept.
    Records of then, of a source that ended too soon, hold it."""
    exhausted: bool
    """Whether the source ended before the tokens that were asked for."""
    replies: np.ndarray | None = None
    """Of conversations, which of `ids` are of replies."""

    def known_as(self, recorded: str | None) -> bool:
        """Whether a recorded fingerprint is of these tokens, by this rule or by that of before."""
        return recorded in (self.fingerprint, self.asked)

    @property
    def context_length(self) -> int:
        """Tokens of a context, special ones included."""
        return self.reading.context_length or 0

    @property
    def payload(self) -> int:
        """Tokens of the text in one context."""
        return self.context_length - self.reading.overhead

    @property
    def inside(self) -> slice:
        """The columns of a context that hold the text, between its special tokens."""
        start = len(self.reading.prefix)
        return slice(start, start + self.payload)

    @property
    def n_contexts(self) -> int:
        return len(self.ids) // self.payload

    @property
    def n_tokens(self) -> int:
        """Tokens of the text in all contexts."""
        return self.n_contexts * self.payload

    @cached_property
    def largest_id(self) -> int:
        """The largest id in the contexts, special tokens included."""
        reading = self.reading
        return max(int(self.ids[: self.n_tokens].max()), *reading.prefix, *reading.suffix, 0)

    def contexts(self, start: int, stop: int) -> Contexts:
        """Contexts start to stop − 1."""
        return self.chosen(np.arange(start, stop))

    def chosen(self, numbers: np.ndarray) -> Contexts:
        """The contexts of these numbers, in that order."""
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < self.n_contexts:
            raise IndexError(f"contexts {numbers}: there are {self.n_contexts}")
        places = numbers[:, None] * self.payload + np.arange(self.payload)
        tokens = self.ids[places].astype(np.int64)
        owners = np.searchsorted(self.starts, places, side="right") - 1
        documents = owners.astype(np.int32)
        reading = self.reading
        if reading.before:
            documents[places - self.starts[owners] < len(reading.before)] = -1
        if reading.reply_only and self.replies is not None:
            documents[~self.replies[places]] = -1
        if reading.overhead:
            tokens = _between(reading.prefix, tokens, reading.suffix)
            sides = (0, 0), (len(reading.prefix), len(reading.suffix))
            documents = np.pad(documents, sides, constant_values=-1)
        positions = np.broadcast_to(np.arange(self.context_length, dtype=np.int32), tokens.shape)
        return Contexts(tokens, positions, documents)

    def side(self, start: int, stop: int) -> Side:
        """The tokens of contexts start to stop − 1 with their documents (`repeats.shared`)."""
        return side(self.ids, self.starts, start * self.payload, stop * self.payload)

    def border(self, share: float) -> tuple[int, int]:
        """(train, validation): contexts [0, train) and [validation, n) have no document in common.

        The document border nearest to where the last `share` of the text begins divides them; the
        context it falls in belongs to neither, unless it begins there. Raises UserError where
        that leaves a side empty.
        """
        wanted = round(self.n_tokens * (1 - share))
        inner = self.starts[(self.starts > 0) & (self.starts < self.n_tokens)]
        if len(inner):
            place = int(inner[np.argmin(np.abs(inner - wanted))])
            train, validation = place // self.payload, -(-place // self.payload)
            if train > 0 and validation < self.n_contexts:
                return train, validation
        raise UserError(
            f"{self.name}: {len(self.starts)} documents in {self.n_contexts} contexts of "
            f"{self.context_length} tokens cannot be divided into train and validation by "
            "document; use more tokens, more documents or shorter contexts"
        )


def packed(
    source: Source,
    tokenizer: Tokenizer,
    context_length: int,
    *,
    tokens: int,
    bos: int | None = None,
    reading: Reading | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> PackedText:
    """At least `tokens` tokens of a source in full contexts, from the cache or encoded now.

    A pure function of the source's content, the tokenizer, the `reading`, `context_length` and
    `tokens`. Without a `reading`, `end_of_text` follows each document and `bos`, if given, begins
    each context. A source with fewer tokens gives what it has, with a notice. Raises UserError for
    an empty corpus, one shorter than a context, and settings out of range.
    """
    reading = reading or Reading.of_before(bos, tokenizer.end_of_text, None)
    reading = reading.with_length(context_length)
    if tokens < 1:
        raise UserError(f"tokens = {tokens}: expected 1 or more")
    payload = context_length - reading.overhead
    if payload < 1 or context_length < 2:
        least = max(2, reading.overhead + 1)
        raise UserError(f"context_length = {context_length}: expected {least} or more")
    wanted = -(-tokens // payload) * payload
    content = source.fingerprint()
    if (reading.chat is not None) != isinstance(source, ConversationSource):
        raise UserError(f"{source.name}: chat reads conversations, and only chat does")
    around = reading.before, reading.after
    key = _key(content, tokenizer, around, wanted)
    folder = cache_folder(cache) / "packed" / key[:32]
    found = _opened(folder, key) or _made(folder, key, source, tokenizer, around, wanted)
    ids, starts, replies = found
    if len(ids) < payload:
        raise UserError(
            f"{source.name}: {len(ids):,} tokens, fewer than one context of {payload:,}; "
            "give more text or a smaller context_length"
        )
    if reading.reply_only and replies is not None and not replies.any():
        raise UserError(f"{source.name}: reply_only: no conversation has a reply (role assistant)")
    whole = len(ids) // payload * payload
    kept = key if len(ids) == wanted else _key(content, tokenizer, around, whole)
    text = PackedText(
        *(source.name, ids, starts, reading, kept, key),
        exhausted=len(ids) < wanted,
        replies=replies,
    )
    if text.exhausted:
        notice(
            f"{source.name}: {text.n_tokens:,} tokens in full contexts, {tokens:,} were asked for"
        )
    return text


def asked_for(source: Source, tokenizer: Tokenizer, tokens: int, payload: int) -> str:
    """`PackedText.asked` of a request for `tokens` in contexts of `payload`, without encoding any:
    as it was before readings, `end_of_text` after each document."""
    around = (), (tokenizer.end_of_text,)
    return _key(source.fingerprint(), tokenizer, around, -(-tokens // payload) * payload)


_Around: TypeAlias = "tuple[tuple[int, ...], tuple[int, ...]]"
_Kept: TypeAlias = "tuple[np.ndarray, np.ndarray, np.ndarray | None]"  # ids, starts, replies


def _between(prefix: Sequence[int], tokens: np.ndarray, suffix: Sequence[int]) -> np.ndarray:
    """The same ids before and after each row of tokens (n, P)."""
    sides = [np.tile(np.array(ids, np.int64), (len(tokens), 1)) for ids in (prefix, suffix)]
    return np.concatenate([sides[0], tokens, sides[1]], 1)


def _key(content: str, tokenizer: Tokenizer, around: _Around, tokens: int) -> str:
    settings = {
        "format": FORMAT,
        "content": content,
        "tokenizer": tokenizer.sha256(),
        "tokens": tokens,
    }
    if around != (
        (),
        (tokenizer.end_of_text,),
    ):  # other keys than before readings only where needed
        settings["around"] = [list(ids) for ids in around]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _opened(folder: Path, key: str) -> _Kept | None:
    """What is kept in a folder, or None where it is missing or damaged."""
    try:
        manifest = read_json(folder / "manifest.json")
        if manifest["format"] != FORMAT or manifest["fingerprint"] != key:
            return None
        dtype, count = np.dtype(manifest["dtype"]), manifest["tokens"]
        if (folder / "tokens.bin").stat().st_size != count * dtype.itemsize:
            return None
        if (folder / "documents.bin").stat().st_size != manifest["documents"] * 8:
            return None
        ids = np.memmap(folder / "tokens.bin", dtype, mode="r", shape=(count,))
        replies = None
        if manifest.get("replies"):
            replies = np.memmap(folder / "replies.bin", np.bool_, mode="r", shape=(count,))
        return ids, np.fromfile(folder / "documents.bin", "<i8"), replies
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _made(
    folder: Path, key: str, source: Source, tokenizer: Tokenizer, around: _Around, wanted: int
) -> _Kept:
    from filelock import FileLock

    require_writable(folder, needed=4 * min(wanted, source.size() or wanted))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if (found := _opened(folder, key)) is not None:  # another process made it meanwhile
            return found
        shutil.rmtree(folder, ignore_errors=True)
        for left in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            temporary.mkdir()
            if isinstance(source, ConversationSource):
                _write_conversations(temporary, key, source, tokenizer, around, wanted)
            else:
                _write(temporary, key, source, tokenizer, around, wanted)
            os.rename(temporary, folder)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    found = _opened(folder, key)
    if found is None:
        raise UserError(f"{folder}: packed tokens changed while they were being opened")
    return found


def _write(
    folder: Path, key: str, source: Source, tokenizer: Tokenizer, around: _Around, wanted: int
) -> None:
    """Encode until `wanted` tokens are there or the source ends."""
    dtype = token_dtype(tokenizer.vocab_size)
    starts: list[int] = []
    count = 0

    documents = enumerate(source.documents())
    read, ended = 0, False

    def texts(characters: float) -> Iterator[tuple[str, str]]:
        """The next documents, until they have so many characters."""
        nonlocal read, ended
        until = read + characters
        for number, document in documents:
            read += len(document.text)
            yield str(number), document.text
            if read >= until:
                return
        ended = True

    with open(folder / "tokens.bin", "wb") as file, progress("encoding", wanted, "tokens") as bar:
        while count < wanted and not ended:  # no more is encoded than will be kept, nearly
            each = 1.05 * read / count if count else _CHARACTERS
            for number, ids in encoded(texts((wanted - count) * each), tokenizer, around):
                if int(number) == len(starts):  # a long document comes in several pieces
                    starts.append(count)
                file.write(ids[: wanted - count].data)
                count = min(wanted, count + len(ids))
                bar.update(count)
                if count == wanted:
                    break
    _finish(folder, key, source, tokenizer, dtype, starts, count)


def _write_conversations(
    folder: Path,
    key: str,
    source: ConversationSource,
    tokenizer: Tokenizer,
    around: _Around,
    wanted: int,
) -> None:
    """The same of conversations, and which tokens are of replies."""
    dtype = token_dtype(tokenizer.vocab_size)
    before, after = (np.array(ids, np.int64) for ids in around)
    starts: list[int] = []
    count = 0
    with (
        open(folder / "tokens.bin", "wb") as file,
        open(folder / "replies.bin", "wb") as marks,
        progress("encoding", wanted, "tokens") as bar,
    ):
        for one in source.encoded(tokenizer):
            starts.append(count)
            whole = np.concatenate([before, one.ids, after])[: wanted - count]
            spoken = np.pad(one.replies, (len(before), len(after)))[: wanted - count]
            file.write(whole.astype(dtype).data)
            marks.write(spoken.data)
            count += len(whole)
            bar.update(count)
            if count == wanted:
                break
    _finish(folder, key, source, tokenizer, dtype, starts, count, replies=True)


def _finish(
    folder: Path,
    key: str,
    source: Source,
    tokenizer: Tokenizer,
    dtype: np.dtype,
    starts: list[int],
    count: int,
    *,
    replies: bool = False,
) -> None:
    """Put everything on the disk, and the manifest that says what it is."""
    if count == 0:
        raise UserError(f"{source.name}: empty corpus, no text in it")
    np.array(starts, "<i8").tofile(folder / "documents.bin")
    for name in ("tokens.bin", "documents.bin", *(["replies.bin"] if replies else [])):
        flush_to_disk(folder / name)
    manifest = {
        "format": FORMAT,
        "fingerprint": key,
        "source": source.name,
        "tokenizer": tokenizer.sha256(),
        "dtype": dtype.str,
        "tokens": count,
        "documents": len(starts),
        "replies": replies,
    }
    write_json(folder / "manifest.json", manifest)
    flush_to_disk(folder)
