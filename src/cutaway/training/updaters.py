"""AdamW for one run or a stack of them: which of the two, and the one for a run alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw as adamw_update

from cutaway.training.config import LoopConfig
from cutaway.training.gradient_filters import GradientFilter, filter_state, load_filters
from cutaway.training.stacked import StackedAdamW
from cutaway.training.updating import Trainable, Updater, require_shape


def adamw(
    task: Trainable, configs: Sequence[LoopConfig], filters: Sequence[GradientFilter] = ()
) -> Updater:
    """AdamW for a task's parameters: PyTorch's fused kernel for one run, our own for a stack.

    `filters` change the gradient just before the update, in their order.
    """
    if task.members == 1:
        return AdamW(task, configs[0], filters)
    return StackedAdamW(task, configs, filters)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), PyTorch's fused kernel.

    Which parameters decay is the task's to say (`Task.decays`). The kernel is called through
    `torch.optim`'s functional form: for a network of six tensors the optimizer object around it
    takes three times as long as the update itself.
    """

    def __init__(self, task: Trainable, config: LoopConfig, filters: Sequence[GradientFilter] = ()):
        self.parameters = {name: p for name, p in task.named_parameters() if p.requires_grad}
        self.config, self.filters = config, filters
        self.exp_avg: dict[str, Tensor] = {}
        self.exp_avg_sq: dict[str, Tensor] = {}
        self.steps: dict[str, Tensor] = {}
        # names by weight decay and rate: the kernel takes one of each at a time
        self.groups: dict[tuple[float, float], list[str]] = {}
        for name, parameter in self.parameters.items():
            decay = config.weight_decay if task.decays(name, parameter) else 0.0
            self.groups.setdefault((decay, task.rate(name)), []).append(name)

    def zero(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def clip(self) -> Tensor:
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        limit = self.config.gradient_clip
        if limit is not None and math.isfinite(limit):
            scale = (limit / (norm + 1e-6)).clamp(max=1.0)
            if scale.device.type != "cpu" or scale < 1:  # asking a CPU costs nothing
                torch._foreach_mul_(gradients, scale)
        return norm

    @torch.no_grad()
    def step(self, rates: Sequence[float]) -> None:
        for one in self.filters:
            one.apply(self.parameters)
        config = self.config
        for (weight_decay, scale), names in self.groups.items():
            names = [name for name in names if self.parameters[name].grad is not None]
            if not names:
                continue
            for name in names:
                if name not in self.steps:
                    self._start(name)
            parameters = [self.parameters[name] for name in names]
            adamw_update(
                parameters,
                [p.grad for p in parameters],
                [self.exp_avg[name] for name in names],
                [self.exp_avg_sq[name] for name in names],
                [],
                [self.steps[name] for name in names],
                fused=True,
                amsgrad=False,
                beta1=config.beta1,
                beta2=config.beta2,
                lr=rates[0] * scale,
                weight_decay=weight_decay,
                eps=config.epsilon,
                maximize=False,
            )

    def _start(self, name: str) -> None:
        """Moments of a parameter that gets its first gradient."""
        parameter = self.parameters[name]
        self.exp_avg[name] = torch.zeros_like(parameter)
        self.exp_avg_sq[name] = torch.zeros_like(parameter)
        # the kernel wants the count where the parameter is, in float32
        self.steps[name] = torch.zeros((), dtype=torch.float32, device=parameter.device)

    def moments(self, name: str) -> Mapping[str, Tensor]:
        if name not in self.steps:
            return {}
        return {
            "exp_avg": self.exp_avg[name],
            "exp_avg_sq": self.exp_avg_sq[name],
            "step": self.steps[name],
        }

    def state(self, member: int = 0) -> dict[str, Tensor]:
        moments = {
            f"{key}.{name}": value
            for name in self.parameters
            for key, value in self.moments(name).items()
        }
        return moments | filter_state(self.filters)

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        (state,) = states
        for name in self.parameters:
            if f"step.{name}" not in state:
                continue
            self._start(name)
            for key, value in self.moments(name).items():
                saved = state[f"{key}.{name}"]
                require_shape(f"{key} of {name}", saved, value.shape)
                value.copy_(saved)
        load_filters(self.filters, [state], self.parameters)
