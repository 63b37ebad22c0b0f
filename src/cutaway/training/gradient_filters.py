"""Ways to change a gradient before the update: filters an updater applies in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class GradientFilter(Protocol):
    """Changes every `.grad` in place; its state, by parameter, resumes with the updater's."""

    name: str

    def apply(self, parameters: Mapping[str, nn.Parameter]) -> None: ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: Mapping[str, Tensor]) -> None: ...


class OrthogonalGradient:
    """⟂Grad: g ← g - (w·g / w·w) w for every tensor w (Prieto et al. 2025, arXiv 2501.04697).

    The part of the gradient along the weights only scales the logits up once the training pairs
    are memorised; without it the loss cannot fall by scaling. The result is not rescaled to the
    norm of g: with that, fewer seeds grok. `stacked`: the first axis of every tensor is members.
    """

    name = "orthogonal_gradient"

    def __init__(self, stacked: bool = False):
        self.stacked = stacked

    @torch.no_grad()
    def apply(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for parameter in parameters.values():
            gradient = parameter.grad
            if gradient is None:
                continue
            if not self.stacked:
                weight = parameter.flatten()
                squares = torch.dot(weight, weight)
                share = torch.dot(weight, gradient.flatten()) / squares.clamp(min=_TINY)
                gradient.addcmul_(parameter, share, value=-1)
                continue
            weight = parameter.flatten(1)
            squares = weight.square().sum(1)
            share = (weight * gradient.flatten(1)).sum(1) / squares.clamp(min=_TINY)
            share = share.view(-1, *[1] * (parameter.ndim - 1))
            gradient.addcmul_(parameter, share, value=-1)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        pass


_TINY = 1e-30  # zero weights (biases at the start) have no direction: their gradient stays


class Grokfast:
    """g ← g + λ · EMA(g): slow gradients amplified (Lee et al. 2024, arXiv 2405.20233, eq. 4 with
    the moving average of appendix A), the average beginning at the first gradient.
    """

    name = "grokfast"

    def __init__(self, decay: float, weight: float):
        self.decay, self.weight = decay, weight
        self.mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def apply(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            if parameter.grad is None:
                continue
            mean = self.mean.get(name)
            if mean is None:
                mean = self.mean[name] = parameter.grad.clone()
            else:
                mean.lerp_(parameter.grad, 1 - self.decay)
            parameter.grad.add_(mean, alpha=self.weight)

    def state(self) -> dict[str, Tensor]:
        return dict(self.mean)

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.mean = dict(state)


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
