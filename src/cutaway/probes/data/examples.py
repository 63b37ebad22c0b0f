"""What is probed: contexts of tokens, which states in them to read, their labels, their documents.

A folder of probe data holds `train`, `validation` and `test.safetensors`, `metadata.json` (counts,
prevalence, tokenizer, hash) and the tokenizer itself, so that nobody has to name it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cutaway.base import columns, files
from cutaway.base.doors import door
from cutaway.base.errors import UserError
from cutaway.base.files import as_path
from cutaway.runs import checksums
from cutaway.text.tokenizers import Tokenizer

FORMAT = 1
METADATA = "metadata.json"
PARTS = ("train", "validation", "test")
TASKS = ("next", "current", "labels")
Task = Literal["next", "current", "labels"]
_ARRAYS = ("tokens", "begin", "end", "context", "first", "last", "label", "document")


@dataclass(frozen=True)
class Examples:
    """Some examples and the contexts they are in; several may share a context.

    Context c is `tokens[begin[c]:end[c]]`. Example i reads the mean of the states at positions
    `first[i]` to `last[i]` (inclusive) of its `context[i]`, one state where they are equal;
    `label` is a place in `ProbeData.classes`, `document` one in `ProbeData.documents`.
    All are int64 but `tokens`, int32.
    """

    tokens: Tensor
    begin: Tensor
    end: Tensor
    context: Tensor
    first: Tensor
    last: Tensor
    label: Tensor
    document: Tensor

    def __len__(self) -> int:
        return len(self.label)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each context."""
        return self.end - self.begin

    def token(self, offset: int = 0) -> Tensor:
        """The token at each example's last position, or `offset` after it, (n,)."""
        return self.tokens[self.begin[self.context] + self.last + offset].long()

    def chosen(self, rows: Tensor | Sequence[int]) -> Examples:
        """These examples in this order, with the contexts they need. UserError for others."""
        rows = _rows(rows, len(self.context))
        needed, context = self.context[rows].unique(return_inverse=True)
        picked = {
            name: getattr(self, name)[rows] for name in ("first", "last", "label", "document")
        }
        return Examples(self.tokens, self.begin[needed], self.end[needed], context, **picked)

    @door
    def moved(self, begin: int = 0, end: int = 0) -> Examples:
        """The same with each context beginning and ending so many tokens later; examples read at
        the same places from the beginning. UserError where a context would leave the tokens."""
        begins, ends = (
            old + max(-len(self.tokens), min(len(self.tokens), by))
            for old, by in ((self.begin, begin), (self.end, end))
        )
        if ((begins < 0) | (ends < begins) | (ends > len(self.tokens))).any():
            raise UserError(
                f"begin = {begin}, end = {end}: a context would not lie within the "
                f"{len(self.tokens):,} tokens"
            )
        return replace(self, begin=begins, end=ends)

    def compact(self) -> Examples:
        """The same with `tokens` holding the contexts and nothing else, one after another."""
        lengths = self.lengths
        begin = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        inside = torch.arange(int(begin[-1])) - begin[:-1].repeat_interleave(lengths)
        tokens = self.tokens[self.begin.repeat_interleave(lengths) + inside]
        return replace(self, tokens=tokens, begin=begin[:-1].clone(), end=begin[1:].clone())


