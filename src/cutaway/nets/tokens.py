"""Several texts as one batch of token ids: rows of one length, and which of them are padding."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.base.columns import tensor
from cutaway.base.errors import UserError


@dataclass(frozen=True, eq=False)
class Tokens:
    """`ids` (batch, T), padded on the right; `attention_mask` (batch, T) has 0 for padding.

    `texts` (batch,) says which text each row is of, counted from 0; several rows are of one text
    where it was cut into windows. `capture` and `Model.logits` take it in the place of both tensors.
    """

    ids: Tensor
    attention_mask: Tensor
    texts: Tensor

    @property
    def lengths(self) -> Tensor:
        """How many tokens of each row are not padding, (batch,)."""
        return self.attention_mask.sum(1)

    @property
    def shape(self) -> torch.Size:
        """(batch, T)."""
        return self.ids.shape

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: int | slice) -> Tokens:
        """Some of the rows, with their padding; IndexError for a row that is not there."""
        chosen = rows
        if not isinstance(rows, slice):
            row = range(len(self))[operator.index(rows)]
            chosen = slice(row, row + 1)
        return Tokens(self.ids[chosen], self.attention_mask[chosen], self.texts[chosen])

    def numpy(self) -> np.ndarray:
        """The ids, padding included, (batch, T)."""
        return self.ids.cpu().numpy()


@dataclass(frozen=True)
class Window:
    """Rows of at most `length` tokens, `before` and `after` in each of them included."""

    length: int
    before: Sequence[int] = ()
    after: Sequence[int] = ()

    def cut(self, row: Tensor) -> list[Tensor]:
        """A row of ids (n,), in order."""
        before, after = (row.new_tensor(ids) for ids in (self.before, self.after))
        pieces = row.split(self.length - len(before) - len(after))
        return [torch.cat([before, piece, after]) for piece in pieces]


def batch(
    given: Iterable[Any],
    encode: Callable[[str], Tensor],
    padding: int,
    device: torch.device,
    window: Window | None = None,
) -> Tokens:
    """Texts (through `encode`, (1, n)) and rows of ids in one batch, cut into windows if asked.

    UserError for none, for an empty row, and for what is neither text nor whole numbers.
    """
    rows, texts = [], []
    for index, one in enumerate(given):
        row = _row(one, encode, index)
        pieces = [row] if window is None else window.cut(row)
        rows += pieces
        texts += [index] * len(pieces)
    if not rows:
        raise UserError("text: a list without texts; expected one or more")
    ids = torch.full((len(rows), max(map(len, rows))), padding, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return Tokens(ids.to(device), mask.to(device), torch.tensor(texts))


def _row(one: Any, encode: Callable[[str], Tensor], index: int) -> Tensor:
    name = f"text {index}"
    if isinstance(one, bytes):
        raise UserError(f"{name}: bytes, expected a text or a list of token ids")
    if isinstance(one, str):
        try:
            found = encode(one)[0]
        except UserError as error:
            raise UserError(f"{name}: {str(error).removeprefix('text: ')}") from None
        why = "a text without tokens"
    else:
        if not isinstance(one, Sequence | np.ndarray | Tensor) and not hasattr(one, "__len__"):
            kind = type(one).__name__
            raise UserError(f"{name}: {kind}, expected a text or a list of token ids")
        found = tensor(one, name) if len(one) else torch.zeros(0, dtype=torch.int64)
        whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
        if found.ndim != 1 or not whole:
            raise UserError(
                f"{name}: {found.dtype} of shape {tuple(found.shape)}, expected token ids (T,)"
            )
        why = "a list without token ids"
    if not len(found):
        raise UserError(f"{name}: {why}; every row needs one")
    return found.long().cpu()


def ids_and_mask(tokens: Any, attention_mask: Any) -> tuple[Any, Any]:
    """Those of `Tokens`; else what was given. UserError for a mask beside `Tokens`."""
    if not isinstance(tokens, Tokens):
        return tokens, attention_mask
    if attention_mask is not None:
        raise UserError("attention_mask: these tokens have their own; give one of both")
    return tokens.ids, tokens.attention_mask


def token_ids(tokens: Any) -> Tensor:
    """Token ids as a tensor: a tensor as it is; lists, arrays, Series, Arrow arrays by position.

    Raises UserError for rows of different lengths and for what holds no whole numbers.
    """
    found = tensor(tokens, "tokens")
    whole = found.dtype != torch.bool and not (found.is_floating_point() or found.is_complex())
    return found.long() if whole and found.dtype != torch.int32 else found


def require_ids(
    name: str, tokens: Tensor, dimensions: int, vocab_size: int, longest: int | None = None
) -> None:
    """Refuse what are no token ids of so many dimensions; UserError. Ids on a GPU are not read."""
    expected = "(T,)" if dimensions == 1 else "(batch, T)"
    if tokens.ndim != dimensions or not tokens.numel() or not _whole(tokens):
        raise UserError(
            f"{name}: expected token ids of shape {expected}, got {tokens.dtype} of shape "
            f"{tuple(tokens.shape)}"
        )
    if longest is not None and tokens.shape[-1] > longest:
        raise UserError(f"{name}: {tokens.shape[-1]} in a row, and the model reads {longest}")
    if tokens.device.type == "cpu":
        low, high = map(int, tokens.aminmax())
        if low < 0 or high >= vocab_size:
            wrong = low if low < 0 else high
            raise UserError(f"{name}: id {wrong}, and the model has ids 0 to {vocab_size - 1}")


def _whole(tokens: Tensor) -> bool:
    return not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)


def mask_of(attention_mask: Any) -> Tensor | None:
    """An attention mask as a tensor, like `token_ids`."""
    if attention_mask is None or isinstance(attention_mask, Tensor):
        return attention_mask
    return tensor(attention_mask, "attention_mask")
