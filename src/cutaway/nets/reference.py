"""From what a user names to a model one can look into. So far: a run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from cutaway.base import hardware
from cutaway.base.errors import UserError
from cutaway.nets.architectures import build

if TYPE_CHECKING:
    from cutaway.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, its tokenizer (None where it has none), and where it came from."""

    model: nn.Module
    tokenizer: Tokenizer | None
    name: str
    step: int
    config: dict[str, Any]


def load(run: str | Path, *, step: int | str = "best", device: str = "auto") -> LoadedModel:
    """The model of a run, at its `best` checkpoint, its `last`, or a step that was kept."""
    from cutaway.runs.folder import Run
    from cutaway.text.tokenizers import Tokenizer

    opened = Run.open(run)
    chosen = _step(opened, step)
    description = opened.record.resolved.get("architecture")
    if description is None:
        raise UserError(f"{run}: this run's record names no architecture to load")
    checkpoint = opened.checkpoints.load(chosen)
    model = build(description)
    model.load_state_dict(checkpoint.tensors["model"])
    folder = opened.path / "tokenizer"
    tokenizer = Tokenizer.load(folder) if folder.is_dir() else None
    model.to(hardware.device(device)).eval().requires_grad_(False)
    return LoadedModel(model, tokenizer, opened.name, chosen, dict(opened.record.config))


def _step(run: Any, wanted: int | str) -> int:
    steps = run.checkpoints.steps()
    if not steps:
        raise UserError(f"{run.path}: no checkpoint was written yet")
    if wanted == "best":
        best = run.checkpoints.best()
        return steps[-1] if best is None else best
    if wanted == "last":
        return steps[-1]
    if int(wanted) not in steps:
        kept = ", ".join(map(str, steps))
        raise UserError(f"step = {wanted}: {run.path} keeps checkpoints of steps {kept}")
    return int(wanted)
