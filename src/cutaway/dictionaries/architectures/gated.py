"""Gated (Rajamanoharan et al. 2024, arXiv 2404.16014): one path says whether, another how much.

    π = W_enc (x̃ − b_dec) + b_enc            (the gate's pre-activation)
    f = H(π) · relu(exp(r)·W_enc (x̃ − b_dec) + b_mag)
    loss = ‖x̃ − x̂(f)‖² + λ·Σ relu(π) + ‖x̃ − x̂_frozen(relu(π))‖²

The last term's decoder, b_dec in the gate included, is a frozen copy: it reaches the encoder only.
H passes no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cutaway.dictionaries.architectures.relu import begin_near
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape, Step, TrainingHints
from cutaway.dictionaries.model.revival import auxiliary_loss
from cutaway.sparse.codes import Codes, encode
from cutaway.sparse.pattern import above


class Gated(Dictionary):
    architecture = "gated"

    def __init__(self, shape: DictionaryShape, seed: int = 0):
        super().__init__(shape, seed)
        self.log_magnitude = nn.Parameter(torch.zeros(shape.d_hidden))
        self.magnitude_bias = nn.Parameter(torch.zeros(shape.d_hidden))

    def activate(self, x: Tensor) -> Codes:
        return self._magnitudes(self.pre_activations(x, above(0.0), dense=False))

    def step(self, x: Tensor, hints: TrainingHints) -> Step:
        bias, weight = self.decoder_bias, self.encoder_weight
        alone = encode(
            *(x - bias.detach(), None, weight, self.encoder_bias, above(0.0)), dense=hints.dense
        )
        # zero; it carries to b_dec, as the encoder's centre, what the other losses have to say
        centre = (bias.detach() - bias) @ weight.detach().T
        on = alone.values.detach() > 0
        gate = alone.of(alone.values + alone.per_feature(centre) * on)
        codes = self._magnitudes(gate)
        written = self.reconstruct(codes)
        frozen = alone.decode(self.decoder_weight.detach()) + bias.detach()
        losses = {
            "sparsity_loss": hints.sparsity_weight * gate.values.sum() / len(x),
            "gate_loss": (x - frozen).square().sum() / len(x),
        }
        if hints.dead is not None:
            losses["auxiliary_loss"] = auxiliary_loss(self, x, x - written, hints.dead)
        return Step(codes, written, losses)

    def _magnitudes(self, gate: Codes) -> Codes:
        on = gate.values.detach() > 0
        product = gate.values - gate.per_feature(self.encoder_bias)
        scale = gate.per_feature(self.log_magnitude.exp())
        magnitudes = torch.relu(product * scale + gate.per_feature(self.magnitude_bias))
        return gate.of(magnitudes * on)

    def start(self, x: Tensor, target_l0: float) -> None:
        super().start(x, target_l0)
        begin_near(self, x, target_l0)
        self.magnitude_bias.data.copy_(self.encoder_bias.data)
