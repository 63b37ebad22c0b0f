"""The grokking transformer: `[a, op, b, =]` in, the class at the last position out.

A decoder-only pre-norm transformer as in Power et al. (2022) and Nanda et al. (2023), initialised
as GPT-2. Two things make it fast without changing a figure: what stands at positions 0 and 1
depends on a alone, so its p distinct states are computed once and shared by all pairs; and only
the last position's query is read, so the last layer computes nothing else. In the first layer even
the attention scores take few values: tables over residues.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.base.seeds import torch_generator
from cutaway.nets.stacked import Affine, Norm, rows

POSITIONS = 4


@dataclass(frozen=True)
class ModularTransformerConfig:
    """The shape: width `hidden_dim`, `n_layers` blocks of `n_heads` heads, MLP 4x as wide."""

    p: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    tie_embeddings: bool = False


class Attention(nn.Module):
    """Causal self-attention over four positions; keys and values may come from shared states."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.query_key_value = Affine(width, 3 * width)
        self.out = Affine(width, width)

    def heads(self, x: Tensor) -> Tensor:
        """(..., width) → (..., heads, width / heads)."""
        return x.unflatten(-1, (self.n_heads, -1))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.norm1 = Norm(width)
        self.attention = Attention(width, n_heads)
        self.norm2 = Norm(width)
        self.up = Affine(width, 4 * width)
        self.down = Affine(4 * width, width)

    def finish(self, stream: Tensor, mixed: Tensor) -> Tensor:
        """Add the attention's output and the MLP's to the stream."""
        x = stream + self.attention.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def attend(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """softmax(q·k / √width) v over a short list of positions, written out.

    query, keys and values: (..., rows, heads, width), rows broadcast; → (..., rows, heads·width).
    """
    scale = 1 / math.sqrt(query.shape[-1])
    query = query * scale
    return mix([(query * key).sum(-1) for key in keys], values)


def mix(scores: list[Tensor], values: list[Tensor]) -> Tensor:
    """Σⱼ softmax(scores)ⱼ vⱼ: scores (..., rows, heads), values (..., rows, heads, width)."""
    weights = torch.stack(torch.broadcast_tensors(*scores), -1).softmax(-1).unsqueeze(-2)
    total = weights[..., 0] * values[0]
    for index, value in enumerate(values[1:], 1):
        total = torch.addcmul(total, weights[..., index], value)
    return total.flatten(-2)


class ModularTransformer(nn.Module):
    """Pairs (..., rows, 2) → logits over the p classes (..., rows, p)."""

    def __init__(self, config: ModularTransformerConfig, seed: int = 0):
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.token_embedding = nn.Parameter(torch.empty(config.p + 2, width))
        self.position_embedding = nn.Parameter(torch.empty(POSITIONS, width))
        self.blocks = nn.ModuleList(Block(width, config.n_heads) for _ in range(config.n_layers))
        self.norm = Norm(width)
        self.unembed = None if config.tie_embeddings else Affine(width, config.p, bias=False)
        self._initialise(torch_generator(seed, 0, "weights"))

    def _initialise(self, generator: torch.Generator) -> None:
        """GPT-2's: N(0, 0.02²); biases 0, norms 1."""
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim >= 2 and not parameter.is_meta:
                    drawn = torch.empty(parameter.shape).normal_(0.0, 0.02, generator=generator)
                    parameter.copy_(drawn)
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Weight decay falls on weight matrices; embeddings, biases and norms are exempt."""
        return name.endswith(".weight") and "norm" not in name

    # -- the fast way ------------------------------------------------------------------------

    def get_representation(self, pairs: Tensor) -> Tensor:
        """The normalised state at `=` that the unembedding reads, (..., rows, width)."""
        a, b = pairs.unbind(-1)
        p = self.config.p
        tokens, positions = self.token_embedding, self.position_embedding
        residues, marks = tokens.split([p, 2], -2)
        # the first layer reads 2p + 2 distinct states: a and b for every residue, op, =
        start = torch.cat(
            [
                residues + positions[..., 0:1, :],
                marks[..., 0:1, :] + positions[..., 1:2, :],
                residues + positions[..., 2:3, :],
                marks[..., 1:2, :] + positions[..., 3:4, :],
            ],
            -2,
        )
        last = self.config.n_layers == 1
        stream = self._first_block(self.blocks[0], start, a, b, last)
        for index, block in enumerate(self.blocks[1:], 2):
            last = index == self.config.n_layers
            stream = self._block(block, stream, a, last)
        return self.norm(stream)

    def _first_block(self, block: Block, start: Tensor, a: Tensor, b: Tensor, last: bool) -> Tensor:
        """The stream after block 1: rows [a: p | op: p | b: rows | =: rows], or only the last."""
        p, attention = self.config.p, block.attention
        projected = attention.query_key_value(block.norm1(start))
        query, key, value = map(attention.heads, projected.chunk(3, -1))
        query = query / math.sqrt(query.shape[-1])
        sizes = [p, 1, p, 1]
        k0, k1, k2, k3 = key.split(sizes, -3)
        v0, v1, v2, v3 = value.split(sizes, -3)
        _, q1, q2, q3 = query.split(sizes, -3)
        s0, s1, s2, s3 = start.split(sizes, -2)
        v0_rows = attention.heads(rows(v0.flatten(-2), a))
        v2_rows = attention.heads(rows(v2.flatten(-2), b))

        def score(one: Tensor, other: Tensor) -> Tensor:
            return (one * other).sum(-1)

        out3 = mix(
            [rows(score(q3, k0), a), score(q3, k1), rows(score(q3, k2), b), score(q3, k3)],
            [v0_rows, v1, v2_rows, v3],
        )
        if last:
            return block.finish(s3, out3)
        # (b, heads, width) x (a, heads, width) → a table of p² entries
        table = torch.einsum("...bhw,...ahw->...bah", q2, k0).flatten(-3, -2)
        out2 = mix(
            [rows(table, b * p + a), rows(score(q2, k1), b), rows(score(q2, k2), b)],
            [v0_rows, v1, v2_rows],
        )
        out1 = mix([score(q1, k0), score(q1, k1)], [v0, v1])
        s1_rows = s1.expand(*s1.shape[:-2], p, -1)
        s3_rows = s3.expand_as(out3)
        stream = torch.cat([s0, s1_rows, rows(s2, b), s3_rows], -2)
        mixed = torch.cat([v0.flatten(-2), out1, out2, out3], -2)
        return block.finish(stream, mixed)

    def _block(self, block: Block, stream: Tensor, a: Tensor, last: bool) -> Tensor:
        """One further block on rows [a: p | op: p | b: rows | =: rows]; the last keeps only `=`."""
        p, attention, width = self.config.p, block.attention, self.config.hidden_dim
        count = a.shape[-1]
        sizes = [p, p, count, count]
        normal = block.norm1(stream)
        keys_values = attention.query_key_value(normal, slice(width, 3 * width))
        asking = normal[..., -count:, :] if last else normal
        query = attention.heads(attention.query_key_value(asking, slice(0, width)))
        key01, kv2, kv3 = keys_values.split([2 * p, count, count], -2)
        shared = rows(key01.unflatten(-2, (2, p)).transpose(-3, -2).flatten(-2), a)
        parts = [attention.heads(part) for part in shared.chunk(4, -1)]
        parts += [attention.heads(part) for kv in (kv2, kv3) for part in kv.chunk(2, -1)]
        keys, values = parts[0::2], parts[1::2]
        if last:
            mixed = attend(query, keys, values)
            return block.finish(stream[..., -count:, :], mixed)
        _, q1, q2, q3 = query.split(sizes, -3)
        k01, v01 = keys_values[..., : 2 * p, :].chunk(2, -1)
        k0, k1 = attention.heads(k01).split(p, -3)
        v0, v1 = attention.heads(v01).split(p, -3)
        mixed = torch.cat(
            [
                v0.flatten(-2),
                attend(q1, [k0, k1], [v0, v1]),
                attend(q2, keys[:3], values[:3]),
                attend(q3, keys, values),
            ],
            -2,
        )
        return block.finish(stream, mixed)

    def forward(self, pairs: Tensor) -> Tensor:
        """Pairs (..., rows, 2) → logits (..., rows, p)."""
        return self.read_out(self.get_representation(pairs))

    def read_out(self, state: Tensor) -> Tensor:
        """Logits from the normalised last state."""
        if self.unembed is not None:
            return self.unembed(state)
        return state @ self.token_embedding[..., : self.config.p, :].mT

    # -- the plain way -------------------------------------------------------------------------

    def tokens(self, pairs: Tensor) -> Tensor:
        """`[a, op, b, =]`: pairs (..., rows, 2) → tokens (..., rows, 4)."""
        a, b = pairs.unbind(-1)
        p = self.config.p
        return torch.stack([a, torch.full_like(a, p), b, torch.full_like(a, p + 1)], -1)

    def get_embeddings(self, pairs: Tensor) -> Tensor:
        """Token embeddings (..., rows, 4, width), before positions are added."""
        tokens = self.tokens(pairs)
        flat = rows(self.token_embedding, tokens.flatten(-2))
        return flat.unflatten(-2, (-1, POSITIONS))

    def forward_from_embeddings(self, embeddings: Tensor) -> Tensor:
        """Token embeddings (..., rows, 4, width) → logits (..., rows, p), every position computed.

        The network as one would write it down: what the fast way is tested against, and what
        derivatives with respect to the input go through.
        """
        positions = self.position_embedding.unsqueeze(-3)
        stream = embeddings + positions
        mask = torch.full((POSITIONS, POSITIONS), -math.inf, device=stream.device).triu(1)
        for block in self.blocks:
            attention = block.attention
            projected = attention.query_key_value(block.norm1(stream)).chunk(3, -1)
            query, key, value = (attention.heads(part).transpose(-3, -2) for part in projected)
            scores = query @ key.mT / math.sqrt(query.shape[-1]) + mask.to(query.dtype)
            mixed = (scores.softmax(-1) @ value).transpose(-3, -2).flatten(-2)
            stream = block.finish(stream, mixed)
        return self.read_out(self.norm(stream[..., -1, :]))
