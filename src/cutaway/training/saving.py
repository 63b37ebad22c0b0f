"""What a checkpoint of the loop holds, and getting it back."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.base.errors import RunFailed, UserError
from cutaway.training.config import LoopConfig
from cutaway.training.instruments import Instrument
from cutaway.training.task import Evaluated, Task
from cutaway.training.updating import Updater

if TYPE_CHECKING:
    from cutaway.runs.checkpoint import Checkpoint
    from cutaway.runs.folder import Run

# What may change between the parts of one run without changing its path.
_FREE = (
    "steps",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "device",
    "precision",
    "compile",
    "threads",
    "halvings",
    "ends",
)


def fingerprint(config: LoopConfig) -> str:
    """A short hash of the settings that decide a run's path."""
    fixed = {key: value for key, value in asdict(config).items() if key not in _FREE}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


class Saver:
    """Saves and restores task, updater and instruments, and knows the best evaluation so far."""

    def __init__(
        self,
        runs: Sequence[Run],
        task: Task,
        updater: Updater,
        instruments: Sequence[Instrument],
        configs: Sequence[LoopConfig],
    ):
        self.runs, self.task, self.updater = runs, task, updater
        self.instruments, self.configs = instruments, configs
        self.key, direction = task.monitor or ("", "min")
        self.sign = 1.0 if direction == "min" else -1.0
        self.best = [math.inf] * task.members  # sign · value, so that smaller is better
        self.best_at: list[int | None] = [None] * task.members
        self.improved_at: list[int | None] = [None] * task.members

    def improved(self, member: int) -> bool:
        """Whether its newest evaluation has been the best and is not saved yet."""
        return self.improved_at[member] is not None

    def judge(
        self, step: int, figures: Evaluated, members: Collection[int]
    ) -> dict[int, RunFailed]:
        """Note whether this evaluation of `members` is their best so far; what is wrong where one
        failed, or the monitored figure is not finite."""
        failures = {
            member: RunFailed(failure.reason, step)
            for member, failure in figures.failures.items()
            if member in members
        }
        value = figures.get(self.key)
        if value is None:
            return failures
        values = torch.as_tensor(value).reshape(-1).tolist()
        if len(values) == 1:
            values *= self.task.members
        for member in members:
            if member in failures:
                continue
            one = values[member]
            if not math.isfinite(one):
                why = f"{self.key} became non-finite at step {step}"
                failures[member] = RunFailed(why, step)
            elif self.sign * one < self.best[member]:
                self.best[member] = self.sign * one
                self.best_at[member] = self.improved_at[member] = step
        return failures

    def best_figures(self, member: int) -> dict[str, float]:
        """`best_val_loss` and `best_step`, where there was an evaluation."""
        step = self.best_at[member]
        if step is None:
            return {}
        return {f"best_{self.key}": self.sign * self.best[member], "best_step": step}

    def save(self, step: int, parts: int, members: Collection[int], prune: bool) -> None:
        """Write θ_step of `members` and all that goes with it; the last file to appear makes it
        count. With `prune` older ones go, when all have the new one: a kill in between leaves a
        step that every member has."""
        for member in members:
            run, config = self.runs[member], self.configs[member]
            everything = self.task.member_state(member)
            model = {k[6:]: v for k, v in everything.items() if k.startswith("model.")}
            rest = {k: v for k, v in everything.items() if not k.startswith("model.")}
            for instrument in self.instruments:
                for key, value in instrument.state().items():
                    rest[f"instrument.{instrument.name}.{key}"] = value
            run.checkpoints.save(
                step,
                {"model": model, "updater": self.updater.state(member), "task": rest},
                {
                    "parts": parts,
                    "final": step == config.steps,
                    "config": fingerprint(config),
                    "best": None if self.best_at[member] is None else self.best[member],
                    "best_step": self.best_at[member],
                },
            )
            if self.improved_at[member] == step:
                run.checkpoints.mark_best(step, self.sign * self.best[member])
            self.improved_at[member] = None
        for member in members if prune else ():
            self.prune(member)

    def prune(self, member: int) -> None:
        """Delete a member's checkpoints that its settings do not keep."""
        self.runs[member].checkpoints.prune(self.configs[member].keep_checkpoints)

    def restore(self, checkpoints: Sequence[Checkpoint]) -> int:
        """Load every member's state, all of one step, everywhere; returns that step."""
        steps = {checkpoint.step for checkpoint in checkpoints}
        if len(checkpoints) != self.task.members or len(steps) != 1:
            raise UserError(
                f"{len(checkpoints)} checkpoints of steps {sorted(steps)}: expected "
                f"one of the same step for each of {self.task.members} members"
            )
        states = [
            matching_state(checkpoint, self.task, config, member)
            for member, (checkpoint, config) in enumerate(zip(checkpoints, self.configs))
        ]
        self.task.load_members(states)
        self.updater.load([checkpoint.tensors["updater"] for checkpoint in checkpoints])
        extra = checkpoints[0].tensors["task"]  # instruments remember what is common to members
        for instrument in self.instruments:
            prefix = f"instrument.{instrument.name}."
            instrument.load({k[len(prefix) :]: v for k, v in extra.items() if k.startswith(prefix)})
        for member, checkpoint in enumerate(checkpoints):
            best = checkpoint.state.get("best")
            if best is None:
                continue
            self.best[member], self.best_at[member] = best, checkpoint.state["best_step"]
            kept, step = self.runs[member].checkpoints, checkpoint.state["best_step"]
            if step in kept.steps():  # a kill may have come before the mark, or after a later one
                kept.mark_best(step, self.sign * best)
        return steps.pop()


def matching_state(
    checkpoint: Checkpoint, task: Task, config: LoopConfig, member: int = 0
) -> dict[str, Tensor]:
    """A member's state in a checkpoint; UserError where settings or shapes are another run's."""
    if checkpoint.state.get("config") != fingerprint(config):
        raise UserError(f"{checkpoint.path}: a checkpoint of another configuration")
    state = {f"model.{k}": v for k, v in checkpoint.tensors["model"].items()}
    extra = checkpoint.tensors["task"]
    state |= {k: v for k, v in extra.items() if not k.startswith("instrument.")}
    own = task.member_state(member)
    for name in sorted(own.keys() | state.keys()):
        there, here = state.get(name), own.get(name)
        if there is None or here is None or there.shape != here.shape:
            raise UserError(
                f"{checkpoint.path}: a checkpoint of another configuration: {name} is "
                f"{_shape(there)} there and {_shape(here)} in this run"
            )
    return state


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else str(tuple(tensor.shape))
