"""Train several runs of one study as one stacked program; each leaves its own folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cutaway.base.display import notice, notices_to
from cutaway.base.errors import RunFailed, UserError
from cutaway.base.files import require_writable
from cutaway.runs import record
from cutaway.runs.checkpoint import Checkpoint, DamagedCheckpoint
from cutaway.runs.folder import Run
from cutaway.runs.record import TOGETHER, RunRecord
from cutaway.runs.session import Session
from cutaway.studies.registry import study_of
from cutaway.studies.settings import StudyConfig
from cutaway.studies.settled import extended, settings_of
from cutaway.studies.study import Prepared, Study
from cutaway.studies.train import (
    advise,
    beginning,
    going_on,
    newest_checkpoint,
    require_disk,
    require_memory,
    require_same,
)
from cutaway.training.config import LoopConfig


def train_together(
    study: str, configs: Sequence[StudyConfig], outs: Sequence[str | Path], *, resume: bool = False
) -> list[Run | UserError]:
    """Train the runs as one stack and return them closed, each done or failed (its record says).

    What a run leaves equals, up to rounding, what it leaves when trained alone. With `resume`
    all go on from the newest step that every one has an intact checkpoint of, from the start
    where there is none. A run that cannot start, because of what its folder holds for one, has in
    its place the UserError that says why; its folder is as it was, and the others train without
    it. Raises UserError where the request as a whole is wrong, or Interrupted.
    """
    room = study_of(study)
    keys = {config.stack_key() for config in configs}
    if len(keys) != 1 or None in keys:
        raise UserError(f"these {len(configs)} {study} runs cannot be stacked: their shapes differ")
    require_memory(configs)
    members = [_Member(config.anchored(), Path(out)) for config, out in zip(configs, outs)]
    if resume:
        for one in members:
            one.take_up()
    from cutaway.training.guards import computing_with

    with computing_with(members[0].config.threads):
        return _train(study, room, members, resume)


def _train(
    study: str, room: Study[Any], members: Sequence[_Member], resume: bool
) -> list[Run | UserError]:
    prepared = room.prepare_together([one.config for one in members])
    for index, (one, own) in enumerate(zip(members, prepared)):
        if one.refused is None:
            with _refusing(one):
                one.check(own, index, resume, len(members))
    with ExitStack() as opened:
        for one, own in zip(members, prepared):
            if one.refused is None:
                with _refusing(one):
                    opened.enter_context(one.open(study, own))
        starting = [one for one in members if one.refused is None]
        if len(starting) < len(members) and starting:
            prepared = room.prepare_together([one.config for one in starting])
        if starting:
            _fit(prepared[0], starting, opened)
        for one in starting:
            if one.run.record.status == "done":
                with _speaking(one.run):
                    advise(study, one.config, one.run)
    return [one.run if one.refused is None else one.refused for one in members]


class _Member:
    """A run on its way into the stack: checked, opened, or refused."""

    session: Session
    loop: LoopConfig

    def __init__(self, config: StudyConfig, out: Path):
        self.config, self.out = config, out
        self.refused: UserError | None = None

    def take_up(self) -> None:
        """The settings with which a run that has begun goes on; one without a checkpoint begins
        anew, with those the others have."""
        if not (self.out / record.FILE).is_file():
            return
        with _refusing(self):
            run = Run.open(self.out)
            if run.checkpoints.steps():
                self.config = going_on(self.config, run.record, self.out)
            else:
                before = settings_of(run.record, type(self.config))
                require_same(before, self.config, self.out)

    def check(self, own: Prepared, index: int, resume: bool, members: int) -> None:
        """Raise UserError where this run cannot start or go on; nothing is written."""
        from cutaway.training.saving import matching_state

        self.loop, _ = extended(own.loop or self.config.loop(), self.config)
        require_writable(self.out)
        self.session = Session(self.out, going_on=resume and (self.out / record.FILE).is_file())
        if self.before is not None:
            self.session.require_same_parents(own.parents)
            run = Run.open(self.out)
            self.loop, extensions = extended(
                own.loop or self.config.loop(), self.config, self.before.steps_planned
            )
            self.config = self.config.model_copy(update={"extra_steps": extensions})
            checkpoint, _ = newest_checkpoint(run)
            if checkpoint is not None:
                matching_state(checkpoint, own.task, self.loop, index)
            for table in run.tables():
                run.read(table)
        require_disk(self.out, own, self.loop, members)

    def open(self, study: str, own: Prepared) -> Run:
        """The run's folder taken, new or resumed."""
        self.session.take(**beginning(study, self.config, own, self.loop))
        try:
            own.write(self.run.path)
        except UserError:
            self.session.put_back()
            self.run.close()
            raise
        self.run.record.notices.extend(own.notices)
        return self.run

    @property
    def run(self) -> Run:
        """The run, once it is open."""
        return self.session.run

    @property
    def before(self) -> RunRecord | None:
        """The record of a run that is resumed."""
        return self.session.before


@contextmanager
def _refusing(member: _Member) -> Iterator[None]:
    """What is wrong with one run stops that run only."""
    try:
        yield
    except UserError as error:
        member.refused = error


def _common_checkpoints(runs: Sequence[Run]) -> list[Checkpoint]:
    """Each run's checkpoint of the newest step that all have intact; empty where there is none."""
    steps = [set(run.checkpoints.steps()) for run in runs]
    for step in sorted(set.intersection(*steps), reverse=True):
        try:
            return [run.checkpoints.load(step) for run in runs]
        except DamagedCheckpoint as error:
            runs[0].notice(f"{error}; going back to an earlier one")
    if any(steps):
        runs[0].notice(
            f"these {len(runs)} runs have no intact checkpoint of the same step: they begin again "
            "from step 0"
        )
    return []


@contextmanager
def _speaking(run: Run) -> Iterator[None]:
    """Notices begin with the run's name: one process speaks for many."""
    take = notices_to.get()

    def tell(text: str) -> None:
        with _set(take):
            notice(f"{run.name}: {text}")

    with _set(tell):
        yield


@contextmanager
def _set(take: Callable[[str], None] | None) -> Iterator[None]:
    before = notices_to.set(take)
    try:
        yield
    finally:
        notices_to.reset(before)


def _fit(prepared: Prepared, members: Sequence[_Member], opened: ExitStack) -> None:
    """Train the stack; where it cannot start, every folder is as it was before."""
    from cutaway.training.loop import fit

    runs = [one.run for one in members]
    loops = [one.loop for one in members]
    if len(members) > 1:
        # a stack's step is as large as its members' together
        loops = [replace(one.loop, threads=one.config.threads) for one in members]
        for run in runs:
            if not run.checkpoints.steps():
                together = [one.name for one in runs]
                resolved = run.record.resolved | {TOGETHER: together}
                run.save_record(resolved=resolved, config=run.record.config)
    try:
        checkpoints = _common_checkpoints(runs) if any(one.before for one in members) else []
        with suppress(RunFailed):  # each run's record says so
            fit(prepared.task, loops, runs, prepared.instruments, checkpoints=checkpoints)
    except UserError:
        for one in members:
            one.session.put_back()
        opened.close()
        raise
