"""Train anything that has a study: a new run, a resumed one, or more steps of a finished one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cutaway.base import hardware
from cutaway.base.display import notice
from cutaway.base.doors import door
from cutaway.base.errors import UserError
from cutaway.base.files import require_writable
from cutaway.runs.checkpoint import Checkpoint
from cutaway.runs.folder import Run
from cutaway.runs.record import RunRecord
from cutaway.runs.session import Session
from cutaway.runs.sinks import Sink
from cutaway.studies.registry import config_of, study_of, trainer_of
from cutaway.studies.settings import StudyConfig, resolve
from cutaway.studies.settled import continued, differing, extended, is_default, settings_of
from cutaway.studies.study import Prepared
from cutaway.studies.unmoved import unmoved
from cutaway.training.config import LoopConfig

_ADVICE = "note: "  # how a line of advice begins in a record's notices


@door
def train(
    study: str,
    config: StudyConfig | Mapping[str, Any],
    out: str | Path,
    *,
    resume: bool = False,
    extra_steps: int = 0,
) -> Run:
    """Train and return the closed run.

    A new run refuses a folder that holds another. `resume` goes on from the newest intact
    checkpoint (from step 0 where none was written yet). `extra_steps` adds to a run's length, at
    its final learning rate. Raises UserError (nothing is left behind, a resumed run is as it was),
    RunFailed or Interrupted.
    """
    if not isinstance(config, StudyConfig):
        config = resolve(config_of(study), config)
    if (own := trainer_of(study)) is not None:
        return own(config, out, resume=resume, extra_steps=extra_steps)
    return train_by_steps(study, config, out, resume=resume, extra_steps=extra_steps)


def train_by_steps(
    study: str, config: StudyConfig, out: str | Path, *, resume: bool = False, extra_steps: int = 0
) -> Run:
    """`train` by the loop and nothing besides, whatever else the study's runs get."""
    from cutaway.training.guards import computing_with

    config, out = config.anchored(), Path(out)
    if resume or extra_steps:
        return _resume(study, config, out, extra_steps)
    hardware.device(config.device)
    require_memory([config])
    require_writable(out)
    session = Session(out)
    with computing_with(config.thread_count()):
        return _trained(study, config, session, 0)


def _trained(study: str, config: StudyConfig, session: Session, extra_steps: int) -> Run:
    """A new run, or one that goes on from its newest checkpoint; where it cannot start, as before."""
    from cutaway.training.saving import matching_state

    prepared = study_of(study).prepare(config)
    before, checkpoint, damage = session.before, None, []
    session.require_same_parents(prepared.parents)
    planned = () if before is None else (before.steps_planned, extra_steps)
    loop, extensions = extended(prepared.loop or config.loop(), config, *planned)
    if before is not None:
        config = config.model_copy(update={"extra_steps": extensions})
    require_disk(session.out, prepared, loop)
    if before is not None:
        checkpoint, damage = newest_checkpoint(Run.open(session.out))
        if checkpoint is not None:
            matching_state(checkpoint, prepared.task, loop)
    with session.take(**beginning(study, config, prepared, loop)) as run:
        for line in damage:
            run.notice(line)
        try:
            prepared.write(run.path)
            if before is None:
                run.record.notices.extend(prepared.notices)
            _fit(study, config, prepared, run, checkpoint, loop)
        except UserError:
            session.put_back()
            raise
    return run


def beginning(
    study: str, config: StudyConfig, prepared: Prepared, loop: LoopConfig
) -> dict[str, Any]:
    """What `Session.take` needs of a run that is trained by the loop."""
    return {
        "study": study,
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "steps_planned": loop.steps,
        "parents": prepared.parents,
        "resolved": prepared.resolved,
        "sinks": sinks_of(config, prepared),
    }


def recorded_config(folder: str | Path) -> tuple[str, dict[str, Any]]:
    """The study and settings of an existing run."""
    record = Run.open(folder).record
    return record.study, dict(record.config)


