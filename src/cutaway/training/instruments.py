"""Measurements that ride on any task: what they see, and what they promise.

An instrument never touches weights or `.grad` (it uses `torch.autograd.grad`), draws random
numbers only from the moment's generator, and keeps what it must remember in `state()`. So a run
with instruments equals one without, bit for bit, and resumes exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from cutaway.training.task import Loss, Task
from cutaway.training.updaters import Updater

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant of training, at θ_step: after backward, before the update."""

    step: int
    task: Task
    batch: Any  # of the step's last part
    loss: Loss
    updater: Updater
    gradient_norm: Tensor
    generator: torch.Generator


class Instrument(Protocol):
    """A measurement taken every `every` steps.

    A mapping joins the step's row of the history; a table becomes the run's table `name`.
    """

    name: str
    every: int

    def read(self, at: Moment) -> Mapping[str, Tensor | float] | pa.Table: ...

    def state(self) -> dict[str, Tensor]:
        """What it must remember between readings; empty where it remembers nothing."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None: ...


class Stateless:
    """The two state methods for instruments that remember nothing."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        pass
