"""Conversations as probes read them: their tokens, document by document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from cutaway.base.columns import column, require_lengths
from cutaway.base.errors import UserError
from cutaway.probes.data.first_tokens import first_tokens
from cutaway.text.conversations import Chosen, conversations, replying
from cutaway.text.reading import Reading
from cutaway.text.tokenizers import Tokenizer


def tokens_of_conversations(
    said: str | Iterable[str], tokenizer: Tokenizer, reading: Reading, tokens: int
) -> tuple[Tensor, tuple[int, ...]]:
    """The first `tokens` tokens of some conversations, and where each begins among them.

    `said` is the name of a file or folder of conversations, or texts, each of which a user says and
    the model is about to reply to. UserError where there is no token, and where the tokenizer has
    another chat template than `reading`.
    """
    return first_tokens(_each(said, tokenizer, reading), tokens)


def is_conversations(texts: Any) -> bool:
    """Whether these are lists of objects, as conversations are, rather than texts or lists of words."""
    if not isinstance(texts, list | tuple) or not texts:
        return False
    first = texts[0]
    return isinstance(first, list | tuple) and bool(first) and isinstance(first[0], Mapping)


def of_columns(
    texts: Any, labels: Any, groups: Any, split: Any, chosen: Chosen
) -> tuple[list[str], list[Any], list[Any] | None, list[Any] | None]:
    """Conversations as the texts that `chosen` writes, with their labels, groups and parts; those that
    cannot be read are left out of all four, counted in a notice.

    UserError for other than a list of conversations with a label each.
    """
    if not is_conversations(texts):
        raise UserError(
            "texts: expected with chat a file of conversations, or a list of them, each a list of "
            "objects with role and content"
        )
    given = {"labels": labels, "groups": groups, "split": split}
    for name, one in given.items():
        if isinstance(one, str):
            raise UserError(f"{name} = {one!r}: expected one for each conversation")
    if labels is None:
        raise UserError("labels: expected one for each conversation")
    columns = {name: None if one is None else column(one, name) for name, one in given.items()}
    lengths = {name: len(one) for name, one in columns.items() if one is not None}
    require_lengths(chosen.name, {"conversations": len(texts), **lengths})
    said = [
        chosen.text(f"{chosen.name}: position {row}", {"messages": one})
        for row, one in enumerate(texts)
    ]
    chosen.tell()
    kept = [row for row, text in enumerate(said) if text is not None]
    labels, groups, split = (
        None if one is None else [one[row] for row in kept] for one in columns.values()
    )
    return [text for text in said if text is not None], labels or [], groups, split


def _each(
    said: str | Iterable[str], tokenizer: Tokenizer, reading: Reading
) -> Iterator[Sequence[int]]:
    if isinstance(said, str):
        for one in conversations(said, tokenizer, reading).encoded(tokenizer):
            yield one.ids.tolist()
        return
    for text in said:
        yield replying(text, tokenizer, reading)[len(reading.prefix) :]
