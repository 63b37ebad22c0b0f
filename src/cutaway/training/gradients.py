"""The gradient of a step's batch, part by part, in as many parts as memory asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.base.errors import RunFailed
from cutaway.base.seeds import stream
from cutaway.training.batches import is_empty
from cutaway.training.precision import autocast
from cutaway.training.task import Loss, Part, Task
from cutaway.training.updating import Updater

_MOST_PARTS = 1024  # halving a batch further than this will not find the memory


class Gradients:
    """Leaves in `.grad` the gradient of the batch's mean loss.

    `parts` starts as configured and doubles when a device runs out of memory: batches are pure
    functions of (seed, step, part), so the step is worked again, from the same random stream, in
    smaller slices. `tell` is called with a line for the user when that happens.
    """

    def __init__(
        self,
        task: Task,
        compute_loss: Callable[[Any], Loss],
        updater: Updater,
        device: torch.device,
        precision: str,
        parts: int,
        seed: int,
        tell: Callable[[str], None],
    ):
        self.task, self.compute_loss, self.updater = task, compute_loss, updater
        self.device, self.precision, self.parts = device, precision, parts
        self.seed, self.tell = seed, tell

    def compute(self, step: int, recorded: bool) -> tuple[Any, Loss]:
        """The last part's batch, and its loss with `total` made the whole batch's mean.

        Where the step is `recorded`, so are the loss's `parts`.
        """
        while True:
            try:
                return self._in_parts(step, recorded)
            except torch.OutOfMemoryError as error:
                if not self.task.separable or self.parts >= _MOST_PARTS:
                    raise RunFailed(self._out_of_memory(error), step) from error
                self.parts *= 2
            # outside the handler, so that what the failed pass held is free
            self.tell(f"out of memory at step {step}: going on with {self.parts} parts a batch")
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _out_of_memory(self, error: torch.OutOfMemoryError) -> str:
        """One line: what torch said, and the setting that helps where halving cannot."""
        said, _, _ = str(error).partition("\n")
        field = self.task.batch_field
        helps = not self.task.separable and field is not None
        return f"out of memory: {said}" + (
            f"; its batches cannot be cut into parts: give a smaller {field}" if helps else ""
        )

    def _in_parts(self, step: int, recorded: bool) -> tuple[Any, Loss]:
        hardware.reseed(self.device, stream(self.seed, step, "step"))
        self.updater.zero()
        mean: Tensor | None = None
        means: dict[str, Tensor] = {}
        for index in range(self.parts):
            batch = self.task.batch(step, Part(index, self.parts))
            if is_empty(batch):
                raise RunFailed("the data source gave an empty batch", step)
            with autocast(self.device, self.precision):
                loss = self.compute_loss(batch)
            weight = 1 / self.parts if loss.weight is None else loss.weight
            weighted = loss.total if weight == 1 else loss.total * weight
            (weighted.sum() if weighted.ndim else weighted).backward()
            mean = weighted.detach() if mean is None else mean + weighted.detach()
            for name, value in loss.parts().items() if recorded else ():
                share = value.detach() * weight
                means[name] = share if name not in means else means[name] + share
        return batch, Loss(mean, lambda: means, loss.weight, loss.extras)
