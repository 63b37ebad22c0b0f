"""The size of the state before the unembedding."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.training.instruments import Moment, Stateless


class RepresentationNorm(Stateless):
    """`representation_norm` = mean over the step's examples of ‖state before the unembedding‖₂.

    Of all examples of the step's batch, dropout off: nothing is drawn, so it has no error.
    """

    name = "representation_norm"

    def __init__(self, every: int):
        self.every = every

    @torch.no_grad()
    def read(self, at: Moment) -> dict[str, Tensor]:
        was = at.task.training
        at.task.eval()
        try:
            states = at.task.representations(at.task.batch(at.step))
        finally:
            at.task.train(was)
        norms = torch.linalg.vector_norm(states, dim=-1)
        return {"representation_norm": norms.mean(-1, dtype=hardware.wide(norms.device))}
