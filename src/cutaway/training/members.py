"""Which of the stacked runs still train, and how the others ended, each for itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from cutaway.base.errors import RunFailed, UserError
from cutaway.training.config import LoopConfig

if TYPE_CHECKING:
    from cutaway.runs.folder import Run
    from cutaway.training.observing import Observer
    from cutaway.training.recorder import Recorder
    from cutaway.training.saving import Saver
    from cutaway.training.task import Task

# What each member of a stack may have for itself.
_OWN = {
    *("steps", "ends", "schedule_steps", "learning_rate", "min_learning_rate", "warmup_steps"),
    *("weight_decay", "beta1", "beta2", "epsilon", "gradient_clip", "seed", "keep_checkpoints"),
}


def common(task: Task, configs: Sequence[LoopConfig], runs: Sequence[Run]) -> None:
    """Refuse settings no loop can run: no steps, parts of what cannot be cut, unequal members."""
    for config in configs:
        if config.steps < 1:
            raise UserError(f"steps = {config.steps}: a run needs at least one step")
        if config.parts > 1 and not task.separable:
            raise UserError(f"{config.parts} parts: this task's batches cannot be cut into parts")
    if not task.members == len(runs) == len(configs):
        raise UserError(
            f"{len(runs)} runs and {len(configs)} configs for a task of {task.members} members"
        )
    first = asdict(configs[0])
    for config in configs[1:]:
        for name, value in asdict(config).items():
            if name not in _OWN and value != first[name]:
                raise UserError(
                    f"{name} = {value!r}: stacked runs must agree, another has {first[name]!r}"
                )


@dataclass(slots=True)
class Outcome:
    """How one member's training ended; its figures are the latest recorded."""

    steps_done: int = 0
    best_step: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    failure: RunFailed | None = None


class Members:
    """`active`: who still trains; `ends`: each member's number of steps; `last`: the most; `marked`:
    each member's steps that are evaluated and read whatever the intervals say.
    """

    def __init__(self, configs: Sequence[LoopConfig], runs: Sequence[Run]):
        self.runs = runs
        self.ends = [config.steps for config in configs]
        self.marked = [{*config.ends, config.steps} for config in configs]
        self.active = list(range(len(runs)))
        self.outcomes = [Outcome() for _ in runs]

    @property
    def last(self) -> int:
        """The step at which the last member ends."""
        return max(self.ends)

    def ending(self, step: int) -> list[int]:
        """The active members whose final weights are those of this step."""
        return [member for member in self.active if self.ends[member] == step]

    def marked_at(self, step: int) -> list[int]:
        """The active members for whom everything is due at this step."""
        return [member for member in self.active if step in self.marked[member]]

    def end(self, ending: Iterable[int], observer: Observer, saver: Saver) -> None:
        """Members came to their end: nothing more is recorded of them."""
        for member in ending:
            if member not in self.active:  # it failed at its very last step
                continue
            step = self.ends[member]
            metrics = observer.metrics(member) | saver.best_figures(member)
            self.outcomes[member] = Outcome(step, saver.best_at[member], metrics)
            self.active.remove(member)
            observer.recorder.stop(member, step)
            try:
                self.runs[member].finish(metrics)
            except RunFailed as failure:  # the others of a stack go on
                if len(self.runs) == 1:
                    raise
                self.outcomes[member] = Outcome(step, failure=failure)
                continue
            saver.prune(member)  # only now: until it is done a resume needs what the others have

    def drop(self, failures: Mapping[int, RunFailed], recorder: Recorder) -> None:
        """Members failed: each is marked so with what was recorded before its bad step."""
        for member, failure in failures.items():
            if member not in self.active:
                continue
            self.active.remove(member)
            recorder.stop(member, failure.step - 1)
            recorder.flush()
            run = self.runs[member]
            run.record.steps_attempted = failure.step + 1
            run.record.steps_done = failure.step
            run.fail(failure.reason, failure.step)
            self.outcomes[member] = Outcome(failure.step, failure=failure)
