"""ReLU with an L1 penalty (Bricken et al. 2023): f = relu(W_enc (x̃ − b_dec) + b_enc).

loss = ‖x̃ − x̂‖² + λ·Σ f, the decoder's rows being of length 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.dictionaries.model.dictionary import Dictionary, Step, TrainingHints
from cutaway.dictionaries.model.revival import auxiliary_loss
from cutaway.sparse.codes import Codes
from cutaway.sparse.pattern import above


class ReLU(Dictionary):
    architecture = "relu"

    def activate(self, x: Tensor) -> Codes:
        return self.pre_activations(x, above(0.0), dense=False)

    def step(self, x: Tensor, hints: TrainingHints) -> Step:
        codes = self.pre_activations(x, above(0.0), dense=hints.dense)
        written = self.reconstruct(codes)
        losses = {"sparsity_loss": hints.sparsity_weight * codes.values.sum() / len(x)}
        if hints.dead is not None:
            losses["auxiliary_loss"] = auxiliary_loss(self, x, x - written, hints.dead)
        return Step(codes, written, losses)

    def start(self, x: Tensor, target_l0: float) -> None:
        super().start(x, target_l0)
        begin_near(self, x, target_l0)


def begin_near(dictionary: Dictionary, x: Tensor, target_l0: float) -> None:
    """An encoder bias with which about `target_l0` pre-activations of a sample are positive."""
    with torch.no_grad():
        z = dictionary.centred(x) @ dictionary.encoder_weight.T
        place = max(1, round(z.numel() * (1 - target_l0 / dictionary.shape.d_hidden)))
        dictionary.encoder_bias.fill_(-z.flatten().kthvalue(place).values)
