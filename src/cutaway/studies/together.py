"""Train several runs of one study as one stacked program; each leaves its own folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from cutaway.base.errors import UserError
from cutaway.base.files import require_writable
from cutaway.runs import record
from cutaway.runs.checkpoint import Checkpoint, DamagedCheckpoint
from cutaway.runs.folder import Run
from cutaway.studies.registry import study_of
from cutaway.studies.settings import StudyConfig
from cutaway.studies.study import Prepared
from cutaway.studies.train import advise, require_same, sinks_of
from cutaway.training.config import LoopConfig


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
    for out in paths:
        require_writable(out)
        if not (resume and (out / record.FILE).is_file()):
            Run.require_free(out)
    prepared = room.prepare_together(configs)
    loops = [config.loop() for config in configs]
    with ExitStack() as opened:
        runs = _opened(study, configs, prepared, loops, paths, opened)
        checkpoints = _common_checkpoints(runs) if resume else []
        _fit(prepared[0], loops, runs, checkpoints)
        for run, config in zip(runs, configs):
            if run.record.status == "done":
                advise(study, config, run)
    return runs


def _opened(
    study: str,
    configs: Sequence[StudyConfig],
    prepared: Sequence[Prepared],
    loops: list[LoopConfig],
    paths: Sequence[Path],
    opened: ExitStack,
) -> list[Run]:
    """Every run's folder taken, new or resumed; those that were made go where one is refused."""
    runs: list[Run] = []
    made: list[Run] = []
    try:
        for index, (config, own, out) in enumerate(zip(configs, prepared, paths)):
            if (out / record.FILE).is_file():
                before = Run.open(out).record
                require_same(before.config, config, out)
                loops[index] = replace(
                    loops[index], steps=max(before.steps_planned, loops[index].steps)
                )
                run = Run.resume(out, sinks=sinks_of(config, own))
            else:
                run = Run.create(
                    out,
                    study=study,
                    config=config.model_dump(mode="json"),
                    seed=config.seed,
                    steps_planned=loops[index].steps,
                    parents=own.parents,
                    resolved=own.resolved,
                    sinks=sinks_of(config, own),
                )
                made.append(run)
            runs.append(opened.enter_context(run))
            own.write(run.path)
            run.record.notices.extend(own.notices)
    except UserError:
        opened.close()
        for run in made:
            Run.remove(run.path)
        raise
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


def _fit(
    prepared: Prepared,
    loops: Sequence[LoopConfig],
    runs: Sequence[Run],
    checkpoints: Sequence[Checkpoint],
) -> None:
    from cutaway.training.loop import fit

    fit(prepared.task, loops, runs, prepared.instruments, checkpoints=checkpoints)
