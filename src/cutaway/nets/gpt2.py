"""GPT-2 (Radford et al. 2019): the trunk, and the token embedding again as its output layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.base.seeds import torch_generator
from cutaway.nets.head import head_cross_entropy, plain_cross_entropy
from cutaway.nets.trunk import Trunk, TrunkConfig, initialise


class LanguageModel(nn.Module):
    """What every language model here has: a trunk, a state to be decoded, a tied head.

    Subclasses say what the state is. logits = E · state, loss = cross-entropy of those.
    """

    trunk: Trunk

    def state(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, T) → what the head decodes, (batch, T, d)."""
        raise TypeError(f"{type(self).__name__} does not say what its head decodes")

    @property
    def embedding(self) -> Tensor:
        """The token embedding E, (vocabulary, d): first layer and head at once."""
        return self.trunk.token_embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, T) → logits (batch, T, vocabulary)."""
        return F.linear(self.state(tokens), self.embedding)

    def loss(self, tokens: Tensor, targets: Tensor, *, twice: bool = False) -> Tensor:
        """Mean cross-entropy in nats per token; `twice` keeps it twice differentiable."""
        cross_entropy = plain_cross_entropy if twice else head_cross_entropy
        return cross_entropy(self.state(tokens).flatten(0, -2), self.embedding, targets.flatten())


class GPT2(LanguageModel):
    """The baseline: the trunk's normalised output is what the head decodes."""

    def __init__(self, config: TrunkConfig, seed: int = 0):
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        initialise(self, config.n_layer, torch_generator(seed, 0, "weights"))

    def state(self, tokens: Tensor) -> Tensor:
        return self.trunk(tokens)
