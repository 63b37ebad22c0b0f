"""Weight norms: the L2 norm of each component's parameters, and of all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.training.instruments import Moment, Stateless


class WeightNorms(Stateless):
    """`weight_norm` = ‖θ‖₂ over all parameters, and `weight_norm.<component>` for each component.

    Of a stack each member's own. A component is a parameter's path without its last two names:
    `blocks.0.attention`, `norm`.
    """

    name = "weight_norms"

    def __init__(self, every: int):
        self.every = every
        self._components: list[str] | None = None
        self._member: Tensor | None = None

    def read(self, at: Moment) -> dict[str, Tensor]:
        named = [(name, p.detach()) for name, p in at.task.model.named_parameters()]
        if self._components is None:
            owners = [component(name) for name, _ in named]
            self._components = list(dict.fromkeys(owners))
            self._member = torch.tensor([self._components.index(owner) for owner in owners])
        if at.task.members == 1:
            norms = torch.stack(torch._foreach_norm([p for _, p in named]))
        else:  # (parameters, members)
            norms = torch.stack([torch.linalg.vector_norm(p.flatten(1), dim=1) for _, p in named])
        norms = norms.to(hardware.wide(norms.device))
        squares = norms.new_zeros(len(self._components), *norms.shape[1:])
        squares.index_add_(0, self._member.to(norms.device), norms.square())
        row = {"weight_norm": squares.sum(0).sqrt()}
        for index, name in enumerate(self._components):
            row[f"weight_norm.{name}"] = squares[index].sqrt()
        return row


def component(parameter: str) -> str:
    """`trunk.blocks.0.attention.out.weight` → `blocks.0.attention`; `trunk.norm.bias` → `norm`."""
    parts = [part for part in parameter.split(".") if part != "trunk"]
    if parts[0] == "blocks":
        return ".".join(parts[:3])
    return parts[0]
