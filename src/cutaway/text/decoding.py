"""Reading text files of unknown encoding: what it is, and its text as a stream.

A byte order mark decides; else the whole file is UTF-8, broken places of which are read as U+FFFD
where its whole letters are as many or more (`utf8.py`); else it is cp1252, or latin-1 where bytes occur
that cp1252 leaves undefined. Control bytes mean it is not text: refused.
Gzip is unpacked on the way. Memory stays at a chunk, whatever the file's size.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, AnyStr, BinaryIO, TextIO

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.files import human_bytes, open_regular
from cutaway.text.utf8 import Utf8

LONGEST_LINE = 1 << 25  # characters of a row in a table of text
LARGEST_WHOLE = 1_000_000_000  # bytes of what is read at once: an array of JSON, Parquet in gzip
REPLACING = ":replace"  # behind an encoding: what is broken in it is read as U+FFFD
_CHUNK = 1 << 20
_BEGINNING = 1 << 14  # bytes
_MARKS = (  # the longer ones first: UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Everything below a space but tab, line ends, form feed, Ctrl-Z (DOS's end of file) and escape.
_CONTROL = bytes(code for code in range(32) if chr(code) not in "\t\n\v\f\r\x1a\x1b")
_UNDEFINED_IN_CP1252 = b"\x81\x8d\x8f\x90\x9d"


def examined(path: Path) -> tuple[str, str]:
    """The file's encoding, after reading all of it, and how its text begins (some thousand letters).

    The encoding is `utf-8`, `utf-8-sig`, `utf-16`, `utf-32`, `cp1252` or `latin-1`, with `:replace`
    behind it for UTF-8 with broken places (`utf8.Utf8.mostly`). What is not clean UTF-8 is
    announced. Raises UserError for a binary, unreadable or damaged file.
    """
    with opened_bytes(path) as stream:
        chunk = stream.read(_CHUNK)
        beginning = chunk[:_BEGINNING]
        marked = next((name for mark, name in _MARKS if chunk.startswith(mark)), None)
        wide = marked is not None and "8" not in marked
        decoder = codecs.getincrementaldecoder(marked or "utf-8")("strict")
        utf8, in_cp1252, offset = Utf8(), True, 0
        while True:
            seen = chunk
            if wide:
                try:
                    text = decoder.decode(chunk, final=not chunk)
                except UnicodeDecodeError as error:
                    raise UserError(f"{path}: begins as {marked}, but {error.reason}") from None
                # In wide encodings zero bytes are part of ordinary letters.
                seen = text.encode("utf-8", "replace")
            else:
                utf8.feed(chunk, final=not chunk)
            _refuse_control_bytes(path, seen, offset)
            if not chunk.isascii():
                in_cp1252 = in_cp1252 and not _any_of(_UNDEFINED_IN_CP1252, chunk)
            if not chunk:
                break
            offset += len(chunk)
            chunk = stream.read(_CHUNK)
    utf8.letters -= marked is not None and not wide  # the mark itself
    if marked and not utf8.mostly:
        raise UserError(f"{path}: begins as {marked}, but {utf8.described()}")
    encoding = marked or ("utf-8" if utf8.mostly else "cp1252" if in_cp1252 else "latin-1")
    if encoding in ("cp1252", "latin-1"):
        notice(f"{path}: not UTF-8, read as {encoding}")
    elif utf8.broken and not wide:
        notice(f"{path}: {utf8.described()}; read as U+FFFD")
        encoding += REPLACING
    return encoding, beginning.decode(_codec(encoding)[0], "replace")


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[TextIO]:
    """The file as a text stream with every line end as `\\n`."""
    with opened_bytes(path) as stream:
        codec, errors = _codec(encoding)
        yield io.TextIOWrapper(stream, encoding=codec, errors=errors, newline=None)


def whole(stream: IO[AnyStr], path: Path) -> AnyStr:
    """All of a stream that has to be in memory at once. UserError for one that is too large for it."""
    content = stream.read(LARGEST_WHOLE + 1)
    if len(content) > LARGEST_WHOLE:
        raise UserError(
            f"{path}: more than {human_bytes(LARGEST_WHOLE)} unpacked, which would all be in memory; "
            "unpack it, or write it as JSON lines"
        )
    return content


def lines(stream: TextIO, path: Path) -> Iterator[str]:
    """The lines of a stream of rows; UserError for one that no memory should be given to."""
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise UserError(
                f"{path}: line {number} has more than {LONGEST_LINE:,} characters; "
                "expected a row on each line: split its text into several"
            )
        yield line


def small_text(path: Path, encoding: str, limit: int) -> str | None:
    """The whole text of a file of at most `limit` bytes, line ends as `\\n`; None of a larger one.

    Cheaper than a text stream, which tells in a folder of many small files.
    """
    with opened_bytes(path) as stream:
        content = stream.read(limit + 1)
        return None if len(content) > limit else normal_newlines(content.decode(*_codec(encoding)))


def pieces(stream: TextIO, size: int, *, whole: int) -> Iterator[str]:
    """The stream's text in pieces that add up to it: one if it has under `whole` characters,
    else as many as it takes, of at most `size`.

    A cut comes after the last empty line that fits, else after the last line end, else after the
    last space, else anywhere.
    """
    rest = stream.read(whole)
    if len(rest) < whole:
        yield rest
        return
    while rest:
        while len(rest) <= size and (more := stream.read(size)):
            rest += more
        cut = len(rest) if len(rest) <= size else _cut(rest, size)
        yield rest[:cut]
        rest = rest[cut:]


def _cut(text: str, size: int) -> int:
    for mark in ("\n\n", "\n", " "):
        # A mark near the beginning only would make pieces of a few characters.
        if (at := text.rfind(mark, size // 4, size)) >= 0:
            return at + len(mark)
    return size


def normal_newlines(text: str) -> str:
    """`text` with `\\r\\n` and `\\r` as `\\n`."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


@contextmanager
def opened_bytes(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked where gzipped; whatever fails is a UserError naming the file."""
    try:
        with open_regular(path) as file:
            if path.suffix.lower() == ".gz":
                with gzip.open(file) as unpacked:
                    yield unpacked
            else:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: broken gzip file: {error}") from None
    except UnicodeError as error:  # changed since its encoding was found
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _codec(encoding: str) -> tuple[str, str]:
    """Python's names of an encoding and of what is done with bytes that are broken in it."""
    codec, _, errors = encoding.partition(":")
    return codec, errors or "strict"


def _any_of(which: bytes, chunk: bytes) -> bool:
    return len(chunk.translate(None, which)) != len(chunk)


def _refuse_control_bytes(path: Path, chunk: bytes, offset: int) -> None:
    if _any_of(_CONTROL, chunk):
        at = next(index for index, byte in enumerate(chunk) if byte in _CONTROL)
        sides = [chunk[side:_BEGINNING:2].count(0) for side in (0, 1)]
        wide = min(sides) == 0 == offset and max(sides) > len(chunk[:_BEGINNING]) / 4
        hint = "; if it is UTF-16 without a byte order mark, convert it to UTF-8" if wide else ""
        raise UserError(
            f"{path}: a binary file, not text (byte 0x{chunk[at]:02x} at offset {offset + at}){hint}"
        )
