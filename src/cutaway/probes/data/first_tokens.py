"""The first tokens of documents, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cutaway.base.errors import UserError


def first_tokens(documents: Iterable[Sequence[int]], tokens: int) -> tuple[Tensor, tuple[int, ...]]:
    """The first `tokens` ids of some documents' ids, (T,), and where each document begins among them.

    UserError where the documents hold none.
    """
    ids: list[int] = []
    starts: list[int] = []
    for document in documents:
        if len(document):
            starts.append(len(ids))
            ids += document[: tokens - len(ids)]
        if len(ids) >= tokens:
            break
    if not ids:
        raise UserError("text: not one token in it")
    return torch.tensor(ids), tuple(starts)
