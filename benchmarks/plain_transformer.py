"""The grokking transformer as one writes it down: the peer of `grokking.py`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainBlock(nn.Module):
    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query_key_value, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        parts = self.query_key_value(self.norm1(x)).split(d, dim=2)
        q, k, v = (y.view(n, t, self.heads, d // self.heads).transpose(1, 2) for y in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainTransformer(nn.Module):
    def __init__(self, p: int, d: int, layers: int, heads: int):
        super().__init__()
        self.p = p
        self.tokens, self.positions = nn.Embedding(p + 2, d), nn.Embedding(4, d)
        self.blocks = nn.ModuleList(PlainBlock(d, heads) for _ in range(layers))
        self.norm, self.unembed = nn.LayerNorm(d), nn.Linear(d, p, bias=False)

    def forward(self, pairs: Tensor) -> Tensor:
        a, b = pairs.unbind(1)
        op, equals = torch.full_like(a, self.p), torch.full_like(a, self.p + 1)
        x = self.tokens(torch.stack([a, op, b, equals], 1)) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.norm(x[:, -1]))

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Start from the weights of cutaway's network of the same shape."""
        own = {name.replace("attention.", ""): value for name, value in weights.items()}
        for table in ("token", "position"):
            own[f"{table}s.weight"] = own.pop(f"{table}_embedding")
        self.load_state_dict(own)
