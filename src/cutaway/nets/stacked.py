"""Layers that serve one network or many of one shape at once.

Every parameter may carry a leading member axis: `(out, in)` for one network, `(members, out, in)`
for a stack of them. The code is the same; a stack computes each member's figures as that member
alone would, only in one call. States are `(rows, width)`, or `(members, rows, width)`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N = TypeVar("N", bound=nn.Module)


class Affine(nn.Module):
    """x·Wᵀ + b over the last axis."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor, outputs: slice | None = None) -> Tensor:
        """All outputs, or the slice of them that is wanted."""
        weight, bias = self.weight, self.bias
        if outputs is not None:
            weight = weight[..., outputs, :]
            bias = None if bias is None else bias[..., outputs]
        if weight.ndim == 2:
            return F.linear(x, weight, bias)
        flat = x.flatten(1, -2)
        if bias is None:
            out = torch.bmm(flat, weight.mT)
        else:
            out = torch.baddbmm(bias.unsqueeze(1), flat, weight.mT)
        return out.view(*x.shape[:-1], -1)


class Norm(nn.Module):
    """Layer normalisation over the last axis (Ba et al. 2016), with a gain and a bias."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        width = self.weight.shape[-1:]
        if self.weight.ndim == 1:
            return F.layer_norm(x, width, self.weight, self.bias)
        shape = (self.weight.shape[0], *[1] * (x.ndim - 2), *width)
        normal = F.layer_norm(x, width)
        return torch.addcmul(self.bias.view(shape), normal, self.weight.view(shape))


def rows(table: Tensor, index: Tensor) -> Tensor:
    """table (..., entries, width) at index (..., rows) → (..., rows, width), member by member."""
    if table.ndim == 2:
        return F.embedding(index, table)
    members, entries, width = table.shape
    offsets = entries * torch.arange(members, device=index.device)
    return F.embedding(index + offsets[:, None], table.reshape(-1, width))


def linear_initialise(module: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's default for linear maps: weights and biases from U(±1/√inputs), in place."""
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, Affine):
                bound = 1 / math.sqrt(child.weight.shape[-1])
                for parameter in child.parameters(recurse=False):
                    uniform(parameter, bound, generator)


def uniform(parameter: Tensor, bound: float, generator: torch.Generator) -> None:
    """Fill with U(-bound, bound), drawn on the CPU so that a seed means the same everywhere."""
    if not parameter.is_meta:
        drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
        parameter.copy_(drawn)


def stack(models: Sequence[N]) -> N:
    """One network whose parameters are those of `models`, stacked on a leading axis."""
    stacked = copy.deepcopy(models[0])
    states = [dict(model.named_parameters()) for model in models]
    for name, parameter in stacked.named_parameters():
        parameter.data = torch.stack([state[name].detach() for state in states])
    return stacked