@dataclass(frozen=True)
class ProbeData:
    """Examples in three parts that share no document, and what they mean.

    `task`: whether the token after the state read is the `target` (next), the one it belongs to is
    (current), or labels were given. Contexts of token tasks hold one token more than is read, the
    one after it, so that the same examples serve both tasks (`reading`). `prevalence`: the share of
    each class in all the text of the training documents; training examples may be balanced, those
    of validation and test come as text has them. `source` says where it came from.
    """

    name: str
    task: Task
    classes: tuple[str, ...]
    prevalence: tuple[float, ...]
    documents: tuple[str, ...]
    parts: Mapping[str, Examples]
    tokenizer: Tokenizer
    target: str | None = None
    target_id: int | None = None
    context_length: int | None = None
    balanced: bool = False
    seed: int = 0
    source: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    """The hash of the data these were made from by `reading`; empty for data as they are stored."""

    def reading(self, task: Task | None = None) -> ProbeData:
        """The data as it is read for a task, without the token that the task must not see.

        `current` and `next` serve each other: the token before the target is read, or the target
        itself, one further on. UserError for a task that these data cannot serve.
        """
        task = task or self.task
        if task not in TASKS:
            raise UserError(f"task = {task!r}: expected one of {', '.join(TASKS)}")
        if (task == "labels") != (self.task == "labels"):
            raise UserError(
                f"task = {task!r}: {self.name} holds examples of the task {self.task!r}"
            )
        if self.fingerprint and task != self.task:
            raise UserError(f"task = {task!r}: {self.name} is already being read for {self.task!r}")
        if self.fingerprint:
            return self
        if task == "labels":
            return replace(self, fingerprint=self.sha256())
        begin, end = (0, -1) if task == "next" else (1, 0)
        parts = {name: part.moved(begin, end) for name, part in self.parts.items()}
        return replace(self, task=task, parts=parts, fingerprint=self.sha256())

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Examples of each class in each part."""
        return {
            name: dict(
                zip(
                    self.classes,
                    part.label.bincount(minlength=len(self.classes)).tolist(),
                    strict=True,
                )
            )
            for name, part in self.parts.items()
        }

    @property
    def read(self) -> str | None:
        """How labelled texts are read: `mean`, `last` or `first`; None for tokens and words."""
        return self.source.get("read")

    @property
    def chat(self) -> str | None:
        """SHA-256 of the chat template its conversations are written with; None for other text."""
        return self.source.get("chat")

    @property
    def of_tokens(self) -> bool:
        """Whether every example reads the state of one token, not the mean over several."""
        return all(torch.equal(part.first, part.last) for part in self.parts.values())

    def sha256(self) -> str:
        """Of the examples, the tokenizer and what they mean: equal for equal data."""
        digest = hashlib.sha256(self.tokenizer.sha256().encode())
        digest.update(json.dumps([self.task, self.classes, self.prevalence]).encode())
        for name in PARTS:
            part = self.parts[name].compact()
            for array in _ARRAYS:
                digest.update(getattr(part, array).numpy().tobytes())
        return digest.hexdigest()

    @door
    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the data to a folder, new or empty; returns it."""
        folder = Path(folder).absolute()
        with files.written_into(folder):
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise UserError(f"{folder}: not empty; give a new folder with --out")
            files.require_writable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        files.clear_leftovers(folder.parent, folder.name)
        made = files.temporary_beside(folder)
        try:
            made.mkdir()
            for name in PARTS:
                part = self.parts[name].compact()
                tensors = {one: getattr(part, one).contiguous() for one in _ARRAYS}
                files.save_tensors(tensors, made / f"{name}.safetensors")
            self.tokenizer.save(made / "tokenizer")
            files.write_json(made / METADATA, self._metadata())
            checksums.seal(made)
            files.flush_to_disk(made)
            os.replace(made, folder)  # an empty folder there gives way
        except OSError as error:
            raise UserError(f"{folder}: cannot write: {error.strerror or error}") from None
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ProbeData:
        """What `save` wrote; UserError for anything else and for files that were changed."""
        from safetensors import SafetensorError

        folder = as_path(folder)
        if not (folder / METADATA).is_file():
            raise UserError(
                f"{folder}: no probe data ({METADATA} is missing); `cutaway probe data` writes some"
            )
        try:
            said = files.read_json(folder / METADATA)
            if isinstance(said["format"], int) and said["format"] > FORMAT:
                raise UserError(
                    f"{folder}: format {said['format']} is newer than this cutaway reads ({FORMAT})"
                )
            tensors = {name: files.load_tensors(folder / f"{name}.safetensors") for name in PARTS}
            parts = {name: Examples(**tensors[name]) for name in PARTS}
            plain = {name: said[name] for name in _plain(cls) if name in said}
            for name in ("classes", "prevalence", "documents"):
                plain[name] = tuple(plain[name])
            found = cls(**plain, parts=parts, tokenizer=Tokenizer.load(folder / "tokenizer"))
            same = found.sha256() == said.get("sha256")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"{folder}: damaged probe data: {error}") from None
        except (AttributeError, IndexError, RuntimeError):  # tensors that do not go together
            same = False
        if not same:
            raise UserError(f"{folder}: damaged probe data: its files are not those it was made of")
        return found

    def _metadata(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in _plain(type(self))}
        about = {
            "tokenizer": {"name": self.tokenizer.name, "sha256": self.tokenizer.sha256()},
            "counts": self.counts,
            "contexts": {name: len(part.begin) for name, part in self.parts.items()},
            "sha256": self.sha256(),
        }
        return {"format": FORMAT, "checksums": checksums.FILE, **plain, **about}


def joined(parts: Sequence[Examples]) -> Examples:
    """Several parts' examples as one, in their order."""
    parts = [part.compact() for part in parts]
    token = context = 0
    moved = []
    for part in parts:
        moved.append(
            replace(
                part, begin=part.begin + token, end=part.end + token, context=part.context + context
            )
        )
        token, context = token + len(part.tokens), context + len(part.begin)
    return Examples(**{name: torch.cat([getattr(one, name) for one in moved]) for name in _ARRAYS})


def _plain(kind: type[ProbeData]) -> list[str]:
    """The fields that metadata.json holds under their own names."""
    return [
        one.name for one in fields(kind) if one.name not in ("parts", "tokenizer", "fingerprint")
    ]


def from_contexts(
    contexts: Sequence[np.ndarray | Sequence[int]],
    context: Sequence[int],
    first: Sequence[int],
    last: Sequence[int],
    label: Sequence[int],
    document: Sequence[int],
) -> Examples:
    """Examples over contexts given one by one."""
    lengths = torch.tensor([len(one) for one in contexts], dtype=torch.int64)
    end = lengths.cumsum(0)
    flat = np.concatenate([np.asarray(one) for one in contexts]) if contexts else np.zeros(0)
    whole = {"context": context, "first": first, "last": last, "label": label}
    return Examples(
        tokens=torch.from_numpy(flat.astype(np.int32)),
        begin=end - lengths,
        end=end,
        **{name: torch.as_tensor(values, dtype=torch.int64) for name, values in whole.items()},
        document=torch.as_tensor(document, dtype=torch.int64),
    )


def _rows(given: Any, count: int) -> Tensor:
    """Numbers of examples, int64; UserError for what are none of `count`."""
    rows = columns.tensor(given, "rows")
    if rows.dtype == torch.bool and len(rows) == count:
        rows = rows.nonzero().view(-1)
    whole = not (rows.is_floating_point() or rows.is_complex()) or not rows.numel()
    if (
        rows.ndim != 1
        or not whole
        or (rows.numel() and not -count <= int(rows.min()) <= int(rows.max()) < count)
    ):
        raise UserError(f"rows: expected numbers of examples, 0 to {count - 1}")
    return rows.long()
