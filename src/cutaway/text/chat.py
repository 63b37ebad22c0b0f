"""Conversations as a chat model was trained to read them: its template, and where the replies are.

Special tokens of a template are read as such; those in what people wrote would forge the border of
a message, so that a conversation that holds one is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cutaway.base import files
from cutaway.base.errors import UserError

COLUMNS = ("messages", "conversations", "conversation")
ROLE, CONTENT, REPLY = "role", "content", "assistant"
CHAT_FILE = "chat_template.jinja"
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
# how ShareGPT's files name the roles of a message
_FROM = {"human": "user", "user": "user", "gpt": REPLY, REPLY: REPLY, "system": "system"}
_TRIMS = (lambda text: text, str.strip, str.lstrip, str.rstrip)

Message = Mapping[str, Any]


class NoText(UserError):
    """A conversation that is none of text: without a message, or with an image."""


class Unwritten(UserError):
    """A conversation one of whose replies the template does not write as it stands."""


@dataclass(frozen=True)
class ChatTemplate:
    """A model's template, and the special tokens it writes by name (`bos_token`, ...).

    `day` (ISO) is the date it writes, where it writes one (None: today's); no part of its hash.
    """

    source: str
    tokens: Mapping[str, str]
    day: str | None = field(default=None, compare=False)

    @cached_property
    def sha256(self) -> str:
        """Of the template and its tokens: equal for templates that write alike."""
        named = "\n".join(f"{name} {text}" for name, text in sorted(self.tokens.items()))
        return hashlib.sha256(f"{named}\n{self.source}".encode()).hexdigest()

    @property
    def today(self) -> str | None:
        """The date to record beside the template; None where it writes none."""
        return date.today().isoformat() if "strftime_now" in self.source else None

    def dated(self, day: str | None) -> ChatTemplate:
        """The same, writing the date of that day."""
        return replace(self, day=day)

    def written(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """A conversation as text; with `prompt` ending where the model's reply begins.

        Raises Refusal where the template refuses it, UserError as `chat_rendering.rendered`.
        """
        from cutaway.text.chat_rendering import rendered

        values = {
            "messages": [dict(one) for one in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": prompt,
            **self.tokens,
        }
        return rendered(self.source, values, self.day)

    def replies(self, text: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """Where each reply stands in the conversation's text: (begin, end) in characters.

        The conversation is written again with marks in the place of the contents. Empty replies
        stand nowhere. Raises Unwritten where a reply cannot be found.
        """
        contents = [one[CONTENT] or "" for one in messages]
        marks = _marks(contents)
        roles = tuple(one[ROLE] for one in messages)
        pieces = self._between(roles, messages, marks)
        if pieces is not None:
            for trim in _TRIMS:
                if (found := _filled(text, pieces, [trim(one) for one in contents])) is not None:
                    return [
                        found[n]
                        for n, role in enumerate(roles)
                        if role == REPLY and found[n][0] < found[n][1]
                    ]
        wanted = [n for n, role in enumerate(roles) if role == REPLY and contents[n].strip()]
        return [self._one_reply(text, messages, n, marks[n]) for n in wanted]

    def _between(
        self, roles: tuple[str, ...], messages: Sequence[Message], marks: Sequence[str]
    ) -> list[str] | None:
        """What the template writes around the contents; None where it does not write each once."""
        plain = all(one.keys() == {ROLE, CONTENT} for one in messages)
        if plain and roles in self._known:
            return self._known[roles]
        try:
            rest = self.written([_with(one, mark) for one, mark in zip(messages, marks)])
        except UserError:
            return None
        pieces: list[str] | None = []
        for mark in marks:
            front, found, rest = rest.partition(mark)
            if not found or mark in rest:
                pieces = None
                break
            pieces.append(front)
        pieces = pieces and [*pieces, rest]
        if plain:
            self._known[roles] = pieces
        return pieces

    @cached_property
    def _known(self) -> dict[tuple[str, ...], list[str] | None]:
        return {}

    def _one_reply(
        self, text: str, messages: Sequence[Message], number: int, mark: str
    ) -> tuple[int, int]:
        """Where message `number` stands, by writing the conversation with a mark in its place."""
        changed = [_with(one, mark) if n == number else one for n, one in enumerate(messages)]
        front, found, back = self.written(changed).partition(mark)
        begin, end = len(front), len(text) - len(back)
        fits = text.startswith(front) and text.endswith(back) and begin <= end
        if not found or mark in back or not fits:
            raise Unwritten(
                f"message {number + 1}: the chat template does not write this reply as it stands"
            )
        return begin, end


@dataclass(frozen=True)
class Conversation:
    """A conversation's token ids and which of them are of replies, both (T,)."""

    ids: np.ndarray
    replies: np.ndarray

    @property
    def last_reply(self) -> tuple[int, int] | None:
        """The first and the last token (inclusive) of the last reply; None where there is none."""
        places = np.flatnonzero(self.replies)
        if not len(places):
            return None
        gaps = np.flatnonzero(np.diff(places) > 1)
        return int(places[gaps[-1] + 1] if len(gaps) else places[0]), int(places[-1])


def template_in(folder: Path, config: Mapping[str, Any]) -> ChatTemplate | None:
    """The chat template of a tokenizer's folder: `chat_template.jinja`, or what tokenizer_config.json
    holds; of several named ones `default`. None where there is none."""
    source = config.get("chat_template")
    if (folder / CHAT_FILE).is_file():
        try:
            source = files.read_text(folder / CHAT_FILE)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{folder / CHAT_FILE}: cannot be read: {error}") from None
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


def messages_of(row: Mapping[str, Any], where: str, column: str | None) -> list[dict[str, Any]]:
    """The messages of a row: `[{"role": ..., "content": ...}, ...]` in `column`, else in one of
    `COLUMNS`; ShareGPT's `from` and `value` are understood.

    A content may be a list of `{"type": "text", "text": ...}`. Raises NoText where the row has no
    message or one without text (an image), UserError for what is no conversation.
    """
    names = COLUMNS if column is None else (column,)
    if not any(name in row for name in names):
        known = ", ".join(map(str, row)) or "none"
        raise UserError(f"{where}: no column {' or '.join(names)}; it has: {known}")
    given = next((row[name] for name in names if row.get(name) is not None), None)
    if given is None or (isinstance(given, list) and not given):
        raise NoText(f"{where}: no message")
    if not isinstance(given, list):
        raise UserError(f"{where}: expected a list of messages, got {_short(given)}")
    return [_message(one, f"{where}, message {n + 1}") for n, one in enumerate(given)]


def _message(given: Any, where: str) -> dict[str, Any]:
    wanted = f"{where}: expected an object with role and content, got {_short(given)}"
    if not isinstance(given, Mapping):
        raise UserError(wanted)
    # Parquet has every field in every message, null where there is nothing
    message = {str(name): value for name, value in given.items() if value is not None}
    if ROLE not in message and isinstance(given.get("from"), str) and "value" in given:
        role = message.pop("from")
        message[ROLE], message[CONTENT] = _FROM.get(role, role), message.pop("value", None)
    content = message.get(CONTENT)
    if isinstance(content, list) and all(isinstance(one, Mapping) for one in content):
        if not all(isinstance(one.get("text"), str) for one in content):
            raise NoText(f"{where}: a content that is not text")
        content = "".join(one["text"] for one in content)
    if not isinstance(message.get(ROLE), str):
        raise UserError(wanted)
    if content is None and CONTENT in given:
        if "tool_calls" not in message:
            raise NoText(f"{where}: no content")
    elif not isinstance(content, str):
        raise UserError(wanted)
    return {**message, CONTENT: content}


def forges(messages: Sequence[Message], special: Iterable[str]) -> bool:
    """Whether what people wrote holds the text of a special token."""
    texts = list(_texts(messages))
    return any(token in text for text in texts for token in special)


# -- inside ----------------------------------------------------------------------------------------


def _with(message: Message, content: str) -> dict[str, Any]:
    return {**message, CONTENT: content}


def _marks(contents: Sequence[str]) -> list[str]:
    """A text for each content that stands in none of them."""
    whole, sign = "\0".join(contents), "\ue000"
    while sign in whole:
        sign += "\ue001"
    return [f"{sign}{number}\ue002" for number in range(len(contents))]


def _filled(
    text: str, pieces: Sequence[str], contents: Sequence[str]
) -> list[tuple[int, int]] | None:
    """Where the contents stand, if between the pieces they make up the text."""
    at, found = 0, []
    for piece, content in zip(pieces, contents):
        begin = at + len(piece)
        if not text.startswith(piece, at) or not text.startswith(content, begin):
            return None
        at = begin + len(content)
        found.append((begin, at))
    return found if text[at:] == pieces[-1] else None


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in (*value.keys(), *value.values()):
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
