"""The loop: everything in cutaway that trains by steps trains here.

At step s, with weights θ_s: evaluate if due, save if due, draw the batch, loss, backward, read the
instruments, record the row of s, update to θ_{s+1}. After the last update one more pass records
the row of the final weights. So row s of the history describes θ_s, and a checkpoint of step s is
all that is needed to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.base.errors import Interrupted, RunFailed, UserError
from cutaway.base.progress import Progress, progress
from cutaway.training.config import LoopConfig
from cutaway.training.gradients import Gradients
from cutaway.training.guards import FiniteGuard, Stop, reason, repeatable
from cutaway.training.instruments import Instrument
from cutaway.training.observing import Observer
from cutaway.training.precision import resolve
from cutaway.training.saving import Saver
from cutaway.training.schedule import learning_rate
from cutaway.training.task import Task

if TYPE_CHECKING:
    from cutaway.runs.checkpoint import Checkpoint
    from cutaway.runs.folder import Run


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one member's training ended; its figures are the latest recorded."""

    steps_done: int
    best_step: int | None
    metrics: dict[str, float]


def fit(
    task: Task,
    config: LoopConfig,
    runs: Sequence[Run],
    instruments: Sequence[Instrument] = (),
    *,
    checkpoint: Checkpoint | None = None,
) -> list[Outcome]:
    """Train `task`, leaving everything in `runs` (one per member), from a checkpoint if given.

    Raises RunFailed (the runs are marked failed, with step and reason) or Interrupted (marked so,
    with a checkpoint at the step where it stopped). The caller closes the runs.
    """
    if config.steps < 1:
        raise UserError(f"steps = {config.steps}: a run needs at least one step")
    if config.parts > 1 and not task.separable:
        raise UserError(f"{config.parts} parts: this task's batches cannot be cut into parts")
    if len(runs) != task.members:
        raise UserError(f"{len(runs)} runs for a task of {task.members} members")
    fitting = _Fitting(task, config, runs, instruments)
    try:
        with repeatable(fitting.device), Stop() as stop:
            fitting.prepare(checkpoint)
            with progress("training", config.steps, "steps") as bar:
                bar.start_at(fitting.step)
                fitting.train(stop, bar)
        return fitting.finish()
    except Interrupted as error:
        name = error.name
        fitting.leave(lambda run: run.interrupt(name))
        raise
    except KeyboardInterrupt:
        fitting.leave(lambda run: run.interrupt("a second Ctrl-C"))
        raise Interrupted("stopped at once; the last checkpoint is kept") from None
    except Exception as error:
        if isinstance(error, UserError) and not fitting.attempted:
            raise  # nothing had started: the request was wrong, and the caller puts the run back
        failure = error if isinstance(error, RunFailed) else RunFailed(reason(error), fitting.step)
        if not fitting.attempted:
            failure.exit_code = UserError.exit_code
        if failure.step is not None:
            fitting.observer.recorder.discard_from(failure.step)
            fitting.step, fitting.attempted = failure.step, min(fitting.attempted, failure.step + 1)
        fitting.leave(lambda run: run.fail(failure.reason, failure.step))
        raise failure from (None if failure is error else error)


class _Fitting:
    """One call of `fit`: what its steps share."""

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        runs: Sequence[Run],
        instruments: Sequence[Instrument],
    ):
        self.task, self.config, self.runs, self.instruments = task, config, runs, instruments
        self.device = hardware.device(config.device)
        if self.device.type == "cpu":
            hardware.keep_freed_memory()
        self.observer = Observer(task, config, runs, instruments, self.device)
        self.step = self.attempted = 0  # the step at hand, and how many have begun
        self.marked = {config.steps}  # steps that are evaluated and read whatever the intervals say

    def prepare(self, checkpoint: Checkpoint | None) -> None:
        """Everything before the first step: device, updater, restored state, precision."""
        task, config = self.task.to(self.device), self.config
        self.updater = task.updater(config)
        self.saver = Saver(self.runs, task, self.updater, self.instruments, config)
        self.guard = FiniteGuard(self.device, task.members)
        parts = config.parts
        if checkpoint is not None:
            self.step = self.saver.restore(checkpoint)
            parts = checkpoint.state["parts"]
            if checkpoint.state["final"]:  # the end of a run that now goes on keeps its row
                self.marked.add(self.step)
        resolved = resolve(task, config, self.device, self.runs[0].record.resolved)
        compute_loss = torch.compile(task.loss) if config.compile else task.loss
        self.gradients = Gradients(
            *(task, compute_loss, self.updater, self.device, resolved["precision"], parts),
            *(config.seed, self.runs[0].notice),
        )
        for run in self.runs:
            run.truncate(self.step)
            run.save_record(
                resolved=run.record.resolved | resolved,
                device=hardware.describe(self.device),
                steps_planned=config.steps,
            )
        self.observer.start(self.step)

    def train(self, stop: Stop, bar: Progress) -> None:
        """Steps from here to the end, then the row of the final weights."""
        config, observer, first = self.config, self.observer, self.step
        for step in range(first, config.steps + 1):
            self.step, last = step, step == config.steps
            evaluated: dict[str, Tensor | float] = {}
            if step % config.eval_every == 0 or step in self.marked:
                self.guard.check()
                evaluated = observer.evaluate(step, self.gradients.precision)
                self.saver.judge(step, evaluated)
            if stop.signal:
                self.save(step)
                where = self.runs[0].path
                raise Interrupted(f"{where}: stopped at step {step}; --resume goes on", stop.signal)
            due = step > first and step % config.checkpoint_every == 0
            if due or last or self.saver.improved:
                self.save(step)
            self.attempted = min(step + 1, config.steps)
            rate = learning_rate(config, step)
            reading = [i for i in self.instruments if step % i.every == 0 or step in self.marked]
            recorded = bool(evaluated or reading) or step % config.log_every == 0
            batch, loss = self.gradients.compute(step, recorded)
            norm = self.updater.clip(config.gradient_clip)
            self.guard.watch(step, loss.total, norm)
            if recorded:
                read = observer.read(reading, step, batch, loss, self.updater, norm)
                observer.record(step, evaluated | read, loss, norm, rate)
            if evaluated or observer.recorder.due:  # those who watch want evaluations at once
                self.flush()
            if last:
                break
            self.updater.step(rate)
            self.task.after_step(step)
            observer.show(bar, step + 1)

    def flush(self) -> None:
        self.guard.check()
        self.observer.recorder.flush()

    def save(self, step: int) -> None:
        """A checkpoint of θ_step; rows before it are written first, so that none can be lost."""
        self.flush()
        for run in self.runs:
            run.record.steps_attempted = run.record.steps_done = step
        self.saver.save(step, {"parts": self.gradients.parts, "final": step == self.config.steps})

    def finish(self) -> list[Outcome]:
        """Mark every run done, with its last recorded figures."""
        outcomes = []
        for member, run in enumerate(self.runs):
            metrics = self.observer.metrics(member) | self.saver.best_figures(member)
            run.finish(metrics)
            outcomes.append(Outcome(self.step, self.saver.best_at[member], metrics))
        return outcomes

    def leave(self, mark: Callable[[Run], None]) -> None:
        """End early: write what was recorded, then let `mark` say how each run ended."""
        try:
            self.observer.recorder.flush()
        finally:
            for run in self.runs:
                run.record.steps_attempted = self.attempted
                run.record.steps_done = self.step
                mark(run)
