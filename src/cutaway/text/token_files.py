"""Token files: a corpus as two memory-mapped arrays of ids, built once for content and settings.

Layout of a folder `<cache>/tokens/<key>`: `train.bin` and `validation.bin` (ids one after the
other, little-endian, `end_of_text` after each document), the tokenizer, and `manifest.json`,
which is written last and tells the sizes. Folders appear by a rename: whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.files import flush_to_disk, human_bytes, read_json, require_writable, write_json
from cutaway.base.progress import Progress, progress
from cutaway.text import repeats, tokenizers
from cutaway.text.cuts import cut
from cutaway.text.documents import Document, Source
from cutaway.text.encoding import encoded, token_dtype
from cutaway.text.split import Split, plan, require_fraction, share
from cutaway.text.tokenizers import Tokenizer

FORMAT = 1
SAMPLE = 200_000_000  # bytes of training text that a tokenizer is trained on at most
_SIDES = ("train", "validation")
_BLOCK = 1 << 20  # tokens read at once
_REPEATS = "repeats.json"  # what both sides have in common


@dataclass(frozen=True)
class TokenFiles:
    """Token ids of a corpus, split by document. Bytes are of UTF-8 text, for bits per byte.

    `train` and `validation` are read-only memory maps, uint16 or (over 65,536 tokens) uint32.
    `notices` is what was said while the files were built, and of text that both sides have. `fingerprint` is of content and settings.
    """

    folder: Path
    tokenizer: Tokenizer
    train: np.ndarray
    validation: np.ndarray
    train_bytes: int
    validation_bytes: int
    train_documents: int
    validation_documents: int
    fingerprint: str
    notices: list[str] = field(default_factory=list)


def token_files(
    source: Source,
    *,
    tokenizer: str = "train",
    vocab_size: int | None = 8192,
    validation_fraction: float = 0.1,
    cache: str | os.PathLike[str] | None = None,
) -> TokenFiles:
    """The token files of a source, from the cache or built now.

    `tokenizer` is `train` (byte-level BPE of `vocab_size` tokens, trained on the training
    documents only) or what `tokenizers.pretrained` takes, whose vocabulary then counts. `cache`
    is `$CUTAWAY_CACHE` or `~/.cache/cutaway` unless given. Two processes that want the same files
    build them once; a damaged folder is built again, with a notice. Raises UserError for what
    cannot be read, for an empty corpus and for settings out of range.
    """
    require_fraction(validation_fraction)
    given = None if tokenizer == "train" else tokenizers.pretrained(tokenizer)
    if given is None and (vocab_size is None or vocab_size < tokenizers.SMALLEST_VOCABULARY):
        raise UserError(
            f"vocab_size = {vocab_size}: expected at least {tokenizers.SMALLEST_VOCABULARY} "
            "for a tokenizer trained on the corpus"
        )
    settings = {
        "format": FORMAT,
        "content": source.fingerprint(),
        "tokenizer": given.sha256() if given else f"train:{vocab_size}",
        "validation_fraction": validation_fraction,
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    folder = cache_folder(cache) / "tokens" / key[:32]
    if (found := _opened(folder, key)) is not None:
        return _with_repeats(found, source.name)
    require_writable(folder, needed=source.size() or 0)

    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if (found := _opened(folder, key)) is not None:  # another process built it meanwhile
            return _with_repeats(found, source.name)
        if folder.exists():
            notice(f"{folder}: damaged token files, built again")
            shutil.rmtree(folder)
        _build(folder, key, source, given, vocab_size, validation_fraction)
    built = _opened(folder, key)
    if built is None:
        raise UserError(f"{folder}: token files changed while they were being opened")
    return _with_repeats(built, source.name)


def _with_repeats(files: TokenFiles, name: str) -> TokenFiles:
    """The files with a notice of text that is on both sides, looked for once and kept beside them."""
    place = files.folder / _REPEATS
    try:
        lines = json.loads(place.read_text("utf-8"))["notices"]
    except (OSError, ValueError, KeyError, TypeError):
        with progress("looking for repeated text", unit="tokens"):
            found = repeats.shared(*(_side(files, side) for side in _SIDES))
        lines = found.described(name)
        for line in lines:
            notice(line)
        with suppress(OSError):  # it is looked for again
            write_json(place, {"share": found.share, "notices": lines})
    return replace(files, notices=[*files.notices, *lines])


def _side(files: TokenFiles, name: str) -> repeats.Side:
    """A side's tokens with their documents, read block by block: a map of all would stay in memory."""
    ids: np.ndarray = getattr(files, name)
    path, dtype, end_of_text = files.folder / f"{name}.bin", ids.dtype, files.tokenizer.end_of_text

    def tokens(start: int, stop: int) -> np.ndarray:
        return np.fromfile(path, dtype, stop - start, offset=start * dtype.itemsize)

    ends = [
        start + np.flatnonzero(tokens(start, min(len(ids), start + _BLOCK)) == end_of_text)
        for start in range(0, len(ids), _BLOCK)
    ]
    starts = np.concatenate([np.zeros(1, np.int64), *ends])
    starts[1:] += 1

    def read(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return tokens(start, stop), np.searchsorted(starts, np.arange(start, stop), "right")

    return repeats.Side(len(ids), read)


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """The folder given, else `$CUTAWAY_CACHE`, else `~/.cache/cutaway`."""
    return Path(cache or os.environ.get("CUTAWAY_CACHE") or Path.home() / ".cache" / "cutaway")


def _opened(folder: Path, key: str) -> TokenFiles | None:
    """The files in `folder`, or None where they are missing or damaged."""
    try:
        manifest = read_json(folder / "manifest.json")
        if manifest["format"] != FORMAT or manifest["fingerprint"] != key:
            return None
        dtype = np.dtype(manifest["dtype"])
        arrays = {}
        for side in _SIDES:
            path, count = folder / f"{side}.bin", manifest[side]["tokens"]
            if path.stat().st_size != count * dtype.itemsize:
                return None
            arrays[side] = np.memmap(path, dtype, mode="r", shape=(count,))
        tokenizer = Tokenizer.load(folder)
        if tokenizer.sha256() != manifest["tokenizer"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
    return TokenFiles(
        folder=folder,
        tokenizer=tokenizer,
        **arrays,
        train_bytes=manifest["train"]["bytes"],
        validation_bytes=manifest["validation"]["bytes"],
        train_documents=manifest["train"]["documents"],
        validation_documents=manifest["validation"]["documents"],
        fingerprint=key,
        notices=manifest["notices"],
    )


def _build(
    folder: Path,
    key: str,
    source: Source,
    tokenizer: Tokenizer | None,
    vocab_size: int | None,
    fraction: float,
) -> None:
    """Split, train a tokenizer unless one is given, encode, and put the folder in its place."""
    split = plan(source, fraction)
    notices = list(split.notices)
    if tokenizer is None:
        tokenizer = _trained(source, split, vocab_size or 0, notices)
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        counts = _encode(source, split, tokenizer, temporary)
        empty = [side for side in _SIDES if not counts[side]["tokens"]]
        if empty:
            raise UserError(
                f"{source.name}: no document fell to {empty[0]} with "
                f"validation_fraction = {fraction:g}; choose another"
            )
        notices += _share_notice(source, counts, split)
        tokenizer.save(temporary)
        manifest = {
            "format": FORMAT,
            "fingerprint": key,
            "source": source.name,
            "tokenizer": tokenizer.sha256(),
            "dtype": token_dtype(tokenizer.vocab_size).str,
            **counts,
            "notices": notices,
        }
        write_json(temporary / "manifest.json", manifest)
        flush_to_disk(temporary)
        os.rename(temporary, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for message in notices:
        notice(message)


def _trained(source: Source, split: Split, vocab_size: int, notices: list[str]) -> Tokenizer:
    """A tokenizer trained on the training documents, or on a sample of them that has `SAMPLE` bytes.

    The sample is a random one of passages where the corpus's size is known, so that all of it is
    seen; else it is the beginning. It is announced.
    """
    size = (source.size() or 0) * (1 - split.fraction)
    keep = min(1.0, SAMPLE / size) if size else 1.0
    seen = 0

    def texts() -> Iterator[str]:
        nonlocal seen
        with progress("training a tokenizer", min(size, SAMPLE) or None, "characters") as bar:
            for passage in _training_passages(source, split):
                if share(passage.id, "tokenizer") < keep:
                    yield passage.text
                    seen += len(passage.text)
                    bar.update(seen)
                    if seen >= SAMPLE:
                        return

    tokenizer = tokenizers.train(texts(), vocab_size)
    if keep < 1 or seen >= SAMPLE:
        how = "a random sample" if keep < 1 else "the first"
        notices.append(
            f"{source.name}: the tokenizer was trained on {how} of {human_bytes(seen)} of its text"
        )
    return tokenizer


def _training_passages(source: Source, split: Split) -> Iterator[Document]:
    for document in source.documents():
        for validation, part in split.sides(document):
            if not validation:
                for index, text in enumerate(cut(part.text, tokenizers.TRAINING_PASSAGE)):
                    yield Document(f"{part.id}\0{index}", text)


def _encode(
    source: Source, split: Split, tokenizer: Tokenizer, folder: Path
) -> dict[str, dict[str, int]]:
    """Write the two files in one reading; returns tokens, bytes and documents of each side."""
    counts = {side: {"tokens": 0, "bytes": 0, "documents": 0} for side in _SIDES}

    def texts(bar: Progress) -> Iterator[tuple[str, str]]:
        for document in source.documents():
            for validation, part in split.sides(document):
                side = _SIDES[validation]
                size = len(part.text.encode())
                counts[side]["bytes"] += size
                counts[side]["documents"] += 1
                yield side, part.text
                bar.advance(size)

    with ExitStack() as stack:
        bar = stack.enter_context(progress("tokenizing", source.size(), "bytes"))
        files = {side: stack.enter_context(open(folder / f"{side}.bin", "wb")) for side in _SIDES}
        for side, ids in encoded(texts(bar), tokenizer):
            files[side].write(ids.data)
            counts[side]["tokens"] += len(ids)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    return counts


def _share_notice(source: Source, counts: dict[str, dict[str, int]], split: Split) -> list[str]:
    """What to say where a few large documents made the hash's split uneven."""
    held = counts["validation"]["bytes"]
    reached = held / (held + counts["train"]["bytes"])
    if split.chosen is not None or split.cut or split.fraction / 2 < reached < split.fraction * 2:
        return []
    return [
        f"{source.name}: validation holds {reached:.1%} of the text where "
        f"validation_fraction = {split.fraction:g}: a few documents are much larger than the others"
    ]
