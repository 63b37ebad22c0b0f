"""Sampling text from a language model."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.base.seeds import torch_generator
from cutaway.nets.gpt2 import LanguageModel


@torch.no_grad()
def sample(
    model: LanguageModel,
    tokens: Tensor,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Continue tokens (batch, T) by `length` more, drawn from softmax(logits / temperature).

    Temperature 0 takes the likeliest token. `top_k` draws among that many likeliest. The context
    is the last `block_size` tokens.
    """
    generator = torch_generator(seed, 0, "sample", tokens.device)
    block = model.config.block_size
    model.eval()
    for _ in range(length):
        state = model.state(tokens[:, -block:])[:, -1]
        logits = (state @ model.embedding.t()).float()
        if top_k is not None:
            floor = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < floor, float("-inf"))
        if temperature == 0:
            drawn = logits.argmax(-1, keepdim=True)
        else:
            chances = (logits / temperature).softmax(-1)
            drawn = torch.multinomial(chances, 1, generator=generator)
        tokens = torch.cat([tokens, drawn], 1)
    return tokens
