"""Conversations as probes read them: their tokens, document by document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from cutaway.probes.reading import first_tokens
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
    return first_tokens(_each(said, tokenizer, reading), tokens)


def _each(
    said: str | Iterable[str], tokenizer: Tokenizer, reading: Reading
) -> Iterator[Sequence[int]]:
    if isinstance(said, str):
        for one in conversations(said, tokenizer, reading).encoded(tokenizer):
            yield one.ids.tolist()
        return
    for text in said:
        yield replying(text, tokenizer, reading)[len(reading.prefix) :]
