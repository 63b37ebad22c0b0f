"""Words without an end: a line of DNA, of base64, of minified code. They are read in pieces.

The work of byte-level BPE grows with the square of a pretoken's length. So a run of one kind of
character (letters, numbers, white space, others) is cut after every 512 characters before it is
encoded or learnt from; prose of any language has no such runs, so its tokens stay what they were.
Saved tokenizers say so themselves (a `Split` before their own pretokenizer in tokenizer.json), so
that other libraries give the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import tokenizers

LONGEST = 512  # characters of one kind in a piece
_LONGEST_MIXED = 4096  # characters without white space, where kinds are not kept apart
_CLASSES = (r"\p{L}", r"\p{N}", r"[^\s\p{L}\p{N}]", r"\s")
_ONE_KIND = "|".join(f"{one}{{{LONGEST}}}" for one in _CLASSES)
_MIXED = f"{_ONE_KIND}|[^\\s▁]{{{_LONGEST_MIXED}}}"  # ▁ is SentencePiece's white space
# Where the tokenizer's own pretokenizer puts a space before every piece it gets, pieces are cut
# after it; white space is by then written in letters of the byte alphabet or as ▁.
_AFTER = f"[^\\sĠĊĉč▁]{{{_LONGEST_MIXED}}}|[\\sĠĊĉč▁]{{{_LONGEST_MIXED}}}"
_SEPARATORS = "\x1c\x1d\x1e\x1f"  # white space for Python and not for tokenizers


def bounded(definition: str) -> str | None:
    """A tokenizer's definition with long runs cut first; None where it is no BPE.

    Other models do not slow down (WordPiece gives up on words of more than a hundred characters).
    """
    spec = json.loads(definition)
    if (spec.get("model") or {}).get("type") != "BPE":
        return None
    own = spec["pre_tokenizer"]
    parts = [] if own is None else _sequence(own)
    if any(map(_adds_a_space, parts)):
        parts = [*parts, _split(_AFTER)]
    else:
        parts = [_split(_ONE_KIND if _keeps_kinds_apart(own) else _MIXED), *parts]
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    return json.dumps(spec, ensure_ascii=False)


def unbounded(definition: str) -> str:
    """A definition without what `bounded` adds; as it is where it has none."""
    spec = json.loads(definition)
    pre = spec.get("pre_tokenizer") or {}
    parts = pre.get("pretokenizers") or []
    if pre.get("type") != "Sequence" or not parts:
        return definition
    if parts[0] in map(_split, _PATTERNS):
        rest = parts[1:]
    elif parts[-1] == _split(_AFTER):
        rest = parts[:-1]
    else:
        return definition
    spec["pre_tokenizer"] = (
        None if not rest else rest[0] if len(rest) == 1 else {**pre, "pretokenizers": rest}
    )
    return json.dumps(spec, ensure_ascii=False)


def may_hold_one(text: str) -> bool:
    """Whether a text may have a run that is cut: never wrongly no, and in no time for prose.

    A run of 512 characters covers a whole block of 256, which then has white space nowhere or
    nothing else.
    """
    half = LONGEST // 2
    if any(one in text for one in _SEPARATORS):
        text = text.translate(dict.fromkeys(map(ord, _SEPARATORS), "!"))
    return any(
        len(text[start : start + half].split(None, 1)) < 2
        for start in range(0, len(text) - half + 1, half)
    )


def pieces(text: str) -> Iterator[str]:
    """A text cut as the tokenizers trained here cut it; whole where it has no long run."""
    if not may_hold_one(text):
        yield text
        return
    for piece, _ in _splitter(_ONE_KIND).pre_tokenize_str(text):
        yield piece


def count(text: str) -> int:
    """How many pieces of the full length are cut from a text."""
    if not may_hold_one(text):
        return 0
    found = _splitter(_MIXED).pre_tokenize_str(text)
    return sum(len(piece) in (LONGEST, _LONGEST_MIXED) for piece, _ in found)


def told(pieces: int) -> str:
    """What a user is told of texts that were cut."""
    return (
        f"words of more than {LONGEST} characters (DNA, base64, minified code?) were read in "
        f"{pieces:,} pieces of that length"
    )


_PATTERNS = (_ONE_KIND, _MIXED)


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def _splitter(pattern: str) -> tokenizers.pre_tokenizers.PreTokenizer:
    return tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


def _sequence(pre: dict[str, Any]) -> list[dict[str, Any]]:
    return list(pre["pretokenizers"]) if pre["type"] == "Sequence" else [pre]


def _adds_a_space(part: dict[str, Any]) -> bool:
    """Whether a pretokenizer puts a space before each piece that it gets, wherever it stands."""
    if part["type"] == "Metaspace":
        return part.get("prepend_scheme", "always") == "always" and part.get(
            "add_prefix_space", True
        )
    return part["type"] == "ByteLevel" and part["add_prefix_space"]


def _keeps_kinds_apart(pre: dict[str, Any] | None) -> bool:
    """Whether no pretoken holds letters beside other characters, as GPT-2's does."""
    return pre is not None and pre["type"] == "ByteLevel" and pre.get("use_regex", True)
