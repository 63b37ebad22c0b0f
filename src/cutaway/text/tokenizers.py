"""Tokenizers: byte-level BPE trained on a corpus, or any pretrained one, behind one small face."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from cutaway.base import files, hardware
from cutaway.base.columns import is_table
from cutaway.base.display import notice
from cutaway.base.doors import door
from cutaway.base.errors import UserError, require_whole
from cutaway.base.files import as_path, write_json, write_text
from cutaway.text import long_words, tokenizer_files
from cutaway.text.chat import CHAT_FILE, ChatTemplate
from cutaway.text.tokenizer_files import END_OF_TEXT, Definition, make_byte_level

SMALLEST_VOCABULARY = 257  # every byte, and the end of text
_PER_TOKEN = 100  # bytes the trainer takes for each token asked for, before it has learnt any
TRAINING_PASSAGE = 32_000  # characters of one text for the trainer, which holds 256 at a time


class Tokenizer:
    """Text to token ids and back. `end_of_text` is the id that stands between documents.

    Text is taken as plain text: no token is added at its ends, and `<|endoftext|>` written in a
    document is ordinary characters, so that a document cannot forge a boundary. Words of more than
    512 characters are read in pieces (`text.long_words`); `pieces` counts them.
    """

    def __init__(self, backend: tokenizers.Tokenizer, end_of_text: int, name: str):
        definition = backend.to_str()
        if (plain := long_words.unbounded(definition)) != definition:
            backend = tokenizers.Tokenizer.from_str(plain)
        self._backend = _as_plain_text(backend)
        self.pieces = 0
        self.end_of_text = end_of_text
        self.name = name
        self.chat_template: ChatTemplate | None = None

    @cached_property
    def special(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids it puts before and after a text by itself: `([BOS], [])` of Llama and Gemma,
        `([CLS], [SEP])` of encoders, none of GPT-2 and of those trained here.

        They are those of its definition's post-processor, which is what transformers goes by:
        `add_bos_token` beside a tokenizer.json changes nothing there.
        """
        encoding = self._backend.encode("a", add_special_tokens=True)
        mask = encoding.special_tokens_mask
        if all(mask):  # a vocabulary without an "a"
            return (), ()
        first, last = mask.index(0), len(mask) - 1 - mask[::-1].index(0)
        return tuple(encoding.ids[:first]), tuple(encoding.ids[last + 1 :])

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id, so that an embedding of so many rows has a row for each."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def has_exact_cuts(self) -> bool:
        """Whether texts may be cut as `text.cuts` does without changing their tokens.

        So for GPT-2's byte-level pretokenizer, which the trained ones have too, and no normalizer.
        """
        spec = json.loads(self._backend.to_str())
        pre = spec["pre_tokenizer"] or {}
        plain_additions = all(
            not (token["lstrip"] or token["rstrip"]) and not any(map(str.isspace, token["content"]))
            for token in spec["added_tokens"]
        )
        return (
            pre.get("type") == "ByteLevel"
            and pre.get("use_regex", True)
            and not pre["add_prefix_space"]
            and spec["normalizer"] is None
            and plain_additions
        )

    @door
    def encode(self, text: str) -> list[int]:
        """The ids of one text."""
        if self._for_long_words is not None and long_words.may_hold_one(text):
            return self.encode_batch([text])[0]
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores; says it where long words were read in pieces."""
        before = self.pieces
        ids = [encoding.ids for encoding in self.encodings(texts)]
        if self.pieces > before:
            notice(long_words.told(self.pieces - before))
        return ids

    def encodings(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        """The library's own encodings, on all cores and with the interpreter free meanwhile."""
        _require_texts(texts)
        texts, backend = list(texts), self._backend
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"texts: expected text, got {type(text).__name__}")
        if self._for_long_words is not None and any(map(long_words.may_hold_one, texts)):
            backend = self._for_long_words
            self.pieces += sum(map(long_words.count, texts))
        return backend.encode_batch_fast(texts, add_special_tokens=False)

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        """The texts of its special tokens."""
        added = json.loads(self._backend.to_str())["added_tokens"]
        return tuple(token["content"] for token in added if token["special"] and token["content"])

    def encode_marked(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of texts whose special tokens are meant as such: the ids (T,) of each, and where each token
        stands in it, (T, 2) characters."""
        return [
            (np.array(one.ids, np.int64), np.array(one.offsets, np.int64).reshape(-1, 2))
            for one in self._marked.encode_batch(list(texts), add_special_tokens=False)
        ]

    @cached_property
    def _marked(self) -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        backend.encode_special_tokens = False
        return backend

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens written out; incomplete UTF-8 as U+FFFD."""
        numbers = list(map(operator.index, ids))
        if wrong := next((one for one in numbers if not 0 <= one < 2**32), None):
            raise UserError(f"id {wrong}: this tokenizer has ids 0 to {self.vocab_size - 1}")
        return self._backend.decode(numbers, skip_special_tokens=False)

    @door
    def token(self, id: int) -> str:
        """One token as readable text: `Ġthe` is `' the'`, bytes that are no text are `\\xNN`.

        Raises IndexError for an id the tokenizer does not have.
        """
        piece = self._backend.id_to_token(int(id)) if 0 <= id < 2**32 else None
        if piece is None:
            raise IndexError(f"token {id}: this tokenizer has ids 0 to {self.vocab_size - 1}")
        if not self._byte_level:
            return piece.replace("▁", " ")
        codes = [_byte_of().get(letter) for letter in piece]
        if None in codes:  # an added token with letters outside the byte alphabet
            return piece
        return bytes(codes).decode("utf-8", "backslashreplace")

    def sha256(self) -> str:
        """Of the tokenizer's definition and its end of text: equal for equal behaviour."""
        definition = json.dumps(json.loads(self._backend.to_str()), sort_keys=True)
        return hashlib.sha256(f"{self.end_of_text} {definition}".encode()).hexdigest()

    @door
    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`; transformers' AutoTokenizer reads them.

        UserError where the folder cannot be written.
        """
        folder = Path(folder)
        end = self._backend.id_to_token(self.end_of_text)
        definition = self._backend.to_str()
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": end,
            "eos_token": end,
            "unk_token": end,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000_000,
            "name_or_path": self.name,
        }
        if (chat := self.chat_template) is not None:
            config["special_tokens_of_chat"] = dict(chat.tokens)
        with files.written_into(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "tokenizer.json", long_words.bounded(definition) or definition)
            write_json(folder / "tokenizer_config.json", config)
            if chat is not None:
                write_text(folder / CHAT_FILE, chat.source)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Tokenizer:
        """A tokenizer that `save` wrote, or any folder that `pretrained` takes."""
        return _made(tokenizer_files.saved(as_path(folder)))

    @cached_property
    def _for_long_words(self) -> tokenizers.Tokenizer | None:
        """The same, cutting long words first; None where nothing is gained by it."""
        definition = long_words.bounded(self._backend.to_str())
        return definition and _as_plain_text(tokenizers.Tokenizer.from_str(definition))

    @cached_property
    def _byte_level(self) -> bool:
        return '"ByteLevel"' in self._backend.to_str()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "definition": self._backend.to_str(),
            "end_of_text": self.end_of_text,
            "name": self.name,
            "chat_template": self.chat_template,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        backend = tokenizers.Tokenizer.from_str(state["definition"])
        self.__init__(backend, state["end_of_text"], state["name"])  # type: ignore[misc]
        self.chat_template = state.get("chat_template")

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, vocab_size={self.vocab_size})"


def _made(definition: Definition) -> Tokenizer:
    try:
        made = Tokenizer(definition.backend, definition.end_of_text, definition.name)
    except Exception as error:  # the library raises plain Exception
        raise tokenizer_files.unreadable(definition.folder, error) from None
    made.chat_template = definition.chat_template
    return made


def _require_texts(texts: Iterable[str]) -> None:
    """Several texts: no single one, and no table, whose column names would be read."""
    if isinstance(texts, str | bytes):
        raise TypeError("texts: expected several texts, got one")
    if isinstance(texts, Mapping) or is_table(texts):
        raise UserError("texts: a table, expected one column of it")


def _checked(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"texts: expected text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"texts: {text[:40]!r}: expected text in UTF-8") from None
    return text


def pretrained(spec: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer by Hugging Face id (`gpt2`), by folder, or by file.

    A folder holds `tokenizer.json`, or GPT-2's `encoder.json` and `vocab.bpe`, or `vocab.json`
    and `merges.txt`; a file is one of these. From the hub only what is not yet in its local
    cache is fetched. Raises UserError for anything else.
    """
    return _made(tokenizer_files.pretrained(spec))


@door
def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE of `vocab_size` tokens learnt from `texts`, with GPT-2's pretokenizer.

    Id 0 is `<|endoftext|>`, 1 to 256 are the bytes, then merges by falling frequency. The same
    texts give the same tokenizer. A corpus too small for so many merges gives fewer, with a
    notice. Long texts are best handed over in passages (`text.cuts.cut`): the library reads 256
    at a time; words of more than 512 characters are learnt from in pieces. Raises UserError under 257 tokens. Source: Sennrich et al. 2016; Radford et al. 2019.
    """
    _require_texts(texts)
    require_whole("vocab_size", vocab_size, 0)
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(
            f"vocab_size = {vocab_size}: a byte-level tokenizer has at least {SMALLEST_VOCABULARY} "
            "tokens (256 bytes and the end of text)"
        )
    hardware.require_memory(
        [hardware.Need(_PER_TOKEN * vocab_size, "the vocabulary", {"vocab_size": vocab_size})]
    )
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    make_byte_level(backend)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    cut = (piece for text in map(_checked, texts) for piece in long_words.pieces(text))
    backend.train_from_iterator(cut, trainer)
    reached = backend.get_vocab_size()
    if reached < vocab_size:
        notice(
            f"vocab_size: the corpus holds repeated pairs for {reached:,} tokens only, "
            f"{vocab_size:,} were asked for"
        )
    return Tokenizer(backend, 0, f"bpe-{reached}")


def _as_plain_text(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    backend.encode_special_tokens = True
    backend.no_padding()
    backend.no_truncation()
    return backend


@lru_cache
def _byte_of() -> dict[str, int]:
    """GPT-2's letters for bytes, inverted: printable Latin-1 stands for itself, the rest from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(code): code for code in printable}
    others = [code for code in range(256) if code not in set(printable)]
    return letters | {chr(256 + place): code for place, code in enumerate(others)}
