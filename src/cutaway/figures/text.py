"""Words on pictures: whitespace made visible, characters without a glyph spelled out, lines fitted.

Tokens are not polite text: they are spaces, newlines, halves of characters, `$`, `_`. A label must
show each of them as it is, must not start mathematics, and must not draw empty boxes.
"""

from __future__ import annotations

import bisect
import re
import unicodedata
from functools import lru_cache

from cutaway.figures import look

_MARKS = {"\n": "⏎", "\t": "⇥", "\r": "\\r"}
_OPAQUE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}  # controls, formats, other spaces


def visible(text: str) -> str:
    """`text` with whitespace and controls readable: `' a\\n'` → `'␣a⏎'`.

    Spaces are marked where an eye would miss them: leading, trailing, and two or more in a row.
    Other invisible characters become their code point, `⟨U+00A0⟩`; nothing at all is `(empty)`.
    """
    if not text:
        return "(empty)"
    text = re.sub(r"^ +| +$| {2,}", lambda found: "␣" * len(found.group()), text)
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character == " " or character in _MARKS:
        return _MARKS.get(character, character)
    return _spelled(character) if unicodedata.category(character) in _OPAQUE else character


def _spelled(characters: str) -> str:
    return "⟨" + " ".join(f"U+{ord(character):04X}" for character in characters) + "⟩"


def label(text: str, room: float | None = None, size: float = 7.0, lines: int = 1) -> str:
    """`text` as a matplotlib label: visible, without mathematics, each character drawable.

    Characters that no installed font can draw become code points: `你好` → `⟨U+4F60 U+597D⟩`. With
    `room` in points the label is broken and shortened to fit, see `fitted`.
    """
    text = visible(text)
    missing = sorted(set(text) - _drawable())
    if missing:
        runs = re.compile("[" + "".join(map(re.escape, missing)) + "]+")
        text = runs.sub(lambda found: _spelled(found.group()), text)
    if room is not None:
        text = fitted(text, room, size, lines)
    return text.replace("$", r"\$")


@lru_cache
def _drawable() -> frozenset[str]:
    from matplotlib import font_manager, ft2font

    codes: set[int] = set()
    for family in look.fonts():
        codes |= ft2font.FT2Font(font_manager.findfont(family)).get_charmap().keys()
    return frozenset(map(chr, codes))


@lru_cache(maxsize=4096)
def width(text: str, size: float) -> float:
    """How wide a label is, in points, set in `size` points (a label may hold `\\$`)."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    with look.styled():
        renderer = RendererAgg(10, 10, 72)
        font = FontProperties(size=size)
        lines = text.replace(r"\$", "$").split("\n")
        return max(renderer.get_text_width_height_descent(line, font, False)[0] for line in lines)


def fitted(text: str, points: float, size: float, lines: int = 1) -> str:
    """Text broken into at most `lines` lines of `points` width, its middle cut out if needed.

    Breaks after spaces and after `-`, `_`, `/`, `.`, `,` as run names have them. The middle goes
    because long names of runs tend to differ at their ends.
    """
    pieces = [piece for piece in re.split(r"(?<=[\s\-_/.,])", text) if piece]
    if whole := _within(_broken(pieces, points, size), points, size, lines):
        return whole

    def shortened(keep: int) -> str | None:
        rest = text[: (keep + 1) // 2] + "…" + text[len(text) - keep // 2 :]
        return _within(_broken(list(rest), points, size), points, size, lines)

    keep = bisect.bisect_left(range(1, len(text)), True, key=lambda kept: shortened(kept) is None)
    return shortened(keep) or "…"


def _within(broken: list[str], points: float, size: float, lines: int) -> str | None:
    fits = len(broken) <= lines and all(width(line, size) <= points for line in broken)
    return "\n".join(broken) if fits else None


def _broken(pieces: list[str], points: float, size: float) -> list[str]:
    """Pieces packed greedily into lines."""
    lines = [""]
    for piece in pieces:
        if lines[-1] and width((lines[-1] + piece).rstrip(), size) > points:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]
