"""Files of conversations as a source: each is a document, written with a model's chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.text import chat
from cutaway.text.chat import ChatTemplate, Conversation
from cutaway.text.files import FilesSource, split_column
from cutaway.text.sources import Document

if TYPE_CHECKING:
    from cutaway.text.tokenizers import Tokenizer


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

    def messages(self) -> Iterator[list[dict[str, str]]]:
        """Each conversation's messages. UserError naming the row that holds none."""
        for where, row in self._files.records():
            yield chat.messages_of(row, where, self._column)

    def encoded(self, tokenizer: Tokenizer) -> Iterator[Conversation]:
        """Each conversation's ids; those that hold a special token's text are left out and counted."""
        left = 0
        for one in chat.encoded(self.messages(), self.template, tokenizer):
            if one is None:
                left += 1
                continue
            yield one
        if left:
            notice(
                f"{self.name}: {left:,} conversations hold the text of a special token, which would "
                "forge the border of a message, and are left out"
            )

    def documents(self) -> Iterator[Document]:
        """Each conversation as the text that the template writes."""
        for number, messages in enumerate(self.messages()):
            yield Document(str(number), self.template.written(messages))

    def fingerprint(self) -> str:
        """Of the files and the template."""
        facts = f"{self._files.fingerprint()} {self._column} {self.template.sha256}"
        return "chat:" + hashlib.sha256(facts.encode()).hexdigest()

    def size(self) -> int | None:
        """Bytes of the files."""
        return self._files.size()


def conversations(
    spec: str, tokenizer: Tokenizer, recorded: str | None = None
) -> ConversationSource:
    """The conversations a spec names, for a tokenizer with a chat template.

    `recorded` is the SHA-256 of the template that is to be used. UserError where the tokenizer has
    no template, or another.
    """
    template = template_of(tokenizer)
    if recorded is not None and template.sha256 != recorded:
        raise UserError(
            f"{tokenizer.name}: its chat template is another than the one text was read with before"
        )
    return ConversationSource(spec, template)


def template_of(tokenizer: Tokenizer) -> ChatTemplate:
    """The tokenizer's chat template; UserError where it has none."""
    if tokenizer.chat_template is None:
        raise UserError(
            f"chat: the tokenizer {tokenizer.name!r} has no chat template (chat_template.jinja, or "
            "chat_template in tokenizer_config.json)"
        )
    return tokenizer.chat_template
