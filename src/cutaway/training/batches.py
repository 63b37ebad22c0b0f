"""What a task's batches look like: their tensors, whatever they are packed in, told and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

DESCRIBED = 3  # batches whose shapes and sizes go into a run's record


def tensors(batch: Any, name: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a batch with a name: of tuples, mappings and dataclasses, nested ones too."""
    if isinstance(batch, Tensor):
        yield name, batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from tensors(value, f"{name}.{key}")
    elif is_dataclass(batch):
        for one in fields(batch):
            yield from tensors(getattr(batch, one.name), f"{name}.{one.name}")
    elif isinstance(batch, list | tuple):
        for index, value in enumerate(batch):
            yield from tensors(value, f"{name}.{index}")


def is_empty(batch: Any) -> bool:
    """Whether there is nothing in a batch: no tensor, or only tensors without elements."""
    return not any(value.numel() for _, value in tensors(batch))


def described(step: int, batch: Any) -> dict[str, Any]:
    """Plain data about a batch, for a record: of each tensor its `shape` and `dtype`.

    Of floating ones also the mean length of their rows (`mean_norm`, over the last axis) and how
    many values are `not_finite`; of others their smallest and largest value.
    """
    return {"step": step} | {name: _one(value) for name, value in tensors(batch)}


@torch.no_grad()
def _one(value: Tensor) -> dict[str, Any]:
    about: dict[str, Any] = {
        "shape": list(value.shape),
        "dtype": str(value.dtype).removeprefix("torch."),
    }
    if not value.numel():
        return about
    if not value.is_floating_point():
        return about | {"min": int(value.min()), "max": int(value.max())}
    finite = value.isfinite()
    rows = torch.where(finite, value, 0).float()
    norms = torch.linalg.vector_norm(rows, dim=-1) if rows.ndim else rows.abs()
    return about | {
        "mean_norm": float(norms.mean()),
        "not_finite": int(value.numel() - finite.sum()),
    }
