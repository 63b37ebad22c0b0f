"""Exact attribution of a Backpack's logits to the words before and their senses."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.base.doors import door
from cutaway.base.errors import require_whole
from cutaway.nets.backpack import Backpack
from cutaway.nets.tokens import require_ids, token_ids


@torch.no_grad()
@door
def attribute(model: Backpack, tokens: Tensor, target: int, position: int = -1) -> Tensor:
    """What each earlier token's senses add to a logit: tokens (T,) → (k, T).

    Entry (l, j) = αₗᵢⱼ · E_target·C(x_j)ₗ at query position i. The entries sum to the logit of
    `target` at that position: not an approximation, the model's own sum (Hewitt et al. 2023, §2).
    Raises UserError for a target or position that is not there.
    """
    tokens = token_ids(tokens).to(model.embedding.device)
    require_ids("tokens", tokens, 1, model.config.vocab_size, model.config.block_size)
    require_whole("target", target, 0, model.config.vocab_size - 1)
    require_whole("position", position, -len(tokens), len(tokens) - 1)
    alpha = model.alpha(tokens[None])[0, :, position]  # (k, T)
    raises = model.sense_vectors(tokens) @ model.embedding[target]  # (T, k)
    return alpha * raises.t()
