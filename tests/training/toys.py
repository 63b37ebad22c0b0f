"""A linear regression as a task: small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cutaway.base.seeds import torch_generator
from cutaway.training import LoopConfig, Loss, Part, Task
from cutaway.training.task import WHOLE

LOOP = LoopConfig(
    steps=20, schedule_steps=20, learning_rate=0.05, eval_every=5, log_every=1, checkpoint_every=5,
    precision="float32", device="cpu",
)  # fmt: skip


class Regression(Task):
    """y = x · w* with noise; `trouble(step)` may raise, or return a factor for the loss."""

    unit = "rows"
    units_per_step = 12

    def __init__(self, trouble: Callable[[int], float] = lambda step: 1.0):
        super().__init__()
        self.model = nn.Linear(3, 1)
        with torch.no_grad():
            self.model.weight.copy_(torch.tensor([[0.5, -0.5, 0.1]]))
            self.model.bias.zero_()
        self.trouble = trouble
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def data(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(12, 3, generator=torch_generator(0, step, "data"))
        return x, x @ torch.tensor([[1.0], [2.0], [-1.0]])

    def batch(self, step: int, part: Part = WHOLE) -> Any:
        factor = self.trouble(step)
        x, y = (each[part.slice(12)] for each in self.data(step))
        return x, y, factor

    def loss(self, batch: Any) -> Loss:
        x, y, factor = batch
        loss = (self.model(x) - y).square().mean() * factor
        return Loss(loss, lambda: {"doubled": 2 * loss.detach()}, weight=len(x) / 12)

    def evaluate(self) -> dict[str, torch.Tensor]:
        x, y = self.data(-1)
        return {"val_loss": (self.model(x) - y).square().mean()}

    def after_step(self, step: int) -> None:
        self.seen += 1


class Stacked(Regression):
    """Three regressions on one leading axis, of which one can go its own way."""

    members = 3
    bad_from: int | None = None

    def __init__(self):
        super().__init__()
        shape = (self.members, 3, 1) if self.members > 1 else (3, 1)
        self.model = torch.nn.ParameterDict({"weight": torch.zeros(shape)})

    def loss(self, batch):
        x, y, _ = batch
        total = (x @ self.model["weight"] - y).square().mean((-2, -1))
        if self.bad_from is not None and self.steps >= self.bad_from:
            total = total * torch.tensor([1.0, torch.nan, 1.0])
        return Loss(total, weight=len(x) / 12)

    def evaluate(self):
        x, y = self.data(-1)
        return {"val_loss": (x @ self.model["weight"] - y).square().mean((-2, -1))}

    def decays(self, name, parameter):
        return True

    def after_step(self, step):
        self.steps = step + 1

    steps = 0


class StackedOfOne(Stacked):
    members = 1
