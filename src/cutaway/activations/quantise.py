"""States in fewer bytes: bfloat16, or int8 with a scale per token; and what that costs."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def quantise(states: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes q = round(x / s) with a scale s = max|x| / 127 per token.

    `states` (rows, d) → codes (rows, d) int8 and scales (rows,) float32; a row of zeros has
    scale 0. Rounding is half to even; each entry is off by at most s / 2.
    """
    states = states.float()
    scale = states.abs().amax(dim=-1) / 127
    divisor = torch.where(scale > 0, scale, 1.0).unsqueeze(-1)
    return (states / divisor).round_().clamp_(-127, 127).to(torch.int8), scale


def dequantise(codes: Tensor, scale: Tensor) -> Tensor:
    """x̂ = s·q in float32: (..., rows, d) codes and (..., rows) scales."""
    return codes.float().mul_(scale.unsqueeze(-1))


def relative_errors(states: Tensor, stored: Tensor) -> Tensor:
    """‖x − x̂‖² / ‖x‖² of each row, float32 (rows,); 0 for a row of zeros."""
    states = states.float()
    error = (stored.float() - states).square_().sum(-1)
    size = states.square().sum(-1)
    return torch.where(size > 0, error / torch.where(size > 0, size, 1.0), 0.0)
