"""What is seen while training: evaluations, instruments' readings, rows, the progress bar."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.base.display import notice
from cutaway.base.errors import RunFailed
from cutaway.base.progress import Progress
from cutaway.base.seeds import stream, torch_generator
from cutaway.training.config import LoopConfig
from cutaway.training.instruments import Instrument, Moment
from cutaway.training.precision import autocast
from cutaway.training.recorder import Recorder
from cutaway.training.task import Evaluated, Loss, Task
from cutaway.training.updating import Updater

if TYPE_CHECKING:
    from cutaway.runs.folder import Run


_LINE_EVERY = 0.5  # seconds between printed lines; rows that come faster are left out
_SHOW_EVERY = 0.05  # seconds between looks at what there is to show


class Observer:
    """Reads the task and its instruments at θ_step; nothing it does changes the training."""

    def __init__(
        self,
        task: Task,
        configs: Sequence[LoopConfig],
        runs: Sequence[Run],
        instruments: Sequence[Instrument],
        device: torch.device,
    ):
        self.task, self.configs, self.runs, self.device = task, configs, runs, device
        self.instruments = instruments
        self.recorder = Recorder(runs, self._tell)
        self.instrument_seconds = dict.fromkeys((i.name for i in instruments), 0.0)
        self.started, self.first = time.monotonic(), 0
        self.shown = 0.0
        self.bar: Progress | None = None
        self.waiting: dict[str, float] | None = None  # a row from before there was a bar
        self.told_at = 0.0  # when the last line was printed
        self.failed: set[int] = set()  # members whose failure was announced

    def start(self, step: int) -> None:
        """Training begins now, at `step`: where speeds are counted from."""
        self.started, self.first = time.monotonic(), step

    def evaluate(self, step: int, precision: str) -> Evaluated:
        """The task's figures, from a random stream of their own, and which members failed at them."""
        hardware.reseed(self.device, stream(self.configs[0].seed, step, "evaluate"))
        self.task.eval()
        with torch.no_grad(), autocast(self.device, precision):
            try:
                found = self.task.evaluate()
            except RunFailed as failure:
                raise RunFailed(failure.reason, step) from failure
        self.task.train()
        return found if isinstance(found, Evaluated) else Evaluated(found, {})

    def due(self, step: int) -> bool:
        """Whether the intervals ask for a row of this step."""
        config = self.configs[0]
        every = (config.eval_every, config.log_every, *(i.every for i in self.instruments))
        return any(step % one == 0 for one in every)

    def record(
        self,
        step: int,
        marked: Collection[int],
        evaluated: Mapping[str, Tensor | float],
        batch: object,
        loss: Loss,
        updater: Updater,
        norm: Tensor,
        rates: Sequence[float],
    ) -> None:
        """The row of this step: the batch's loss and its parts, what is common, evaluation, readings.

        The `marked` members get everything, the others what the intervals ask for, so that a
        member records what it would alone whenever another ends.
        """
        due = [i for i in self.instruments if step % i.every == 0]
        rate = rates[0] if len(set(rates)) == 1 else torch.tensor(rates, dtype=torch.float64)
        common = {"seconds": self.runs[0].seconds, "learning_rate": rate, "gradient_norm": norm}
        row = {"train_loss": loss.total, **loss.parts(), **common}
        at = (step, batch, loss, updater, norm)
        read = self._read(due, None, *at)
        if marked:
            extra = [i for i in self.instruments if i not in due]
            more = self._read(extra, marked, *at)
            self.recorder.row(step, row | evaluated | read | more, marked)
        others = [member for member in self.recorder.everyone if member not in marked]
        if others and self.due(step):
            regular = evaluated if step % self.configs[0].eval_every == 0 else {}
            self.recorder.row(step, row | regular | read, others)

    def _read(
        self,
        instruments: Sequence[Instrument],
        members: Collection[int] | None,
        step: int,
        batch: object,
        loss: Loss,
        updater: Updater,
        norm: Tensor,
    ) -> dict[str, Tensor | float]:
        """Readings as one row; tables go to the recorder, for `members`."""
        row: dict[str, Tensor | float] = {}
        for instrument in instruments:
            began = self._now()
            purpose = f"instrument.{instrument.name}"
            generators = [
                torch_generator(config.seed, step, purpose, self.device) for config in self.configs
            ]
            reading = instrument.read(
                Moment(step, self.task, batch, loss, updater, norm, generators, self.configs)
            )
            if isinstance(reading, Mapping):
                row |= reading
            else:
                self.recorder.table(instrument.name, reading, members)
            spent = self._now() - began
            row[f"cost_ms.{instrument.name}"] = 1e3 * spent
            self.instrument_seconds[instrument.name] += spent
        return row

    def _now(self) -> float:
        """The time when the device has done what it was asked (a GPU is waited for: readings are
        rare, and a cost that is only the time of asking would be no cost)."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def show(self, bar: Progress, done: int) -> None:
        """Progress with the newest figures, at most twenty times a second."""
        if self.bar is None:
            self.bar = bar
            if self.waiting is not None:
                self._tell(self.waiting)
        now = time.monotonic()
        if now - self.shown < _SHOW_EVERY and done < bar.total:
            return
        self.shown = now
        figures = {}
        latest = self.recorder.latest(0)
        self._announce_failures()
        if "train_loss" in latest:
            elapsed = time.monotonic() - self.started
            speed = (done - self.first) * self.task.units_per_step / max(elapsed, 1e-9)
            figures[f"{self.task.unit}/s"] = f"{speed:,.0f}"
            figures["loss"] = f"{latest['train_loss']:.3f}"
        if "val_loss" in latest:
            figures["val"] = f"{latest['val_loss']:.3f}"
        if "test_acc" in latest:
            figures["test_acc"] = f"{latest['test_acc']:.1%}"
        bar.update(done, **figures)

    def _tell(self, row: dict[str, float]) -> None:
        """Print a recorded row in the task's words: its own values, nothing older beside them.

        At most two a second, and the row of the final weights always.
        """
        if self.bar is None:
            self.waiting = row
            return
        step, now = int(row["step"]), time.monotonic()
        if now - self.told_at < _LINE_EVERY and step < self.configs[0].steps:
            return
        if line := self.task.line(step, row):
            self.bar.tell(line)
            self.told_at = now

    def _announce_failures(self) -> None:
        """Members of a stack that failed since the last look; the others go on."""
        for member, run in enumerate(self.runs):
            if member not in self.failed and run.record.status == "failed":
                self.failed.add(member)
                notice(f"{run.name}: failed: {run.record.reason}; the others go on")

    def metrics(self, member: int) -> dict[str, float]:
        """The newest value of every figure, and what each instrument cost."""
        figures = dict(self.recorder.latest(member))
        for name in ("step", "seconds"):  # the record has them
            figures.pop(name, None)
        for name, spent in self.instrument_seconds.items():
            figures[f"instrument_seconds.{name}"] = spent
        return figures
