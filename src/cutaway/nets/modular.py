"""Networks that learn modular arithmetic: an MLP, and an MLP that routes through parallel heads.

Each reads pairs (a, b) of residues, `(rows, 2)`, and gives logits over the p classes, `(rows, p)`;
stacked networks (`nets.stacked`) read `(members, rows, 2)`. All have `get_embeddings` (what enters:
one-hot for MLPs), `forward_from_embeddings` (the same network from there, for derivatives with
respect to the input) and `get_representation` (the state before the unembedding).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.base.seeds import torch_generator
from cutaway.nets.stacked import Affine, linear_initialise, rows, uniform

Activation = Literal["gelu", "relu"]
_ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}


@dataclass(frozen=True)
class MLPConfig:
    """The shape of a modular-arithmetic MLP: `n_layers` hidden layers of `hidden_dim` units."""

    p: int
    hidden_dim: int
    n_layers: int
    activation: Activation = "gelu"


@dataclass(frozen=True)
class RoutedConfig(MLPConfig):
    """`n_heads` parallel maps in each layer, and the width of the gate's inner state."""

    n_heads: int = 4
    gate_dim: int = 32


class ModularNetwork(nn.Module):
    """What the MLPs share: a first layer on the one-hot pair, and logits from a last state.

    The first layer is a table of `2p` rows, the first p for a, the others for b: a one-hot input
    picks two of its rows, so they are fetched instead of multiplied.
    """

    def __init__(self, config: MLPConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(2 * config.p, config.hidden_dim))
        self.embedding_bias = nn.Parameter(torch.empty(config.hidden_dim))
        self.unembed = Affine(config.hidden_dim, config.p)

    def initialise(self, seed: int) -> None:
        """As PyTorch does for linear maps, one-hot inputs counting 2p."""
        generator = torch_generator(seed, 0, "weights")
        with torch.no_grad():
            for parameter in (self.embedding, self.embedding_bias):
                uniform(parameter, 1 / math.sqrt(2 * self.config.p), generator)
        linear_initialise(self, generator)

    def activate(self, x: Tensor) -> Tensor:
        return _ACTIVATIONS[self.config.activation](x)

    def first(self, pairs: Tensor) -> Tensor:
        """The first layer's activations of pairs (..., rows, 2) → (..., rows, width)."""
        a, b = pairs.unbind(-1)
        table_a, table_b = self.embedding.split(self.config.p, -2)
        # the bias joins the table: one pass less over the rows
        table_a = table_a + self.embedding_bias.unsqueeze(-2)
        return self.activate(rows(table_a, a) + rows(table_b, b))

    def hidden(self, first: Tensor) -> Tensor:
        """From the first layer's activations to the state before the unembedding."""
        raise TypeError(f"{type(self).__name__} does not say what its layers do")

    def forward(self, pairs: Tensor) -> Tensor:
        """Pairs (..., rows, 2) → logits (..., rows, p)."""
        return self.unembed(self.hidden(self.first(pairs)))

    def get_representation(self, pairs: Tensor) -> Tensor:
        """The state before the unembedding, (..., rows, width)."""
        return self.hidden(self.first(pairs))

    def get_embeddings(self, pairs: Tensor) -> Tensor:
        """One-hot inputs (..., rows, 2p) in the parameters' dtype."""
        p = self.config.p
        a, b = F.one_hot(pairs, p).to(self.embedding.dtype).unbind(-2)
        return torch.cat([a, b], -1)

    def forward_from_embeddings(self, embeddings: Tensor) -> Tensor:
        """One-hot (or any) inputs (..., rows, 2p) → logits (..., rows, p)."""
        first = embeddings @ self.embedding + self.embedding_bias.unsqueeze(-2)
        return self.unembed(self.hidden(self.activate(first)))

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Weight decay falls on the weights of every layer, never on biases."""
        return not name.endswith("bias")


class ModularMLP(ModularNetwork):
    """One-hot pair → hidden layers → logits."""

    def __init__(self, config: MLPConfig, seed: int = 0):
        super().__init__(config)
        width = config.hidden_dim
        self.layers = nn.ModuleList(Affine(width, width) for _ in range(config.n_layers - 1))
        self.initialise(seed)

    def hidden(self, first: Tensor) -> Tensor:
        state = first
        for layer in self.layers:
            state = self.activate(layer(state))
        return state


class Gate(nn.Module):
    """softmax(W·gelu(S·state + R·x)): how much each head counts, from a state carried along."""

    def __init__(self, width: int, n_heads: int, gate_dim: int, last: bool):
        super().__init__()
        self.from_state = Affine(gate_dim, gate_dim)
        self.from_input = Affine(width, gate_dim, bias=False)
        self.to_heads = Affine(gate_dim, n_heads)
        self.update = None if last else Affine(gate_dim + width, gate_dim)

    def forward(self, state: Tensor, x: Tensor) -> Tensor:
        """State (..., rows, gate_dim) and input (..., rows, width) → weights (..., rows, heads)."""
        return self.to_heads(F.gelu(self.from_state(state) + self.from_input(x))).softmax(-1)

    def next_state(self, state: Tensor, out: Tensor) -> Tensor:
        """Linear([state, out]); the last layer's gate leaves the state as it is."""
        return state if self.update is None else self.update(torch.cat([state, out], -1))


class RoutedLayer(nn.Module):
    """Parallel heads (linear map, activation) blended softly by a gate's weights."""

    def __init__(self, config: RoutedConfig, last: bool):
        super().__init__()
        width = config.hidden_dim
        self.heads = Affine(width, config.n_heads * width)
        self.gate = Gate(width, config.n_heads, config.gate_dim, last)


class RoutedMLP(ModularNetwork):
    """An MLP whose every layer after the first is several heads, chosen between input by input."""

    config: RoutedConfig

    def __init__(self, config: RoutedConfig, seed: int = 0):
        super().__init__(config)
        count = config.n_layers
        self.layers = nn.ModuleList(RoutedLayer(config, n == count - 1) for n in range(count))
        self.initialise(seed)

    def hidden(self, first: Tensor) -> Tensor:
        return self.route(first)[0]

    def route(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """The last state, and the gates' weights (..., rows, layers, heads)."""
        state = first.new_zeros(*first.shape[:-1], self.config.gate_dim)
        x, weights = first, []
        for layer in self.layers:
            weight = layer.gate(state, x)
            heads = self.activate(layer.heads(x)).unflatten(-1, (self.config.n_heads, -1))
            x = (weight.unsqueeze(-1) * heads).sum(-2)
            state = layer.gate.next_state(state, x)
            weights.append(weight)
        return x, torch.stack(weights, -2)

    def forward_with_routing(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (..., rows, p) and the gates' weights (..., rows, layers, heads)."""
        state, weights = self.route(self.first(pairs))
        return self.unembed(state), weights

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """As for the MLP; the gates are exempt."""
        return ".gate." not in name and super().decays(name, parameter)
