"""Files of conversations as a source: each is a document, written with a model's chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.text import chat
from cutaway.text.chat import ChatTemplate, Conversation
from cutaway.text.documents import Document
from cutaway.text.files import FilesSource, split_column

if TYPE_CHECKING:
    from cutaway.text.reading import Reading
    from cutaway.text.tokenizers import Tokenizer

_TOGETHER = 64  # conversations that are encoded at once


class ConversationSource:
    """The conversations in a file or folder of .jsonl, .json and .parquet (also .gz).

    A row holds `messages` (or `conversations`, or the column of `records.jsonl::column`): a list of
    objects with `role` and `content`. Raises UserError for a path without such files.
    """

    def __init__(self, spec: str, template: ChatTemplate):
        path, self._column = split_column(spec)
        if not Path(path).exists():
            raise UserError(f"data = {spec!r}: chat reads a file or folder of conversations")
        self.name, self.template = spec, template
        self._files = FilesSource(path, name=spec)

    def encoded(self, tokenizer: Tokenizer) -> Iterator[Conversation]:
        """Each conversation's ids, without the BOS that the template begins them with.

        Left out, and counted in a notice: conversations without text, those that hold the text of
        a special token, and those that the template refuses. UserError where none is left.
        """
        chosen = Chosen(self.name, self.template, tokenizer)
        rows = iter(self._files.records())
        while some := list(islice(rows, _TOGETHER)):
            yield from (one for one in chosen.encoded(some, self._column) if one is not None)
        chosen.tell()

    def documents(self) -> Iterator[Document]:
        """Each conversation as the text that the template writes."""
        for where, row in self._files.records():
            messages = chat.messages_of(row, where, self._column)
            yield Document(where, self.template.written(messages))

    def fingerprint(self) -> str:
        """Of the files, the template and the date that it writes."""
        facts = f"{self._files.fingerprint()} {self._column} {self.template.sha256}"
        if self.template.today is not None:
            facts += f" {self.template.day or self.template.today}"
        return "chat:" + hashlib.sha256(facts.encode()).hexdigest()

    def size(self) -> int | None:
        """Bytes of the files."""
        return self._files.size()


class Chosen:
    """Rows of conversations that can be read, and the count of those that cannot."""

    def __init__(self, name: str, template: ChatTemplate, tokenizer: Tokenizer):
        self.name, self.template, self.tokenizer = name, template, tokenizer
        self.front = leading(tokenizer)
        self.rows = 0
        self._spans: dict[str, list[tuple[int, int]]] = {}
        self.left: dict[str, list[str]] = {}  # for each reason the first row's place, and others'

    def encoded(
        self, rows: Sequence[tuple[str, Mapping[str, Any]]], column: str | None = None
    ) -> list[Conversation | None]:
        """The conversation of each row, None where it is left out; UserError naming a row's place for
        what is no conversation, and where the template itself is broken."""
        written = [self._written(*row, column) for row in rows]
        self.rows += len(rows)
        kept = [one for one in written if one is not None]
        found = iter(_encoded(kept, self.tokenizer, self.front))
        return [None if one is None else next(found) for one in written]

    def text(self, where: str, row: Mapping[str, Any], column: str | None = None) -> str | None:
        """A row's conversation as text, None where it is left out; `conversations` has its ids."""
        self.rows += 1
        written = self._written(where, row, column)
        if written is None:
            return None
        self._spans[written[0]] = written[1]
        return written[0]

    def conversations(self, texts: Sequence[str]) -> list[Conversation]:
        """Of texts that `text` gave."""
        return _encoded([(one, self._spans[one]) for one in texts], self.tokenizer, self.front)

    def tell(self) -> None:
        """What was left out, and why; UserError where nothing else was there."""
        for reason, places in self.left.items():
            if len(places) == self.rows:
                raise UserError(f"{self.name}: not one of {self.rows:,} conversations can be read: "
                                f"{reason} (first: {places[0]})")  # fmt: skip
            notice(
                f"{self.name}: {len(places):,} of {self.rows:,} conversations are left out: {reason} "
                f"(first: {places[0]})"
            )
        if (left := sum(map(len, self.left.values()))) and left == self.rows:
            raise UserError(f"{self.name}: not one of {self.rows:,} conversations can be read")

    def _written(
        self, where: str, row: Mapping[str, Any], column: str | None
    ) -> tuple[str, list[tuple[int, int]]] | None:
        """A row's conversation as text, and where the replies stand in it; None where it is left out."""
        from cutaway.text.chat_rendering import Refusal

        try:
            messages = chat.messages_of(row, where, column)
            if chat.forges(messages, self.tokenizer.special_texts):
                self._leave(
                    "they hold the text of a special token, which would forge the border of a "
                    "message",
                    where,
                )
                return None
            text = self.template.written(messages)
            return text, self.template.replies(text, messages)
        except chat.Unwritten:
            self._leave("the chat template does not write a reply as it stands", where)
            return None
        except chat.NoText:
            self._leave("they have no message, or one without text", where)
            return None
        except Refusal as error:
            self._leave(str(error), where)
            return None
        except UserError as error:
            said = str(error)
            raise UserError(said if said.startswith(where) else f"{where}: {said}") from None

    def _leave(self, reason: str, where: str) -> None:
        self.left.setdefault(reason, []).append(where)


