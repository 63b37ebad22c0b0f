"""Cutting long texts where a byte-level tokenizer would cut them anyway.

GPT-2's pretokenizer `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`
never matches across a step from a character that is not white space to one that is: white space
begins a match or stands in a run of its own, nothing looks back, and the only look ahead,
`\\s+(?!\\S)`, belongs to runs of white space. Tokens don't cross pretokens, so the tokens of the
parts, one after the other, are the tokens of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Python counts four separators (U+001C to U+001F) as white space that Unicode doesn't; \S is
# therefore the safe side, and the blank or line end is white space for everyone.
_STEP = re.compile(r"(?<=\S)[ \n]")


def cut(text: str, size: int) -> Iterator[str]:
    """`text` in parts of at least `size` characters that add up to it, each but the first
    beginning with white space after something else; a text without such places stays longer.
    """
    start = 0
    while len(text) - start > size + size // 2:
        step = _STEP.search(text, start + size)
        if step is None:
            break
        yield text[start : step.start()]
        start = step.start()
    yield text[start:]
