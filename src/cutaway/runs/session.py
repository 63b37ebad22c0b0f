"""One life of a run: its folder found free or taken up again, worked in, and left done or with the reason.

session = Session(out, going_on=resume)         # refuses a folder in use
session.require_same_parents(parents)           # what it began with is what it goes on with
with session.take(study="probe", config=..., parents=parents) as run, session.working():
    ...                                         # interrupted and failed are marked here
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cutaway.base import signals
from cutaway.base.errors import CutawayError, Interrupted, RunFailed, UserError
from cutaway.runs.folder import Run
from cutaway.runs.record import RunRecord
from cutaway.runs.sinks import Sink


class Session:
    """A run's folder from before it is taken to the end of the work.

    `before` is the record of the run that goes on, None where a new one begins. Raises UserError for
    a folder that is not free, or whose run another process writes.
    """

    run: Run

    def __init__(self, out: str | Path, *, going_on: bool = False):
        self.out = Path(out)
        self.before: RunRecord | None = None
        if going_on:
            self.before = opened(self.out).record
        else:
            Run.require_free(self.out)

    def require_same_parents(self, parents: Sequence[Mapping[str, Any]]) -> None:
        """What the run began with (data, tokenizers, models) must be what it goes on with; UserError."""
        for old, now in zip(self.before.parents if self.before else (), parents, strict=False):
            if old.get("sha256") != now.get("sha256"):
                raise UserError(
                    f"{self.out}: {now.get('id')} has changed since this run began; start a new run"
                )

    def take(
        self, *, config: Mapping[str, Any], sinks: Sequence[Sink] = (), **beginning: Any
    ) -> Run:
        """The run, taken by this process: a new one from `beginning` (`Run.create`), or the one there."""
        if self.before is None:
            self.run = Run.create(self.out, config=config, sinks=sinks, **beginning)
        else:
            self.run = Run.resume(self.out, sinks=sinks)
            self.run.save_record(config=config)
        return self.run

    def put_back(self) -> None:
        """As if it had not been taken: nothing has started."""
        if self.before is None:
            self.run.close()
            Run.remove(self.run.path)
        else:
            fields = type(self.before).model_fields
            self.run.save_record(**{name: getattr(self.before, name) for name in fields})

    @contextmanager
    def working(
        self,
        leave: Callable[[], object] | None = None,
        stopped: Callable[[], str] = lambda: "stopped",
    ) -> Iterator[None]:
        """Work in the run: a signal leaves it interrupted, an error failed with its reason.

        `leave` is called before either is recorded. Raises Interrupted, with what `stopped` says, or
        RunFailed.
        """
        try:
            with signals.interruptible():
                yield
        except KeyboardInterrupt as signal:
            if leave is not None:
                leave()
            self.run.interrupt(signals.name_of(signal))
            raise Interrupted(
                f"{self.out}: {stopped()}; --resume goes on", signals.number_of(signal)
            ) from None
        except Exception as error:
            reason = str(error)
            if not isinstance(error, CutawayError | OSError):
                reason = f"{type(error).__name__}: {error}"
            if leave is not None:
                leave()
            self.run.fail(reason)
            raise RunFailed(reason) from error


def opened(out: Path) -> Run:
    """The run in a folder, for reading; UserError where there is none or another process writes it."""
    run = Run.open(out)
    if run.status == "running":
        Run.require_free(out)  # refuses, naming the process that writes it
    return run
