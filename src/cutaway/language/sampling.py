"""Sampling text from a language model."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.base.doors import door
from cutaway.base.seeds import torch_generator
from cutaway.nets.gpt2 import LanguageModel
from cutaway.nets.sampling import continued
from cutaway.nets.tokens import require_ids, token_ids


@door
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
    if not hasattr(model, "embedding"):
        raise TypeError(f"model: expected a language model, got {type(model).__name__}")
    tokens = token_ids(tokens).to(model.embedding.device)
    require_ids("tokens", tokens, 2, model.config.vocab_size)
    generator = torch_generator(seed, 0, "sample", tokens.device)
    model.eval()

    def next_logits(context: Tensor) -> Tensor:
        return model.state(context)[:, -1] @ model.embedding.t()

    def draw(logits: Tensor, temperature: float) -> Tensor:
        return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)

    block = model.config.block_size
    return continued(
        next_logits, tokens, length, draw, context=block, temperature=temperature, top_k=top_k
    )
