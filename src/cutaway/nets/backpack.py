"""The Backpack language model (Hewitt et al. 2023, arXiv 2305.16765).

Each word x has k sense vectors C(x)₁..C(x)ₖ that depend on the word alone. A transformer reads the
context and only decides how much of each earlier word's senses to add up:

    o_i = Σₗ Σ_{j≤i} αₗᵢⱼ C(x_j)ₗ        logits_i = E · o_i

so token j's sense l adds exactly αₗᵢⱼ · E_w·C(x_j)ₗ to the logit of word w, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from cutaway.base.seeds import torch_generator
from cutaway.nets.gpt2 import LanguageModel
from cutaway.nets.trunk import MLP, Trunk, TrunkConfig, causal_attention, initialise


@dataclass(frozen=True)
class BackpackConfig(TrunkConfig):
    """A trunk's shape and k, the number of senses; k must divide the width."""

    n_senses: int = 16


class Senses(nn.Module):
    """Word embedding → its k sense vectors, (..., d) → (..., k, d); no position, no context.

    LayerNorm, one residual MLP block, then an MLP from d to k · d.
    """

    def __init__(self, config: BackpackConfig):
        super().__init__()
        self.n_senses = config.n_senses
        self.norm1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)
        self.norm2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.expand = MLP(config, out=config.n_senses * config.n_embd)

    def forward(self, embedded: Tensor) -> Tensor:
        x = self.norm1(embedded)
        x = self.norm2(x + self.mlp(x))
        return self.expand(x).unflatten(-1, (self.n_senses, -1))


class Contextualisation(nn.Module):
    """Trunk states (batch, T, d) → α (batch, k, T, T), a causal softmax for each sense.

    One linear map makes queries and keys, d / k wide per sense.
    """

    def __init__(self, config: BackpackConfig):
        super().__init__()
        self.n_senses = config.n_senses
        self.query_key = nn.Linear(config.n_embd, 2 * config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        split = self.query_key(x).unflatten(-1, (2, self.n_senses, -1))
        query, key = split.permute(2, 0, 3, 1, 4).unbind()
        return causal_attention(query, key)


class Backpack(LanguageModel):
    """Trunk, senses and contextualisation; the head decodes the weighted sum of senses."""

    def __init__(self, config: BackpackConfig, seed: int = 0):
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        self.senses = Senses(config)
        self.contextualisation = Contextualisation(config)
        self.edit: Callable[[Tensor, Tensor], Tensor] | None = None
        initialise(self, config.n_layer, torch_generator(seed, 0, "weights"))

    def alpha(self, tokens: Tensor) -> Tensor:
        """α of every sense, query position i and key position j: (batch, k, T, T)."""
        return self.contextualisation(self.trunk(tokens))

    def sense_vectors(self, tokens: Tensor) -> Tensor:
        """C(x) for tokens of any shape (...): (..., k, d), changed by `edit` where one is set.

        `edit(tokens, senses)` returns the senses to use instead: how interventions reach them.
        """
        senses = self.senses(self.trunk.token_embedding(tokens))
        return senses if self.edit is None else self.edit(tokens, senses)

    def state(self, tokens: Tensor) -> Tensor:
        return self.mix(self.alpha(tokens), self.sense_vectors(tokens))

    @staticmethod
    def mix(alpha: Tensor, senses: Tensor) -> Tensor:
        """o = Σₗ Σⱼ αₗᵢⱼ Cₗ(x_j): (batch, k, T, T) and (batch, T, k, d) → (batch, T, d)."""
        batch, k, length, _ = alpha.shape
        # one product with the k senses side by side: (T, k·T) @ (k·T, d)
        weights = alpha.transpose(1, 2).reshape(batch, length, k * length)
        stacked = senses.transpose(1, 2).reshape(batch, k * length, -1)
        return weights @ stacked.to(weights.dtype)
