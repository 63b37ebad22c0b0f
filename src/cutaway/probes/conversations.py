"""Conversations as probes read them: their tokens, document by document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.text.conversations import conversations, replying
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
    ids: list[int] = []
    starts: list[int] = []
    for one in _each(said, tokenizer, reading):
        if len(ids) >= tokens:
            break
        if len(one):
            starts.append(len(ids))
            ids += one[: tokens - len(ids)]
    if not ids:
        raise UserError("text: not one token in it")
    return torch.tensor(ids), tuple(starts)


def _each(
    said: str | Iterable[str], tokenizer: Tokenizer, reading: Reading
) -> Iterator[Sequence[int]]:
    if isinstance(said, str):
        for one in conversations(said, tokenizer, reading).encoded(tokenizer):
            yield one.ids.tolist()
        return
    for text in said:
        yield replying(text, tokenizer, reading)[len(reading.prefix) :]
