"""What a room hands to the loop: batches, a loss, an evaluation, and all state as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

if TYPE_CHECKING:
    from cutaway.training.config import LoopConfig
    from cutaway.training.updaters import Updater


@dataclass(frozen=True, slots=True)
class Part:
    """Slice `index` of `of` equal slices of a step's batch.

    Accumulation, ranks of a distributed run and halving when memory runs out are this one idea.
    """

    index: int = 0
    of: int = 1

    def slice(self, count: int) -> slice:
        """Which of `count` items belong to this part; the slices of all parts cover each once."""
        return slice(self.index * count // self.of, (self.index + 1) * count // self.of)


WHOLE = Part()


@dataclass(slots=True)
class Loss:
    """What a task's `loss` returns. `total` is () or (members,): the mean over the part.

    `parts` is called only for rows that are recorded. `weight` is the part's share of the step's
    batch (None: 1 / of). `extras` carries what instruments want to see, detached.
    """

    total: Tensor
    parts: Callable[[], Mapping[str, Tensor]] = dict
    weight: float | None = None
    extras: dict[str, Any] = field(default_factory=dict)


class Task(nn.Module):
    """Something that can be trained. ALL its state is parameters or buffers: that, and batches
    that are pure functions of (seed, step, part), is what makes a resumed run equal the whole.

    `members`: how many runs are stacked on a leading axis. `monitor`: the evaluated figure that
    says which checkpoint is best. `separable`: whether a batch may be cut into parts.
    `unit` and `units_per_step`: what the progress bar counts.
    """

    model: nn.Module
    members: int = 1
    monitor: tuple[str, Literal["min", "max"]] = ("val_loss", "min")
    separable: bool = True
    unit: str = "examples"
    units_per_step: int = 1

    def batch(self, step: int, part: Part = WHOLE) -> Any:
        """The part's batch on the task's device; the same for the same (step, part)."""
        raise TypeError(f"{type(self).__name__} has no batch()")

    def loss(self, batch: Any) -> Loss:
        """The differentiable loss of a batch."""
        raise TypeError(f"{type(self).__name__} has no loss()")

    def evaluate(self) -> Mapping[str, Tensor | float]:
        """Figures of the present weights; called in eval mode without gradients."""
        return {}

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies to a parameter: by default to matrices only."""
        return parameter.ndim >= 2

    def updater(self, config: LoopConfig) -> Updater:
        """What turns gradients into a step; AdamW unless a task says otherwise."""
        from cutaway.training.updaters import AdamW

        return AdamW(self, config)

    def after_step(self, step: int) -> None:
        """Called after each update (unit norms, moving averages)."""

    def member_state(self, member: int) -> dict[str, Tensor]:
        """The state of one member, as if it had trained alone."""
        if self.members == 1:
            return self.state_dict()
        raise TypeError(f"{type(self).__name__} stacks members but cannot take one out")
