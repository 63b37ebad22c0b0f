"""Continuing tokens by what a model predicts, one token after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.base.errors import require_finite, require_whole

# float32 logits (batch, V) and a temperature above 0 → ids (batch, 1)
Draw = Callable[[Tensor, float], Tensor]


@torch.no_grad()
def continued(
    next_logits: Callable[[Tensor], Tensor],
    tokens: Tensor,
    length: int,
    draw: Draw,
    *,
    context: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Tensor:
    """Tokens (batch, T) and `length` more: (batch, T + length), ids.

    Each is drawn by `draw(logits, temperature)` from

        softmax(next_logits(tokens) / temperature)

    where `next_logits` takes the last `context` tokens (None: all) and gives (batch, V). Temperature
    0 takes the likeliest and draws nothing. With `top_k` only that many likeliest have a chance, and
    those tied with the last of them. Raises UserError for numbers out of range, and for more tokens
    than the memory holds.
    """
    _require(tokens, length, temperature, top_k)
    temperature = float(temperature)
    for _ in range(length):
        logits = next_logits(tokens if context is None else tokens[:, -context:]).float()
        if top_k is not None:
            floor = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < floor, float("-inf"))
        if temperature == 0:
            drawn = logits.argmax(-1, keepdim=True)
        else:
            drawn = draw(logits, temperature)
        tokens = torch.cat([tokens, drawn], 1)
    return tokens


def _require(tokens: Tensor, length: int, temperature: float, top_k: int | None) -> None:
    require_whole("length", length, 0)
    require_finite("temperature", temperature, 0)
    if top_k is not None:
        require_whole("top_k", top_k, 1)
    texts = len(tokens)
    need = hardware.Need(8 * texts * (length + 1), "the tokens drawn", {"length": length})
    hardware.require_memory([need], tokens.device)
