"""What a room hands to the loop: batches, a loss, an evaluation, and all state as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cutaway.base import hardware
from cutaway.base.errors import RunFailed
from cutaway.training.config import LoopConfig
from cutaway.training.updaters import adamw
from cutaway.training.updating import Updater


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


class Evaluated(dict[str, Tensor | float]):
    """Figures of a stack, with `failures`: why members of it, by number, cannot go on."""

    def __init__(self, figures: Mapping[str, Tensor | float], failures: Mapping[int, RunFailed]):
        super().__init__(figures)
        self.failures = dict(failures)


class Task(nn.Module):
    """Something that can be trained. ALL its state is parameters or buffers: that, and batches
    that are pure functions of (seed, step, part), is what makes a resumed run equal the whole.

    `members`: how many runs are stacked on a leading axis. `monitor`: the evaluated figure that
    says which checkpoint is best (None: no checkpoint is). `separable`: whether a batch may be cut
    into parts; `batch_field`: the setting, in its study's config, that makes batches smaller where
    they may not (None: there is none). `unit` and `units_per_step`: what the progress bar counts.
    """

    model: nn.Module
    members: int = 1
    monitor: tuple[str, Literal["min", "max"]] | None = ("val_loss", "min")
    separable: bool = True
    batch_field: str | None = "batch_size"
    unit: str = "examples"
    units_per_step: int = 1

    def batch(self, step: int, part: Part = WHOLE) -> Any:
        """The part's batch on the task's device; the same for the same (step, part)."""
        raise TypeError(f"{type(self).__name__} has no batch()")

    def loss(self, batch: Any) -> Loss:
        """The differentiable loss of a batch."""
        raise TypeError(f"{type(self).__name__} has no loss()")

    def evaluate(self) -> Mapping[str, Tensor | float]:
        """Figures of the present weights; called in eval mode without gradients.

        A task that cannot go on raises RunFailed; a stack in which only some members cannot returns
        `Evaluated`.
        """
        return {}

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies to a parameter: by default to matrices only."""
        return parameter.ndim - (self.members > 1) >= 2  # a stack's first axis is its members

    def rate(self, name: str) -> float:
        """By what a parameter's learning rate is multiplied."""
        return 1.0

    def updater(self, configs: Sequence[LoopConfig]) -> Updater:
        """What turns gradients into a step, one config per member; AdamW unless a task says
        otherwise."""
        return adamw(self, configs)

    def settle(self, member: int, precision: str) -> Mapping[str, Any]:
        """Before the first step, the precision is chosen: what else this machine decided for a
        member, under the names of its study's settings."""
        return {}

    def line(self, step: int, figures: Mapping[str, float]) -> str | None:
        """One line to print while it trains, from the newest row; None for the progress bar only."""
        return None

    # -- what instruments may ask; each raises TypeError where a task has no answer ------------

    def twice_differentiable(self) -> AbstractContextManager[None]:
        """Within it `loss` can be differentiated twice (no fused kernels)."""
        return nullcontext()

    def example_losses(self, batch: Any) -> Tensor:
        """The loss of each example, (examples,) or (members, examples); `loss` is their mean."""
        raise TypeError(f"{type(self).__name__} has no example_losses()")

    def embed(self, batch: Any) -> Tensor:
        """What enters the network, detached: (examples, ...) or (members, examples, ...)."""
        raise TypeError(f"{type(self).__name__} has no embed()")

    def outputs(self, embeddings: Tensor) -> Tensor:
        """Logits (examples, classes) or (members, examples, classes) of what `embed` gives.

        Twice differentiable; one example's logits depend on its own embeddings only.
        """
        raise TypeError(f"{type(self).__name__} has no outputs()")

    def targets(self, batch: Any) -> Tensor:
        """The right class of each example, (examples,) or (members, examples)."""
        raise TypeError(f"{type(self).__name__} has no targets()")

    def output_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each row of logits (..., classes) for its class (...): cross-entropy."""
        wide = outputs.to(hardware.wide(outputs.device))
        return -wide.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)

    def representations(self, batch: Any) -> Tensor:
        """The state before the unembedding, (examples, width) or (members, examples, width)."""
        raise TypeError(f"{type(self).__name__} has no representations()")

    def after_step(self, step: int) -> None:
        """Called after each update (unit norms, moving averages)."""

    def member_state(self, member: int) -> dict[str, Tensor]:
        """The state of one member, as if it had trained alone: its slice of every tensor.

        A single number is common to all members.
        """
        state = self.state_dict()
        if self.members == 1:
            return state
        return {
            name: value[member].contiguous() if value.ndim else value
            for name, value in state.items()
        }

    def load_members(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Take up what `member_state` gave, one state per member."""
        for name, own in self.state_dict().items():
            values = [state[name] for state in states]
            own.copy_(values[0] if own.shape == values[0].shape else torch.stack(values))
