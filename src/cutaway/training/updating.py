"""The contract of an updater: gradient norm, clipping, the step; and what it needs of a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from cutaway.base.errors import UserError


class Trainable(Protocol):
    """What an updater needs of a task (`training.task.Task` has it)."""

    members: int

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def decays(self, name: str, parameter: nn.Parameter) -> bool: ...

    def rate(self, name: str) -> float: ...


class Updater(Protocol):
    """Owns the parameters' update. A member's state is a flat dictionary of tensors."""

    def zero(self) -> None: ...

    def clip(self) -> Tensor:
        """The gradient's L2 norm, () or (members,), before it is scaled down to the limit.

        Called between every backward and `step`, which may rely on it.
        """
        ...

    def step(self, rates: Sequence[float]) -> None:
        """Update every parameter, at each member's learning rate."""
        ...

    def moments(self, name: str) -> Mapping[str, Tensor]:
        """Adam's `exp_avg`, `exp_avg_sq` and `step` of a parameter; empty before a first step."""
        ...

    def state(self, member: int = 0) -> dict[str, Tensor]: ...

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Take up one state per member."""
        ...


def require_shape(what: str, value: Tensor, shape: torch.Size) -> None:
    """Refuse a moment that belongs to another network."""
    if value.shape != shape:
        raise UserError(
            f"the checkpoint's {what} has shape {tuple(value.shape)}, this run's {tuple(shape)}: "
            "a checkpoint of another configuration"
        )