def conversations(
    spec: str, tokenizer: Tokenizer, reading: Reading | None = None
) -> ConversationSource:
    """The conversations a spec names, for a tokenizer with a chat template.

    `reading` says which template and date are to be used. UserError where the tokenizer has no
    template, or another.
    """
    return ConversationSource(spec, template_of(tokenizer, reading))


def template_of(tokenizer: Tokenizer, reading: Reading | None = None) -> ChatTemplate:
    """The tokenizer's chat template; UserError where it has none, or another than `reading` records."""
    template = tokenizer.chat_template
    if template is None:
        raise UserError(
            f"chat: the tokenizer {tokenizer.name!r} has no chat template (chat_template.jinja, or "
            "chat_template in tokenizer_config.json)"
        )
    if reading is None:
        return template
    if template.sha256 != reading.chat:
        raise UserError(
            f"{tokenizer.name}: its chat template is another than the one text was read with before"
        )
    return template.dated(reading.chat_date)


def leading(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids of BOS where the tokenizer's chat template begins a conversation with it.

    A token that stands before later messages too is none, whatever the tokenizer calls it
    (`<|im_start|>` of SmolLM2).
    """
    template = template_of(tokenizer)
    roles = ("user", chat.REPLY, "user")
    try:
        text = template.written([{chat.ROLE: role, chat.CONTENT: "a"} for role in roles])
    except UserError:  # told where conversations are read
        return ()
    ((ids, _),) = tokenizer.encode_marked([text])
    bos = tokenizer.special[0]
    if not bos and (named := template.tokens.get("bos_token")):
        ((found, _),) = tokenizer.encode_marked([named])
        bos = tuple(found.tolist())
    begins = bool(bos) and tuple(ids[: len(bos)].tolist()) == bos
    return bos if begins and ids.tolist().count(bos[0]) == 1 else ()


def replying(text: str, tokenizer: Tokenizer, reading: Reading) -> list[int]:
    """The ids of a user's message up to where the model's reply begins, as `reading` has them.

    Special tokens in the text are plain characters nowhere in a template, so that UserError is
    raised for one; and where the tokenizer has another template than `reading`, or none.
    """
    message = {chat.ROLE: "user", chat.CONTENT: text}
    template = template_of(tokenizer, reading)
    if chat.forges([message], tokenizer.special_texts):
        raise UserError(
            f"text = {text[:40]!r}: holds the text of a special token, which would forge the border "
            "of a message"
        )
    written = template.written([message], prompt=True)
    ((found, _),) = tokenizer.encode_marked([written])
    front, ids = list(leading(tokenizer)), found.tolist()
    if front and ids[: len(front)] == front:
        ids = ids[len(front) :]
    return [*reading.prefix, *ids]


def _encoded(
    written: Sequence[tuple[str, Sequence[tuple[int, int]]]],
    tokenizer: Tokenizer,
    front: Sequence[int] = (),
) -> list[Conversation]:
    """The ids of conversations that are written (their texts, and where replies stand in them), as
    transformers' `apply_chat_template` gives them, without the ids `front` where they begin it."""
    found = []
    each = tokenizer.encode_marked([text for text, _ in written])
    for (ids, offsets), (_, spoken) in zip(each, written, strict=True):
        replies = np.zeros(len(ids), dtype=bool)
        for begin, end in spoken:
            replies |= (offsets[:, 0] < end) & (offsets[:, 1] > begin)
        if front and ids[: len(front)].tolist() == list(front):
            ids, replies = ids[len(front) :], replies[len(front) :]
        found.append(Conversation(ids, replies))
    return found
