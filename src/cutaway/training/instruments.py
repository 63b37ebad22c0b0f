"""Measurements that ride on any task: what they see, and what they promise.

An instrument never touches weights or `.grad` (it uses `torch.autograd.grad`), draws random
numbers only from the moment's generator, and keeps what it must remember in `state()`. So a run
with instruments equals one without, bit for bit, and resumes exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from cutaway.training.config import LoopConfig
from cutaway.training.task import Loss, Task
from cutaway.training.updating import Updater

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant of training, at θ_step: after backward, before the update.

    `generators` and `configs` hold one for each member, so that a member of a stack draws what it
    would draw alone. `gradient_norm` is () or (members,).
    """

    step: int
    task: Task
    batch: Any  # of the step's last part
    loss: Loss
    updater: Updater
    gradient_norm: Tensor
    generators: Sequence[torch.Generator]
    configs: Sequence[LoopConfig]


class Instrument(Protocol):
    """A measurement taken every `every` steps.

    A mapping joins the step's row of the history (its values () or (members,)); a table becomes
    the run's table `name`, a list of tables one for each member's run. What a reading cost joins
    the row as `cost_ms.<name>`.
    """

    name: str
    every: int

    def read(self, at: Moment) -> Mapping[str, Tensor | float] | pa.Table | list[pa.Table]: ...

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
