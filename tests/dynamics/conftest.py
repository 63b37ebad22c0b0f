"""All pairs modulo 5 as a task, for one network or a stack, and moments made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.base.seeds import torch_generator
from cutaway.nets.modular import MLPConfig, ModularMLP
from cutaway.nets.modular_transformer import ModularTransformer, ModularTransformerConfig
from cutaway.nets.stacked import stack
from cutaway.training import LoopConfig, Loss, Part, Task
from cutaway.training.instruments import Moment
from cutaway.training.task import WHOLE

P = 5
LOOP = LoopConfig(
    steps=6, schedule_steps=6, learning_rate=0.02, warmup_steps=3, weight_decay=0.5, beta2=0.98,
    eval_every=10, log_every=1, checkpoint_every=10, precision="float32", device="cpu",
)  # fmt: skip


class Pairs(Task):
    """Addition modulo 5 on all 25 pairs, full batch, cross-entropy."""

    monitor = None

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        self.members = len(models)
        self.model = models[0] if self.members == 1 else stack(models)

    def batch(self, step: int, part: Part = WHOLE) -> Any:
        pairs = torch.cartesian_prod(torch.arange(P), torch.arange(P))
        rows = part.slice(len(pairs))
        pairs, labels = pairs[rows], (pairs.sum(1) % P)[rows]
        if self.members == 1:
            return pairs, labels
        return pairs.expand(self.members, -1, -1), labels.expand(self.members, -1)

    def example_losses(self, batch: Any) -> Tensor:
        pairs, labels = batch
        logits = self.model(pairs)
        losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
        return losses.view(labels.shape)

    def loss(self, batch: Any) -> Loss:
        return Loss(self.example_losses(batch).mean(-1), weight=batch[1].shape[-1] / P**2)

    def embed(self, batch: Any) -> Tensor:
        return self.model.get_embeddings(batch[0]).detach()

    def outputs(self, embeddings: Tensor) -> Tensor:
        return self.model.forward_from_embeddings(embeddings)

    def targets(self, batch: Any) -> Tensor:
        return batch[1]

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        return self.model.decays(name.removeprefix("model."), parameter)

    def representations(self, batch: Any) -> Tensor:
        return self.model.get_representation(batch[0])


def network(kind: str, seed: int) -> nn.Module:
    """A small network in float64, its weights enlarged so that nothing is nearly linear."""
    if kind == "mlp":
        model = ModularMLP(MLPConfig(p=P, hidden_dim=6, n_layers=2), seed)
    else:
        shape = ModularTransformerConfig(p=P, hidden_dim=4, n_layers=2, n_heads=2)
        model = ModularTransformer(shape, seed)
    noise = torch_generator(seed, 0, "noise")
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=noise))
    return model


@dataclass
class Bench:
    """What the tests of this folder build from."""

    loop = LOOP

    def task(self, kind: str, *seeds: int) -> Pairs:
        return Pairs([network(kind, seed) for seed in seeds or (0,)])

    def moment(self, task: Task, *, draw: Sequence[int] = (0,), step: int = 0, **given) -> Moment:
        """A moment of `task` whose member m draws from stream `draw[m]`."""
        configs = given.pop("configs", [LOOP] * task.members)
        updater = given.pop("updater", None) or task.updater(configs)
        batch = task.batch(step)
        generators = [torch_generator(seed, step, "test") for seed in draw]
        return Moment(
            step, task, batch, task.loss(batch), updater, torch.zeros(()), generators, configs
        )


@pytest.fixture(scope="session")
def bench() -> Bench:
    return Bench()
