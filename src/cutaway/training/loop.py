"""The loop: everything in cutaway that trains by steps trains here.

At step s, with weights θ_s: evaluate if due, save if due, draw the batch, loss, backward, read the
instruments, record the row of s, update to θ_{s+1}. After a member's last update one more pass
records the row of its final weights. So row s of the history describes θ_s, and a checkpoint of
step s is all that is needed to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from cutaway.base import hardware
from cutaway.base.errors import Interrupted, RunFailed, UserError, begun
from cutaway.base.progress import Progress, progress
from cutaway.training.batches import DESCRIBED, described
from cutaway.training.config import LoopConfig
from cutaway.training.gradients import Gradients
from cutaway.training.guards import FiniteGuard, Stop, computing_with, reason, repeatable
from cutaway.training.instruments import Instrument
from cutaway.training.members import Members, Outcome, common
from cutaway.training.observing import Observer
from cutaway.training.precision import resolve
from cutaway.training.saving import Saver
from cutaway.training.schedule import learning_rate
from cutaway.training.task import Evaluated, Task

if TYPE_CHECKING:
    from cutaway.runs.checkpoint import Checkpoint
    from cutaway.runs.folder import Run


def fit(
    task: Task,
    config: LoopConfig | Sequence[LoopConfig],
    runs: Sequence[Run],
    instruments: Sequence[Instrument] = (),
    *,
    checkpoints: Sequence[Checkpoint] = (),
) -> list[Outcome]:
    """Train `task`, leaving everything in `runs`: one config and run, and to go on one checkpoint
    of the same step, per member.

    A run that trains alone and fails raises RunFailed; of several stacked ones the others go on,
    and the Outcome says why. Either way it is marked failed, with step and reason. Raises
    Interrupted (marked so, with a checkpoint at the step where it stopped). The caller closes the
    runs.
    """
    configs = [config] if isinstance(config, LoopConfig) else list(config)
    common(task, configs, runs)
    fitting = _Fitting(task, configs, runs, instruments)
    members = fitting.members
    try:
        with repeatable(fitting.device), computing_with(configs[0].threads), Stop() as stop:
            fitting.prepare(checkpoints)
            with progress("training", members.last, "steps") as bar:
                bar.start_at(fitting.step)
                fitting.train(stop, bar)
        return members.outcomes
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
        if fitting.attempted and not fitting.step:
            failure = RunFailed(f"trained zero steps: {failure.reason}", failure.step)
        if not fitting.attempted:
            failure.exit_code = UserError.exit_code
        if failure.step is not None:
            for member in members.active:
                fitting.observer.recorder.stop(member, failure.step - 1)
            fitting.step, fitting.attempted = failure.step, min(fitting.attempted, failure.step + 1)
        fitting.leave(lambda run: run.fail(failure.reason, failure.step))
        raise failure from (None if failure is error else error)


def settled(config: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings with what was found out as it began, under the names its study has."""
    return {**config, **{name: value for name, value in found.items() if name in config}}


