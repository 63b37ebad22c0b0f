"""The one pre-norm transformer body: GPT-2, the Backpack and later networks stand on it.

    x = E[token] + P[position];  x = x + attention(norm(x));  x = x + mlp(norm(x));  norm(x)

Initialised as GPT-2 is (Radford et al. 2019): every weight from N(0, 0.02²), the two projections
that write into the residual stream from N(0, (0.02 / √(2 · n_layer))²), biases zero, norms one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Up to this context length writing out the attention matrix beats the fused kernel on a CPU:
# measured 2.1x at (T=256, bfloat16), 1.6x at (T=64, float32), 0.97x at (T=256, float32).
PLAIN_ATTENTION_UP_TO = 512


@dataclass(frozen=True)
class TrunkConfig:
    """The shape of a trunk. `n_embd` is the model width d, `block_size` the longest context T."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    bias: bool = True


class Attention(nn.Module):
    """Causal self-attention with all heads in one projection.

    `kernel` is `auto`, or one of the two ways to compute the same thing: `plain` writes out the
    (T, T) matrix and can be differentiated twice, `fused` never holds it.
    """

    def __init__(self, config: TrunkConfig):
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.kernel: Literal["auto", "plain", "fused"] = "auto"
        self.query_key_value = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, T, d) → (batch, T, d)."""
        batch, length, width = x.shape
        heads = self.query_key_value(x).view(batch, length, 3, self.n_head, width // self.n_head)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind()
        dropout = self.dropout if self.training else 0.0
        kernel = self.kernel
        if kernel == "auto":
            short = length <= PLAIN_ATTENTION_UP_TO and x.device.type == "cpu"
            kernel = "plain" if short else "fused"
        if kernel == "plain":
            weights = causal_attention(query, key)
            mixed = F.dropout(weights, dropout) @ value if dropout else weights @ value
        else:
            mixed = F.scaled_dot_product_attention(
                query, key, value, dropout_p=dropout, is_causal=True
            )
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        return F.dropout(self.out(mixed), dropout) if dropout else self.out(mixed)


def causal_attention(query: Tensor, key: Tensor) -> Tensor:
    """softmax(q·kᵀ / √width) over positions j ≤ i: (..., T, width) twice → (..., T, T)."""
    length, width = query.shape[-2:]
    scores = query @ key.transpose(-1, -2)
    mask = scores.new_full((length, length), -math.inf).triu_(1)
    return torch.add(mask, scores, alpha=1 / math.sqrt(width)).softmax(-1)


class MLP(nn.Module):
    """width → 4 · width → `out`, GELU between. `out` defaults to the width."""

    def __init__(self, config: TrunkConfig, out: int | None = None):
        super().__init__()
        self.dropout = config.dropout
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.down = nn.Linear(4 * config.n_embd, out or config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        # The exact GELU: on CPUs its kernel is three times as fast as the tanh approximation's.
        x = self.down(F.gelu(self.up(x)))
        return F.dropout(x, self.dropout) if self.dropout and self.training else x


class Block(nn.Module):
    """One layer: attention and MLP, each reading a normalised copy and adding to the stream."""

    def __init__(self, config: TrunkConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Trunk(nn.Module):
    """Tokens (batch, T) → hidden states (batch, T, d), through embeddings, blocks, a final norm."""

    def __init__(self, config: TrunkConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd, bias=config.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[-1]
        if length > self.config.block_size:
            raise ValueError(f"{length} tokens, but block_size is {self.config.block_size}")
        return self.forward_from_embeddings(self.token_embedding(tokens))

    def forward_from_embeddings(self, embeddings: Tensor) -> Tensor:
        """Embeddings of tokens, before positions are added, (batch, T, d) → hidden states."""
        x = embeddings + self.position_embedding.weight[: embeddings.shape[-2]]
        if self.config.dropout and self.training:
            x = F.dropout(x, self.config.dropout)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def initialise(module: nn.Module, n_layer: int, generator: torch.Generator) -> None:
    """GPT-2's initialisation, in place, for every parameter of `module` (see the file's head)."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.is_meta:  # only the shape is wanted
                continue
            if parameter.ndim >= 2:
                residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
                std = 0.02 / math.sqrt(2 * n_layer) if residual and ".blocks." in name else 0.02
                # drawn on the CPU so that a seed means the same network on every device
                drawn = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
                parameter.copy_(drawn)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.fill_(1.0)


def set_attention(module: nn.Module, kernel: Literal["auto", "plain", "fused"]) -> None:
    """Choose how every attention below `module` is computed; `plain` has second derivatives."""
    for child in module.modules():
        if isinstance(child, Attention):
            child.kernel = kernel