def _resume(study: str, config: StudyConfig, out: Path, extra_steps: int) -> Run:
    from cutaway.training.guards import computing_with

    session = Session(out, going_on=True)
    record = Run.open(out).record
    config = going_on(config, record, out)
    require_writable(out)
    if record.status == "done" and not extra_steps:
        notice(f"{out}: already done at step {record.steps_done}; --extra-steps N trains on")
        return Run.open(out)
    require_memory([config])
    with computing_with(config.thread_count()):
        return _trained(study, config, session, extra_steps)


def going_on(config: StudyConfig, record: RunRecord, out: Path) -> StudyConfig:
    """The settings with which a run goes on: what is not given is as the run settled it.

    Raises UserError where they are another run's, or its device is absent here.
    """
    before = settings_of(record, type(config))
    require_same(before, config, out)
    given, config = config, continued(config, before)
    try:
        hardware.device(config.device)
    except UserError as error:
        if not is_default(given, "device") and given.device != before.get("device"):
            raise
        raise UserError(
            f"{error}, where {out} was trained; --device cpu goes on with it here, and figures then "
            "agree within rounding only"
        ) from None
    return config


def require_memory(configs: Sequence[StudyConfig]) -> None:
    """Refuse runs that the memory cannot hold together, as far as their settings tell, and a
    device that is not there."""
    on = hardware.device(configs[0].device)
    needs = [need for one in configs for need in one.memory_needed(in_parts=on.type == "cuda")]
    hardware.require_memory(needs, on)


def require_disk(out: Path, prepared: Prepared, loop: LoopConfig, members: int = 1) -> None:
    """Room for the checkpoints that will be kept, the best and one being written.

    Each holds the weights and Adam's two moments, four bytes each.
    """
    kept = loop.keep_checkpoints
    if kept is None:
        kept = -(-loop.steps // loop.checkpoint_every)
    parameters = sum(p.numel() for p in prepared.task.parameters()) // members
    require_writable(out, 12 * parameters * (kept + 2))


def newest_checkpoint(run: Run) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint, and what was damaged; None where none was ever written.

    Raises UserError where there were some and none is intact.
    """
    checkpoint, damage = run.checkpoints.latest_intact()
    if checkpoint is None and (damage or run.record.steps_done):
        raise UserError(f"{run.path}: no checkpoint left intact; start a new run")
    return checkpoint, damage


def require_same(before: Mapping[str, Any], config: StudyConfig, out: Path) -> None:
    """Refuse settings a run cannot go on with; `before` as `settled.settings_of` gives them."""
    if (name := differing(config, before)) is not None:
        value = config.model_dump(mode="json")[name]
        raise UserError(
            f"{name} = {value!r}: {out} was trained with {before[name]!r}; "
            "leave the field out to go on, or start a new run"
        )


def sinks_of(config: StudyConfig, prepared: Prepared | None = None) -> list[Sink]:
    """Where the run's figures also go: what its settings ask for, and what was prepared."""
    from cutaway.runs import sinks

    found = [] if prepared is None else list(prepared.sinks)
    if config.wandb != "off":
        found.append(
            sinks.WandbSink(
                project=config.wandb_project, group=config.wandb_group, mode=config.wandb
            )
        )
    if config.tensorboard:
        found.append(sinks.TensorBoardSink())
    return found


def _fit(
    study: str,
    config: StudyConfig,
    prepared: Prepared,
    run: Run,
    checkpoint: Checkpoint | None,
    loop: LoopConfig,
) -> None:
    from cutaway.training.loop import fit

    checkpoints = [] if checkpoint is None else [checkpoint]
    fit(prepared.task, loop, [run], prepared.instruments, checkpoints=checkpoints)
    advise(study, config, run)


def advise(study: str, config: StudyConfig, run: Run) -> None:
    """What the finished run shows that its owner should know, told and kept in its record."""
    history = run.read("history")
    lines = [] if history is None else unmoved(history)
    advice = [_ADVICE + line for line in (*lines, *study_of(study).advise(run, config))]
    for line in advice:
        notice(line)
    # what was said when the run ended earlier than now no longer holds
    lasting = [line for line in run.record.notices if not line.startswith(_ADVICE)]
    run.save_record(notices=[*lasting, *advice])
