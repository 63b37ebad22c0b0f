"""Conversations as a chat model was trained to read them: its template, and where the replies are.

A template is a program that came with a model. It is run by transformers, in jinja's sandbox and
on plain data only. Its special tokens are read as such; those in what people wrote would forge the
border of a message, so that a conversation that holds one is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base import files
from cutaway.base.errors import UserError

if TYPE_CHECKING:
    from cutaway.text.tokenizers import Tokenizer

COLUMNS = ("messages", "conversations", "conversation")
ROLE, REPLY = "role", "assistant"
CHAT_FILE = "chat_template.jinja"
_LONGEST = 10_000_000  # characters of one conversation that a template may make
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


@dataclass(frozen=True)
class ChatTemplate:
    """A model's template, and the special tokens it writes by name (`bos_token`, ...)."""

    source: str
    tokens: Mapping[str, str]

    @cached_property
    def sha256(self) -> str:
        """Of the template and its tokens: equal for templates that write alike."""
        named = "\n".join(f"{name} {text}" for name, text in sorted(self.tokens.items()))
        return hashlib.sha256(f"{named}\n{self.source}".encode()).hexdigest()

    def written(self, messages: Sequence[Mapping[str, str]], *, prompt: bool = False) -> str:
        """A conversation as text; with `prompt` ending where the model's reply begins.

        Raises UserError where the template refuses it.
        """
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            (text,), _ = render_jinja_template(
                conversations=[[dict(one) for one in messages]],
                chat_template=self.source,
                add_generation_prompt=prompt,
                **self.tokens,
            )
        except (TemplateError, TypeError, ValueError, KeyError, ArithmeticError) as error:
            said = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"the model's chat template refuses a conversation: {said}") from None
        if len(text) > _LONGEST:
            raise UserError(f"the model's chat template writes {len(text):,} characters")
        return text

    def replies(self, text: str, messages: Sequence[Mapping[str, str]]) -> list[tuple[int, int]]:
        """Where each reply stands in the conversation's text: (begin, end) in characters.

        Templates trim what they write, and write messages in their order. UserError where a reply
        is not found.
        """
        at, found = 0, []
        for number, message in enumerate(messages):
            content = message["content"].strip()
            begin = text.find(content, at)
            if begin < 0:
                if message[ROLE] != REPLY:
                    continue  # some templates leave the system's message out
                raise UserError(
                    f"message {number + 1}: the chat template does not write this reply"
                )
            at = begin + len(content)
            if message[ROLE] == REPLY and content:
                found.append((begin, at))
        return found


@dataclass(frozen=True)
class Conversation:
    """A conversation's token ids and which of them are of replies, both (T,)."""

    ids: np.ndarray
    replies: np.ndarray


def template_in(folder: Path, config: Mapping[str, Any]) -> ChatTemplate | None:
    """The chat template of a tokenizer's folder: `chat_template.jinja`, or what tokenizer_config.json
    holds; of several named ones `default`. None where there is none."""
    source = config.get("chat_template")
    if (folder / CHAT_FILE).is_file():
        source = files.read_text(folder / CHAT_FILE)
    if isinstance(source, list):
        named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        source = named.get("default")
    if not isinstance(source, str) or not source.strip():
        return None
    kept = config.get("special_tokens_of_chat")  # as `Tokenizer.save` writes them
    tokens = dict(kept) if isinstance(kept, dict) else {}
    for name in () if tokens else _NAMES:
        value = config.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            tokens[name] = value
    return ChatTemplate(source, tokens)


def messages_of(row: Mapping[str, Any], where: str, column: str | None) -> list[dict[str, str]]:
    """The messages of a row: `[{"role": ..., "content": ...}, ...]` in `column`, else in one of
    `COLUMNS`. A content may be a list of `{"type": "text", "text": ...}`. UserError for others."""
    names = COLUMNS if column is None else (column,)
    given = next((row[name] for name in names if row.get(name) is not None), None)
    if given is None:
        raise UserError(f"{where}: no conversation; expected {' or '.join(names)}")
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise UserError(f"{where}: expected a list of messages, got {_short(given)}")
    return [_message(one, f"{where}, message {n + 1}") for n, one in enumerate(given)]


def _message(given: Any, where: str) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: expected an object with role and content, got {_short(given)}")
    content = given.get("content")
    if isinstance(content, list) and all(
        isinstance(one, Mapping) and isinstance(one.get("text"), str) for one in content
    ):
        content = "".join(one["text"] for one in content)
    role = given.get(ROLE)
    if not isinstance(role, str) or not isinstance(content, str):
        raise UserError(f"{where}: expected an object with role and content, got {_short(given)}")
    return {ROLE: role, "content": content}


def encoded(
    conversations: Iterable[Sequence[Mapping[str, str]]],
    template: ChatTemplate,
    tokenizer: Tokenizer,
) -> Iterator[Conversation | None]:
    """Each conversation's ids, as transformers' `apply_chat_template` gives them, without the special
    tokens that the tokenizer puts before every text; None for one that holds a special token's text.
    """
    special = tokenizer.special_texts
    front = len(tokenizer.special[0])
    for messages in conversations:
        if any(token in one["content"] for one in messages for token in special):
            yield None
            continue
        text = template.written(messages)
        ids, offsets = tokenizer.encode_marked(text)
        replies = np.zeros(len(ids), dtype=bool)
        for begin, end in template.replies(text, messages):
            replies |= (offsets[:, 0] < end) & (offsets[:, 1] > begin)
        if front and tuple(ids[:front].tolist()) == tokenizer.special[0]:
            ids, replies = ids[front:], replies[front:]
        yield Conversation(ids, replies)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
