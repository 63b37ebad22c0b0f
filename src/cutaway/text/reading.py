"""How text becomes the tokens a model sees, and which of their states count: one recorded object.

Every store, dictionary, probe, feature page and effect carries it, so that text which is read
again for them is read in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from cutaway.base.errors import UserError

if TYPE_CHECKING:
    from cutaway.text.tokenizers import Tokenizer

FORMAT = 1
SEPARATORS = ("auto", "bos", "eos", "both", "none")
_IDS = ("prefix", "suffix", "before", "after")


@dataclass(frozen=True)
class Reading:
    """How text is read.

    `prefix` and `suffix` are the ids of special tokens that stand before and after every context;
    `before` and `after` those around each of the documents that are packed into contexts. States of
    special tokens other than `after` are never kept. `context_length`: tokens of a context, special
    ones included (None: not packed). `skip_first`: whether position 0, an attention sink in most
    models, is left out of training, scale and metrics. `chat`: SHA-256 of the chat template that
    conversations were written with, None for plain text; `reply_only`: whether only the states of
    replies count; `chat_date` (ISO): the date that the template writes, where it writes one.
    `measured`: nats per token of the separators that were compared, where `separator: auto` compared
    them; no part of equality.
    """

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    context_length: int | None = None
    skip_first: bool = True
    chat: str | None = None
    reply_only: bool = False
    chat_date: str | None = None
    measured: Mapping[str, float] | None = field(default=None, compare=False)

    @property
    def overhead(self) -> int:
        """Special tokens of each context."""
        return len(self.prefix) + len(self.suffix)

    @property
    def separator(self) -> str:
        """What stands between packed documents: bos, eos, both or none."""
        names = {(False, False): "none", (True, False): "bos", (False, True): "eos"}
        return names.get((bool(self.before), bool(self.after)), "both")

    def counted(self) -> str:
        """` tokens, N special ones included` where there are some, for messages about lengths."""
        return f" tokens, {self.overhead} special ones included" if self.overhead else ""

    def around(self, ids: list[int]) -> list[int]:
        """The ids of one text with its special tokens."""
        return [*self.prefix, *ids, *self.suffix]

    def differences(self, other: Reading, tokenizer: Tokenizer | None = None) -> list[str]:
        """What they read differently, as in `special tokens before a text: none, <s>`."""
        names = {
            "prefix": "special tokens before a text",
            "suffix": "special tokens after a text",
            "before": "before each packed document",
            "after": "after each packed document",
            "chat": "chat template",
            "reply_only": "only replies count",
            "chat_date": "date in the chat template",
        }
        found = []
        for name, words in names.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                mine, theirs = (_shown(one, tokenizer) for one in (mine, theirs))
                found.append(f"{words}: {mine}, not {theirs}")
        return found

    def described(self, tokenizer: Tokenizer | None = None) -> str:
        """One line for people, as in `<s> before each context and each document, ...`."""
        parts = []
        for ids, where in (
            (self.prefix, "before each context"),
            (self.suffix, "after each context"),
            (self.before, "before each document"),
            (self.after, "after each document"),
        ):
            if ids:
                parts.append(f"{_shown(ids, tokenizer)} {where}")
        if not self.overhead:
            parts.insert(0, "no special tokens around contexts")
        if self.chat is not None:
            dated = "" if self.chat_date is None else f" of {self.chat_date}"
            parts.append(f"conversations in the model's chat template{dated}")
        if self.reply_only:
            parts.append("only replies count")
        if self.skip_first and not self.prefix:
            parts.append("position 0 left out")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return {
            "format": FORMAT,
            **asdict(self),
            **{name: list(getattr(self, name)) for name in _IDS},
        }

    @classmethod
    def from_json(cls, content: Any) -> Reading:
        """What `to_json` gave. UserError for anything else and for a newer format."""
        try:
            form = content["format"]
            if type(form) is not int or form > FORMAT:
                raise UserError(
                    f"reading: format {form!r} is newer than this cutaway reads ({FORMAT})"
                )
            known = {one.name for one in fields(cls)}
            plain = {name: value for name, value in content.items() if name in known}
            for name in _IDS:
                plain[name] = _ids(name, plain.get(name, ()))
            return cls(**plain)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"reading: not one ({type(error).__name__}: {error})") from None

    @classmethod
    def of_before(cls, bos: int | None, end_of_text: int | None, length: int | None) -> Reading:
        """The reading of a record from before readings were recorded: `bos` or none at the start of
        contexts, `end_of_text` after each document."""
        return cls(
            prefix=() if bos is None else (bos,),
            after=() if end_of_text is None else (end_of_text,),
            context_length=length,
        )

    def with_length(self, context_length: int | None) -> Reading:
        """The same with contexts of another length."""
        return replace(self, context_length=context_length)


PLAIN = Reading()  # no token but the text's own


def _ids(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or any(type(one) is not int or one < 0 for one in value):
        raise UserError(f"reading: {name} = {value!r}: expected a list of token ids")
    return tuple(value)


def _shown(value: Any, tokenizer: Tokenizer | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not value:
        return "none"
    if isinstance(value, str):
        return value[:12]
    if tokenizer is None:
        return " ".join(f"#{id}" for id in value)
    return " ".join(_token(tokenizer, id) for id in value)


def _token(tokenizer: Tokenizer, id: int) -> str:
    try:
        return tokenizer.token(id)
    except IndexError:
        return f"#{id}"