class _Fitting:
    """One call of `fit`: what its steps share."""

    def __init__(
        self,
        task: Task,
        configs: Sequence[LoopConfig],
        runs: Sequence[Run],
        instruments: Sequence[Instrument],
    ):
        self.task, self.configs, self.config = task, configs, configs[0]
        self.runs, self.instruments = runs, instruments
        self.device = hardware.device(self.config.device)
        if self.device.type == "cpu":
            hardware.keep_freed_memory()
        self.observer = Observer(task, configs, runs, instruments, self.device)
        self.members = Members(configs, runs)
        self.step = self.attempted = 0  # the step at hand, and how many have begun

    def prepare(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Everything before the first step: device, updater, restored state, precision."""
        task, config = self.task.to(self.device), self.config
        self.updater = task.updater(self.configs)
        self.saver = Saver(self.runs, task, self.updater, self.instruments, self.configs)
        self.guard = FiniteGuard(self.device, task.members)
        parts = config.parts * (2**config.halvings if task.separable else 1)
        if checkpoints:
            self.step = self.saver.restore(checkpoints)
            parts = checkpoints[0].state["parts"]
            for marked, checkpoint in zip(self.members.marked, checkpoints):
                if checkpoint.state["final"]:  # the end of a run that now goes on keeps its row
                    marked.add(self.step)
        resolved = resolve(task, config, self.device, self.runs[0].record.resolved)
        compute_loss = torch.compile(task.loss) if config.compile else task.loss
        self.gradients = Gradients(
            *(task, compute_loss, self.updater, self.device, resolved["precision"], parts),
            *(config.seed, self.runs[0].notice),
        )
        for member, (run, own) in enumerate(zip(self.runs, self.configs)):
            run.truncate(self.step)
            run.checkpoints.truncate(self.step)
            found = {name: resolved[name] for name in ("device", "precision")}
            found |= {"threads": torch.get_num_threads(), "halvings": own.halvings}
            found |= task.settle(member, resolved["precision"])
            run.save_record(
                resolved=run.record.resolved | resolved,
                device=hardware.describe(self.device),
                steps_planned=own.steps,
                config=settled(run.record.config, found),
            )
        self.observer.start(self.step)

    def train(self, stop: Stop, bar: Progress) -> None:
        """Steps from here until every member has its row of the final weights."""
        config, observer, members, first = self.config, self.observer, self.members, self.step
        for step in range(first, members.last + 1):
            self.step, ending, marked = step, members.ending(step), members.marked_at(step)
            evaluated = Evaluated({}, {})
            if judged := members.active[:] if step % config.eval_every == 0 else marked:
                self.drop(self.guard.failures())
                evaluated = observer.evaluate(step, self.gradients.precision)
                self.drop(self.saver.judge(step, evaluated, judged))
            if stop.signal:
                self.save(step, members.active)
                where = self.runs[0].path
                raise Interrupted(f"{where}: stopped at step {step}; --resume goes on", stop.signal)
            due = (step > first or step == 0) and step % config.checkpoint_every == 0
            saving = [
                m
                for m in members.active
                if due or (step > first and m in marked) or m in ending or self.saver.improved(m)
            ]
            if saving:
                self.save(step, saving)
            self.attempted = min(step + 1, members.last)
            begun.set(True)
            rates = [learning_rate(own, step) for own in self.configs]
            recorded = bool(marked) or observer.due(step)
            batch, loss = self.gradients.compute(step, recorded)
            if step == 0:
                self.settle_parts()
            if step < DESCRIBED:
                self.describe(step, batch)
            norm = self.updater.clip()
            if self.guard.watch(step, loss.total, norm):
                self.drop(self.guard.failures())
            if recorded:
                observer.record(step, marked, evaluated, batch, loss, self.updater, norm, rates)
            if (
                evaluated or ending or observer.recorder.due
            ):  # those who watch want evaluations at once
                self.flush()
            members.end(ending, observer, self.saver)
            if not members.active:
                break
            self.updater.step(rates)
            self.task.after_step(step)
            observer.show(bar, step + 1)

    def settle_parts(self) -> None:
        """Where the first batch had to be halved, that belongs to what repeats the run."""
        halvings = (self.gradients.parts // self.config.parts).bit_length() - 1
        if halvings != self.config.halvings:
            for run in self.runs:
                run.save_record(config=settled(run.record.config, {"halvings": halvings}))

    def describe(self, step: int, batch: object) -> None:
        """Shapes and sizes of the first batches, in every run's record."""
        about = described(step, batch)
        for run in self.runs:
            before = run.record.resolved.get("first_batches", [])
            kept = [one for one in before if one["step"] < step]
            run.record.resolved["first_batches"] = [*kept, about]

    def flush(self) -> None:
        self.drop(self.guard.failures())
        self.observer.recorder.flush()

    def drop(self, failures: dict[int, RunFailed]) -> None:
        """Go on without the members that failed; a run alone raises its failure."""
        if failures and self.task.members == 1:
            raise failures[0]
        self.members.drop(failures, self.observer.recorder)

    def save(self, step: int, members: Sequence[int]) -> None:
        """A checkpoint of θ_step; rows before it are written first, so that none can be lost."""
        self.flush()
        active = self.members.active
        saved = [member for member in members if member in active]  # others were found to fail
        for member in saved:
            record = self.runs[member].record
            record.steps_attempted = record.steps_done = step
        self.saver.save(step, self.gradients.parts, saved, prune=len(saved) == len(active))

    def leave(self, mark: Callable[[Run], None]) -> None:
        """End early: write what was recorded, then let `mark` say how each run ended."""
        try:
            self.observer.recorder.flush()
        finally:
            for member in self.members.active:
                run = self.runs[member]
                run.record.steps_attempted, run.record.steps_done = self.attempted, self.step
                mark(run)
