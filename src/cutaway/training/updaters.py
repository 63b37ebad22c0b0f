"""From gradients to a step: gradient norm, clipping, AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from cutaway.base.errors import UserError
from cutaway.training.config import LoopConfig
from cutaway.training.task import Task


class Updater(Protocol):
    """Owns the parameters' update. Its state is a flat dictionary of tensors."""

    def zero(self) -> None: ...

    def clip(self, limit: float | None) -> Tensor:
        """The gradient's L2 norm, () or (members,), before it is scaled down to `limit`."""
        ...

    def step(self, learning_rate: float) -> None: ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: Mapping[str, Tensor]) -> None: ...


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), PyTorch's fused kernel.

    Which parameters decay is the task's to say (`Task.decays`).
    """

    def __init__(self, task: Task, config: LoopConfig):
        named = [(name, p) for name, p in task.named_parameters() if p.requires_grad]
        self.parameters = dict(named)
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
        self.optimizer.zero_grad(set_to_none=True)

    def clip(self, limit: float | None) -> Tensor:
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if limit is not None and math.isfinite(limit):
            nn.utils.clip_grads_with_norm_(self.parameters.values(), limit, norm)
        return norm

    def step(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()

    def moments(self, name: str) -> Mapping[str, Tensor]:
        """Adam's `exp_avg`, `exp_avg_sq` and `step` of one parameter; empty before a first step."""
        return self.optimizer.state.get(self.parameters[name], {})

    def state(self) -> dict[str, Tensor]:
        return {
            f"{key}.{name}": value
            for name in self.parameters
            for key, value in self.moments(name).items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            moments = {}
            for key in ("exp_avg", "exp_avg_sq", "step"):
                value = state.get(f"{key}.{name}")
                if value is None:
                    continue
                if key != "step" and value.shape != parameter.shape:
                    raise UserError(
                        f"the checkpoint's {key} of {name} has shape {tuple(value.shape)}, "
                        f"this run's {tuple(parameter.shape)}: a checkpoint of another configuration"
                    )
                device = (
                    None if key == "step" and parameter.device.type == "cpu" else parameter.device
                )
                moments[key] = value.to(device, copy=True)
            if moments:
                self.optimizer.state[parameter] = moments
