"""float32 or bfloat16: what `precision: auto` becomes is measured, not guessed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from cutaway.base import hardware
from cutaway.training.config import LoopConfig
from cutaway.training.task import Part, Task


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Matrix products in bfloat16, weights and sums kept in float32; nothing for float32."""
    if precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def resolve(
    task: Task, config: LoopConfig, device: torch.device, before: Mapping[str, Any]
) -> dict[str, Any]:
    """`device` and `precision` as they will be, for the run's record.

    `auto` becomes what the record already says (so that a resume computes the same), else what
    `choose` measures; the measurement is kept as `precision_ms`.
    """
    resolved: dict[str, Any] = {"device": str(device), "precision": config.precision}
    if config.precision == "auto":
        resolved["precision"] = before.get("precision")
        if resolved["precision"] is None:
            resolved["precision"], timings = _choose_within_memory(task, device, config.parts)
            if timings:
                resolved["precision_ms"] = timings
    return resolved


def _choose_within_memory(
    task: Task, device: torch.device, parts: int
) -> tuple[str, dict[str, float]]:
    """`choose` on as small a part of the batch as it takes."""
    while True:
        try:
            return choose(task, device, parts)
        except torch.OutOfMemoryError:
            if not task.separable or parts >= 1024:
                raise
            task.zero_grad(set_to_none=True)
            parts *= 2


def choose(task: Task, device: torch.device, parts: int = 1) -> tuple[str, dict[str, float]]:
    """The faster precision for one forward and backward of this task, and the times in ms.

    Both are run alternately, five rounds or three seconds; the fastest round of each counts.
    Leaves parameters, gradients and buffers as they were.
    """
    candidates = hardware.precisions(device)
    if len(candidates) == 1:
        return candidates[0], {}
    buffers = {name: buffer.clone() for name, buffer in task.named_buffers()}
    batch = task.batch(0, Part(0, parts))
    best = dict.fromkeys(candidates, float("inf"))
    began = time.perf_counter()
    for round_ in range(6):
        for name in candidates:
            started = time.perf_counter()
            with autocast(device, name):
                total = task.loss(batch).total
            total.sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_:  # the first round warms caches
                best[name] = min(best[name], 1e3 * (time.perf_counter() - started))
            task.zero_grad(set_to_none=True)
        if round_ and time.perf_counter() - began > 3.0:
            break
    for name, buffer in task.named_buffers():
        buffer.copy_(buffers[name])
    return min(best, key=best.__getitem__), {name: round(ms, 3) for name, ms in best.items()}
