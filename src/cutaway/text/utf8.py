"""Whether bytes are UTF-8, UTF-8 with a few broken places, or something else.

A file that was cut in the middle of a letter, or damaged in one byte, is UTF-8 all the same: read in
another encoding every letter of it beyond ASCII would be wrong. Broken places of real UTF-8 are rare
beside its whole letters; in other encodings whole letters of UTF-8 come about by chance only.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

_ENOUGH = 1000  # broken places after which the rule may decide before the end
_KEPT = 3  # broken places that are named
_LEADING = bytes(range(0xC2, 0xF5))  # the first bytes of letters beyond ASCII


@dataclass
class Utf8:
    """What bytes that were fed in order look like as UTF-8.

    `letters`: whole letters beyond ASCII. `broken`: places that are no UTF-8, each of which is read
    as one U+FFFD; `places` are the first of them, as (line from 1, byte from 0). `given_up`: there
    were so many that the rest was not looked at.
    """

    letters: int = 0
    broken: int = 0
    places: list[tuple[int, int]] = field(default_factory=list)
    given_up: bool = False
    _rest: bytes = b""
    _offset: int = 0
    _lines: int = 0
    _cut: bool = False

    def feed(self, chunk: bytes, *, final: bool = False) -> None:
        """The next bytes; `final` where none follow."""
        if self.given_up or (chunk.isascii() and not self._rest):
            self._lines += chunk.count(b"\n")
            self._offset += len(chunk)
            return
        data, at = self._rest + chunk, 0
        while at < len(data):
            try:
                _, used = codecs.utf_8_decode(memoryview(data)[at:], "strict", final)
                self._whole(data[at : at + used])
                at += used
                break
            except UnicodeDecodeError as error:
                self._whole(data[at : at + error.start])
                self.broken += 1
                if len(self.places) < _KEPT:
                    self.places.append((self._lines + 1, self._offset))
                self._cut = final and at + error.end == len(data) and error.end - error.start > 1
                self._lines += data.count(b"\n", at + error.start, at + error.end)
                self._offset += error.end - error.start
                at += error.end
                if self.broken >= _ENOUGH and not self.mostly:
                    self.given_up = True
                    return
        self._rest = data[at:]

    @property
    def mostly(self) -> bool:
        """Whether the bytes so far are to be read as UTF-8, broken places as U+FFFD.

        So where whole letters beyond ASCII are as many as broken places or more, and where all that is
        broken is a last letter that was cut off after two bytes or more. In other encodings neither
        comes about but by a rare chance: a capital with an accent, say, and a quotation mark after it.
        """
        return self.letters >= self.broken or (self._cut and self.broken == 1)

    def described(self) -> str:
        """What is broken and where, for a notice."""
        line, byte = self.places[0]
        more = f", the first in line {line:,} at byte {byte:,}"
        if self.broken == 1:
            more = f" (line {line:,}, byte {byte:,})"
        count = "1 place is" if self.broken == 1 else f"{self.broken:,} places are"
        return f"{count} broken UTF-8{more}"

    def _whole(self, piece: bytes) -> None:
        """Count the letters and lines of bytes that are UTF-8."""
        if not piece.isascii():
            self.letters += len(piece) - len(piece.translate(None, _LEADING))
        self._lines += piece.count(b"\n")
        self._offset += len(piece)
