"""Changing a word's senses and seeing the logits change (Hewitt et al. 2023, §5 and §6).

with editing(model, [SenseEdit(token, sense=2, scale=0.0)]):
    logits = model(tokens)          # the word has lost its third sense everywhere
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.nets.backpack import Backpack
from cutaway.nets.tokens import token_ids
from cutaway.stats.ties import largest


@dataclass(frozen=True)
class SenseEdit:
    """One change to the sense vectors of one token, or of all tokens (`token=None`).

    sense: which sense (0-based), None for all. Applied in this order: the vector is multiplied by
    `scale`; then, if `direction` (d,) is given, with u = direction / ‖direction‖, the part along u
    is taken out (`remove=True`) and `add` times u is put in.
    """

    token: int | None
    sense: int | None = None
    scale: float = 1.0
    direction: Tensor | None = None
    remove: bool = False
    add: float = 0.0

    def __call__(self, tokens: Tensor, senses: Tensor) -> Tensor:
        """tokens (...), senses (..., k, d) → senses (..., k, d)."""
        changed = senses * self.scale
        if self.direction is not None:
            unit = F.normalize(self.direction.to(senses), dim=0)
            if self.remove:
                changed = changed - (changed @ unit)[..., None] * unit
            changed = changed + self.add * unit
        chosen = (
            torch.ones_like(tokens, dtype=torch.bool)
            if self.token is None
            else tokens == self.token
        )
        chosen = chosen[..., None].expand(senses.shape[:-1])
        if self.sense is not None:
            which = torch.arange(senses.shape[-2], device=senses.device) == self.sense
            chosen = chosen & which
        return torch.where(chosen[..., None], changed, senses)


@contextmanager
def editing(model: Backpack, edits: Sequence[SenseEdit]) -> Iterator[None]:
    """Within the block the model's senses are changed, in the order given."""
    before = model.edit

    def apply(tokens: Tensor, senses: Tensor) -> Tensor:
        if before is not None:
            senses = before(tokens, senses)
        for edit in edits:
            senses = edit(tokens, senses)
        return senses

    model.edit = apply
    try:
        yield
    finally:
        model.edit = before


@torch.no_grad()
def sense_effect(
    model: Backpack, tokens: Tensor, edits: Sequence[SenseEdit], top: int = 20
) -> list[dict[str, Any]]:
    """The next token after `tokens` (T,), before and after the edits.

    Rows of token_id, logit_before, logit_after, change, probability_before, probability_after for
    the `top` tokens whose probability changed most.
    """
    tokens = token_ids(tokens).to(model.embedding.device)
    before = model(tokens[None])[0, -1]
    with editing(model, edits):
        after = model(tokens[None])[0, -1]
    change = after - before
    moved = (after.softmax(0) - before.softmax(0)).abs()
    _, order = largest(moved, min(top, len(moved)))
    columns = {
        "token_id": order,
        "logit_before": before[order],
        "logit_after": after[order],
        "change": change[order],
        "probability_before": before.softmax(0)[order],
        "probability_after": after.softmax(0)[order],
    }
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]


@torch.no_grad()
def similarity(model: Backpack, one: int, other: int) -> tuple[list[float], float]:
    """Cosine of two words' vectors sense by sense, and the smallest of them (paper §4)."""
    senses = model.sense_vectors(torch.tensor([one, other], device=model.embedding.device))
    cosines = F.cosine_similarity(senses[0], senses[1], dim=-1)
    return cosines.tolist(), float(cosines.min())
