"""From gradients to a step: gradient norm, clipping, AdamW for one run or a stack of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from cutaway.base.errors import UserError
from cutaway.training.config import LoopConfig

if TYPE_CHECKING:
    from cutaway.training.task import Task
    from cutaway.training.variants import GradientFilter


class Updater(Protocol):
    """Owns the parameters' update. A member's state is a flat dictionary of tensors."""

    def zero(self) -> None: ...

    def clip(self) -> Tensor:
        """The gradient's L2 norm, () or (members,), before it is scaled down to the limit."""
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


def adamw(
    task: Task, configs: Sequence[LoopConfig], filters: Sequence[GradientFilter] = ()
) -> Updater:
    """AdamW for a task's parameters: PyTorch's fused kernel for one run, our own for a stack.

    `filters` change the gradient just before the update, in their order.
    """
    if task.members == 1:
        return AdamW(task, configs[0], filters)
    from cutaway.training.stacked import StackedAdamW

    return StackedAdamW(task, configs, filters)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), PyTorch's fused kernel.

    Which parameters decay is the task's to say (`Task.decays`).
    """

    def __init__(self, task: Task, config: LoopConfig, filters: Sequence[GradientFilter] = ()):
        named = [(name, p) for name, p in task.named_parameters() if p.requires_grad]
        self.parameters = dict(named)
        self.limit, self.filters = config.gradient_clip, filters
        decayed = [p for name, p in named if task.decays(name, p)]
        rest = [p for name, p in named if not task.decays(name, p)]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=True,
        )

    def zero(self) -> None:
        for parameter in self.parameters.values():  # a tenth of the time of optimizer.zero_grad()
            parameter.grad = None

    def clip(self) -> Tensor:
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.limit is not None and math.isfinite(self.limit):
            nn.utils.clip_grads_with_norm_(self.parameters.values(), self.limit, norm)
        return norm

    def step(self, rates: Sequence[float]) -> None:
        for one in self.filters:
            one.apply(self.parameters)
        for group in self.optimizer.param_groups:
            group["lr"] = rates[0]
        self.optimizer.step()

    def moments(self, name: str) -> Mapping[str, Tensor]:
        return self.optimizer.state.get(self.parameters[name], {})

    def state(self, member: int = 0) -> dict[str, Tensor]:
        moments = {
            f"{key}.{name}": value
            for name in self.parameters
            for key, value in self.moments(name).items()
        }
        return moments | filter_state(self.filters)

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        (state,) = states
        for name, parameter in self.parameters.items():
            moments = {}
            for key in ("exp_avg", "exp_avg_sq", "step"):
                value = state.get(f"{key}.{name}")
                if value is None:
                    continue
                if key != "step":
                    require_shape(f"{key} of {name}", value, parameter.shape)
                device = (
                    None if key == "step" and parameter.device.type == "cpu" else parameter.device
                )
                moments[key] = value.to(device, copy=True)
            if moments:
                self.optimizer.state[parameter] = moments
        load_filters(self.filters, [state], self.parameters)


def require_shape(what: str, value: Tensor, shape: torch.Size) -> None:
    """Refuse a moment that belongs to another network."""
    if value.shape != shape:
        raise UserError(
            f"the checkpoint's {what} has shape {tuple(value.shape)}, this run's {tuple(shape)}: "
            "a checkpoint of another configuration"
        )


def filter_state(filters: Sequence[GradientFilter]) -> dict[str, Tensor]:
    """Everything the filters must remember, by `<filter>.<parameter>`."""
    return {f"{one.name}.{name}": value for one in filters for name, value in one.state().items()}


def load_filters(
    filters: Sequence[GradientFilter],
    states: Sequence[Mapping[str, Tensor]],
    parameters: Mapping[str, Tensor],
) -> None:
    """Give the filters back what `filter_state` took, of one member or stacked from several."""
    for one in filters:
        found: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            parts = [
                state[f"{one.name}.{name}"] for state in states if f"{one.name}.{name}" in state
            ]
            if len(parts) == len(states):
                value = parts[0] if parameter.shape == parts[0].shape else torch.stack(parts)
                found[name] = value.to(parameter.device, copy=True)
        one.load(found)
