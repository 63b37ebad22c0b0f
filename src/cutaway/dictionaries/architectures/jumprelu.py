"""JumpReLU (Rajamanoharan et al. 2024, arXiv 2407.14435): each feature has a threshold it learns.

    f = z·H(z − θ),   z = W_enc x̃ + b_enc

H has no useful derivative; θ learns by a rectangle kernel K of width ε around it (straight-through,
on pre-activations):

    ∂f/∂θ = −(θ/ε)·K((z − θ)/ε)        ∂H/∂θ = −(1/ε)·K((z − θ)/ε)        ∂f/∂z = H(z − θ)

Three penalties: `step` λ·‖f‖₀ reaches θ only (the paper's); `target` λ·(‖f‖₀/L0* − 1)² likewise
(paper, appendix; batch mean of the count inside the square); `tanh` λ·Σ tanh(c·f) reaches
the encoder too (Anthropic, January 2025 update).

Features that are dead get two things. AuxK teaches their encoder and decoder rows what the live
ones leave over; and as a feature can only come back if its threshold lets it, θ shrinks by a fifth
a step until the feature fires. (The update's loss Σ relu(θ − z) lowers θ too, but at a pace that
hangs on Adam's memory, and takes its share of the clipped gradient norm.)

On synthetic superposition the three forms recover alike, MMCS 0.98, 0.97 and 0.98, where dead
features come back, and 0.8 where not: docs/dictionaries.md, "Which penalty". The default is `step`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape, Step, TrainingHints
from cutaway.dictionaries.model.revival import auxiliary_loss
from cutaway.sparse.codes import Codes, DenseCodes
from cutaway.sparse.pattern import above

TANH_SCALE = 4.0  # c of the tanh penalty, for inputs with E‖x̃‖² = d
REVIVAL = 1.0  # AuxK's weight here; at 1/32 features come back as well, but having learnt less
SHRINK = 0.2  # by what share a dead feature's threshold shrinks in a step


class JumpReLU(Dictionary):
    architecture = "jumprelu"
    subtracts_bias = False

    def __init__(self, shape: DictionaryShape, seed: int = 0):
        super().__init__(shape, seed)
        self.threshold = nn.Parameter(torch.full((shape.d_hidden,), 0.1))

    def activate(self, x: Tensor) -> Codes:
        # below zero, as other libraries' files may have it, a threshold is as good as zero
        return self.pre_activations(x, above(self.threshold.clamp(min=0.0)), dense=False)

    def step(self, x: Tensor, hints: TrainingHints) -> Step:
        width, pre = self.shape.bandwidth, self._near(x, dense=hints.dense)
        threshold = pre.per_feature(self.threshold)
        codes = pre.of(Jump.apply(pre.values, threshold, width))
        written = self.reconstruct(codes)
        losses = {"sparsity_loss": self._penalty(pre, threshold, hints)}
        if hints.dead is not None:
            losses["auxiliary_loss"] = auxiliary_loss(self, x, x - written, hints.dead, REVIVAL)
        return Step(codes, written, losses)

    @torch.no_grad()
    def wake(self, dead: Tensor) -> None:
        self.threshold.mul_(torch.where(dead, 1 - SHRINK, 1.0))

    @torch.no_grad()
    def push(self, factor: Tensor) -> None:
        self.threshold.mul_(factor)

    def start(self, x: Tensor, target_l0: float) -> None:
        """Encoder and threshold such that about `target_l0` features are active."""
        super().start(x, target_l0)
        with torch.no_grad():
            self.encoder_bias.copy_(-(self.encoder_weight @ self.decoder_bias))
            z = x @ self.encoder_weight.T + self.encoder_bias
            place = max(1, round(z.numel() * (1 - target_l0 / self.shape.d_hidden)))
            self.threshold.fill_(z.flatten().kthvalue(place).values.clamp(min=1e-3))

    def _near(self, x: Tensor, *, dense: bool) -> Codes:
        """Pre-activations down to the band around θ: beyond it features and gradients are zero."""
        if dense:  # all, as the jump itself is zero elsewhere
            return DenseCodes(F.linear(x, self.encoder_weight, self.encoder_bias).float())
        limit = self.threshold.detach() - self.shape.bandwidth / 2
        return self.pre_activations(x, above(limit), dense=False)

    def _penalty(self, pre: Codes, threshold: Tensor, hints: TrainingHints) -> Tensor:
        active = Count.apply(pre.values, threshold, self.shape.bandwidth)
        if hints.sparsity == "tanh":  # tanh(c·z)·H(z − θ), which gives θ what its mean loses
            active = active * (TANH_SCALE * pre.values).tanh()
        count = active.sum() / pre.shape[0]
        if hints.sparsity == "target":
            return hints.sparsity_weight * (count / hints.target_l0 - 1).square()
        return hints.sparsity_weight * count

    @torch.no_grad()
    def normalise(self) -> None:
        super().normalise()
        self.threshold.clamp_(min=0.0)


class Jump(torch.autograd.Function):
    """z·H(z − θ) and its straight-through gradient; z, θ broadcast against each other."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.width = width
        return torch.where(z > threshold, z, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, threshold = ctx.saved_tensors
        near = (z - threshold).abs() < ctx.width / 2
        own = torch.where(near, gradient * threshold, 0).div_(-ctx.width)
        return torch.where(z > threshold, gradient, 0), own.sum_to_size(threshold.shape), None


class Count(torch.autograd.Function):
    """H(z − θ), whose straight-through gradient reaches θ only."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.width = width
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, threshold = ctx.saved_tensors
        near = (z - threshold).abs() < ctx.width / 2
        own = torch.where(near, gradient, 0).div_(-ctx.width)
        return None, own.sum_to_size(threshold.shape), None
