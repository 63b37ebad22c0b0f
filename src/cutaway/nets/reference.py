"""From what a user names to a model one can look into. So far: a run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from cutaway.base import hardware
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.nets.architectures import build

if TYPE_CHECKING:
    from cutaway.runs.checkpoint import Checkpoint
    from cutaway.runs.folder import Run
    from cutaway.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, its tokenizer (None where it has none), and where it came from."""

    model: nn.Module
    tokenizer: Tokenizer | None
    name: str
    step: int
    config: dict[str, Any]
    path: Path

    @property
    def reads(self) -> Tokenizer:
        """The tokenizer; UserError where the model came without one."""
        if self.tokenizer is None:
            raise UserError(
                f"{self.path / 'tokenizer'}: missing, and words need the run's tokenizer"
            )
        return self.tokenizer


def load(run: str | Path, *, step: int | str = "best", device: str = "auto") -> LoadedModel:
    """The model of a run, at its `best` checkpoint, its `last`, or a step that was kept.

    Where the best or last one is damaged the newest intact one is taken, with a notice.
    """
    from cutaway.runs.folder import Run
    from cutaway.text.tokenizers import Tokenizer

    opened = Run.open(run)
    description = opened.record.resolved.get("architecture")
    if description is None:
        raise UserError(f"{run}: this run's record names no architecture to load")
    checkpoint = _checkpoint(opened, step)
    model = build(description)
    model.load_state_dict(checkpoint.tensors["model"])
    folder = opened.path / "tokenizer"
    tokenizer = Tokenizer.load(folder) if folder.is_dir() else None
    model.to(hardware.device(device)).eval().requires_grad_(False)
    return LoadedModel(
        model, tokenizer, opened.name, checkpoint.step, dict(opened.record.config), opened.path
    )


def _checkpoint(run: Run, wanted: int | str) -> Checkpoint:
    from cutaway.runs.checkpoint import DamagedCheckpoint

    kept = run.checkpoints.steps()
    if not kept:
        raise UserError(f"{run.path}: no checkpoint was written yet")
    if wanted not in ("best", "last"):
        if wanted not in kept:
            there = ", ".join(map(str, kept))
            raise UserError(f"step = {wanted}: {run.path} keeps checkpoints of steps {there}")
        return run.checkpoints.load(int(wanted), groups=["model"])
    best = run.checkpoints.best() if wanted == "best" else None
    for step in dict.fromkeys([*([] if best is None else [best]), *reversed(kept)]):
        try:
            return run.checkpoints.load(step, groups=["model"])
        except DamagedCheckpoint as error:
            notice(f"{error}; taking another checkpoint")
    raise UserError(f"{run.path}: no checkpoint left intact")
