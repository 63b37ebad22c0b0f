"""AdamW for a stack of runs: each member at its own rate, decay and betas, all in one pass.

Parameters, gradients and moments live in four (members, parameters) tables, the decayed
parameters first; the network's own tensors are views of the tables' columns. One update is a
dozen operations whatever the number of tensors, and a member's hyper-parameter is one number
in a (members, 1) column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cutaway.training.config import LoopConfig
from cutaway.training.gradient_filters import GradientFilter, filter_state, load_filters
from cutaway.training.updating import Trainable, require_shape


class StackedAdamW:
    """Adam with decoupled weight decay, as `updaters.AdamW` gives it to each member alone."""

    def __init__(
        self, task: Trainable, configs: Sequence[LoopConfig], filters: Sequence[GradientFilter] = ()
    ):
        named = [(name, p) for name, p in task.named_parameters() if p.requires_grad]
        decayed = [(name, p) for name, p in named if task.decays(name, p)]
        rest = [(name, p) for name, p in named if not task.decays(name, p)]
        self.parameters = dict(decayed + rest)
        self.configs, self.filters = configs, filters
        self.decayed = sum(p[0].numel() for _, p in decayed)
        with torch.no_grad():
            self.weights = torch.cat([p.flatten(1) for p in self.parameters.values()], 1)
        self.gradient, self.exp_avg, self.exp_avg_sq = (
            torch.zeros_like(self.weights) for _ in range(3)
        )
        for name, view in self._views(self.weights).items():
            self.parameters[name].data = view
        self.gradients = self._views(self.gradient)
        self.count = 0
        self.rates: Sequence[float] = ()
        column = self._column
        self.limits = column([c.gradient_clip or math.inf for c in configs])
        self.epsilon = column([c.epsilon for c in configs])
        self.beta1, self.beta2 = (column([getattr(c, b) for c in configs]) for b in _BETAS)

    def _views(self, table: Tensor) -> dict[str, Tensor]:
        """The table's columns in the shape of each parameter."""
        views, start = {}, 0
        for name, parameter in self.parameters.items():
            size = parameter[0].numel()
            views[name] = table[:, start : start + size].view(parameter.shape)
            start += size
        return views

    def _column(self, values: Sequence[float]) -> Tensor:
        """One number for each member, (members, 1), in the weights' precision."""
        return torch.tensor(values, dtype=self.weights.dtype, device=self.weights.device)[:, None]

    def zero(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def clip(self) -> Tensor:
        parts = [
            torch.zeros_like(p).flatten(1) if p.grad is None else p.grad.flatten(1)
            for p in self.parameters.values()
        ]
        torch.cat(parts, 1, out=self.gradient)
        norms = torch.linalg.vector_norm(self.gradient, dim=1)
        scale = (self.limits / (norms[:, None] + 1e-6)).clamp(max=1.0)
        self.gradient.mul_(scale)
        return norms

    @torch.no_grad()
    def step(self, rates: Sequence[float]) -> None:
        if self.filters:
            for name, parameter in self.parameters.items():
                parameter.grad = self.gradients[name]
        for one in self.filters:
            one.apply(self.parameters)
        self.count += 1
        if rates != self.rates:
            self.rates = list(rates)
            decays = [rate * c.weight_decay for rate, c in zip(rates, self.configs)]
            self.kept = self._column([1 - decay for decay in decays])
        first, second = ([getattr(c, b) ** self.count for c in self.configs] for b in _BETAS)
        size = self._column([-rate / (1 - power) for rate, power in zip(rates, first)])
        root = self._column([1 / math.sqrt(1 - power) for power in second])
        self.weights[:, : self.decayed].mul_(self.kept)
        self.exp_avg.lerp_(self.gradient, 1 - self.beta1)
        self.exp_avg_sq.mul_(self.beta2).addcmul_(self.gradient.square(), 1 - self.beta2)
        below = torch.addcmul(self.epsilon, self.exp_avg_sq.sqrt(), root)
        self.weights.addcmul_(torch.div(self.exp_avg, below, out=below), size)

    def moments(self, name: str) -> Mapping[str, Tensor]:
        if not self.count:
            return {}
        tables = {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        found = {key: self._views(table)[name] for key, table in tables.items()}
        return found | {"step": torch.tensor(float(self.count))}

    def state(self, member: int = 0) -> dict[str, Tensor]:
        moments = {
            f"{key}.{name}": value if key == "step" else value[member].contiguous()
            for name in (self.parameters if self.count else ())
            for key, value in self.moments(name).items()
        }
        filters = filter_state(self.filters)
        return moments | {name: value[member].contiguous() for name, value in filters.items()}

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        for key, table in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            for name, view in self._views(table).items():
                for member, state in enumerate(states):
                    value = state.get(f"{key}.{name}")
                    if value is not None:
                        require_shape(f"{key} of {name}", value, view[member].shape)
                        view[member].copy_(value)
        counts = [
            int(state[f"step.{name}"])
            for state in states
            for name in self.parameters
            if f"step.{name}" in state
        ]
        self.count = max(counts, default=0)
        load_filters(self.filters, states, self.parameters)


_BETAS = ("beta1", "beta2")
