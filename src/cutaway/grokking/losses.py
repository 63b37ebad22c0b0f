"""Losses of modular arithmetic: cross-entropy kept exact, stablemax, and what may be added."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label] of each row, in nats: (..., rows, classes) → (..., rows).

    In the logits' own precision: once a network has memorised, float32 rounds exp(-margin) away
    and the gradient with it ("softmax collapse", Prieto et al. 2025), so callers widen first.
    """
    chosen = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1))
    return -chosen.squeeze(-1)


def stablemax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log(s(x_label) / Σ s(x)), s(x) = x + 1 for x ≥ 0, 1 / (1 - x) below (Prieto et al. 2025)."""
    # both branches stay finite, so that no NaN reaches the gradient of the one not taken
    weights = torch.where(logits >= 0, logits + 1, 1 / (1 - logits.clamp(max=0)))
    chosen = weights.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return weights.sum(-1).log() - chosen.log()


EXAMPLE_LOSSES = {"cross_entropy": cross_entropy, "stablemax": stablemax_cross_entropy}


def jacobian_penalty(embeddings: Tensor, logits: Tensor, classes: int) -> Tensor:
    """An unbiased estimate of the mean over rows of ‖∂ logits / ∂ embeddings‖²_F, differentiable.

    ‖J‖²_F = classes · E‖Jᵀv‖² for v uniform on the unit sphere, one v per row from torch's own
    stream; embeddings (rows, ...) must require a gradient, logits (rows, classes) come from them.
    """
    probes = torch.randn_like(logits)
    probes = probes / probes.norm(dim=-1, keepdim=True)
    (pulled,) = torch.autograd.grad((logits * probes).sum(), embeddings, create_graph=True)
    return classes * pulled.flatten(1).square().sum(-1).mean()
