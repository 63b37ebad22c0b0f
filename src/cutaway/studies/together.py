"""Train several runs of one study as one stacked program; each leaves its own folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from cutaway.base import hardware
from cutaway.base.display import notice, notices_to
from cutaway.base.errors import UserError
from cutaway.base.files import require_writable
from cutaway.runs import record
from cutaway.runs.checkpoint import Checkpoint, DamagedCheckpoint
from cutaway.runs.folder import Run
from cutaway.studies.registry import study_of
from cutaway.studies.settings import StudyConfig
from cutaway.studies.study import Prepared
from cutaway.studies.train import advise, require_disk, require_same, require_same_parents, sinks_of
from cutaway.training.config import LoopConfig

TOGETHER = "trained_with"  # where a record's `resolved` names all the runs of its stack


def train_together(
    study: str, configs: Sequence[StudyConfig], outs: Sequence[str | Path], *, resume: bool = False
) -> list[Run]:
    """Train the runs as one stack and return them closed, each done or failed (its record says).

    What a run leaves equals, up to rounding, what it leaves when trained alone. With `resume`
    all go on from the newest step that every one has an intact checkpoint of, from the start
    where there is none. Raises UserError where nothing could start, or Interrupted.
    """
    room = study_of(study)
    keys = {config.stack_key() for config in configs}
    if len(keys) != 1 or None in keys:
        raise UserError(f"these {len(configs)} {study} runs cannot be stacked: their shapes differ")
    configs = [config.anchored() for config in configs]
    paths = [Path(out) for out in outs]
    hardware.device(configs[0].device)
    for out in paths:
        require_writable(out)
        if not (resume and (out / record.FILE).is_file()):
            Run.require_free(out)
    prepared = room.prepare_together(configs)
    # a stack's step is as large as its members' together
    loops = [replace(config.loop(), threads=None) for config in configs]
    for out, own, loop in zip(paths, prepared, loops):
        require_disk(out, own, loop, len(configs))
    with ExitStack() as opened:
        made: list[Run] = []
        try:
            runs = _opened(study, configs, prepared, loops, paths, opened, made)
            checkpoints = _common_checkpoints(runs) if resume else []
            _fit(prepared[0], loops, runs, checkpoints)
        except UserError:  # nothing has started: nothing stays
            opened.close()
            for run in made:
                Run.remove(run.path)
            raise
        for run, config in zip(runs, configs):
            if run.record.status == "done":
                with _speaking(run):
                    advise(study, config, run)
    return runs


def _opened(
    study: str,
    configs: Sequence[StudyConfig],
    prepared: Sequence[Prepared],
    loops: list[LoopConfig],
    paths: Sequence[Path],
    opened: ExitStack,
    made: list[Run],
) -> list[Run]:
    """Every run's folder taken, new (put into `made`) or resumed."""
    runs: list[Run] = []
    together = {TOGETHER: [path.name for path in paths]}
    for index, (config, own, out) in enumerate(zip(configs, prepared, paths)):
        if (out / record.FILE).is_file():
            before = Run.open(out).record
            require_same(before.config, config, out)
            require_same_parents(before.parents, own, out)
            loops[index] = replace(
                loops[index], steps=max(before.steps_planned, loops[index].steps)
            )
            run = Run.resume(out, sinks=sinks_of(config, own))
            if not run.checkpoints.steps():
                run.save_record(resolved=run.record.resolved | together)
        else:
            run = Run.create(
                out,
                study=study,
                config=config.model_dump(mode="json"),
                seed=config.seed,
                steps_planned=loops[index].steps,
                parents=own.parents,
                resolved=own.resolved | together,
                sinks=sinks_of(config, own),
            )
            made.append(run)
        runs.append(opened.enter_context(run))
        own.write(run.path)
        run.record.notices.extend(own.notices)
    return runs


def _common_checkpoints(runs: Sequence[Run]) -> list[Checkpoint]:
    """Each run's checkpoint of the newest step that all have intact; empty where there is none."""
    steps = set.intersection(*(set(run.checkpoints.steps()) for run in runs))
    for step in sorted(steps, reverse=True):
        try:
            return [run.checkpoints.load(step) for run in runs]
        except DamagedCheckpoint as error:
            runs[0].notice(f"{error}; going back to an earlier one")
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


def _fit(
    prepared: Prepared,
    loops: Sequence[LoopConfig],
    runs: Sequence[Run],
    checkpoints: Sequence[Checkpoint],
) -> None:
    from cutaway.training.loop import fit

    fit(prepared.task, loops, runs, prepared.instruments, checkpoints=checkpoints)
