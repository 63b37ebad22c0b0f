"""Train anything that has a study: a new run, a resumed one, or more steps of a finished one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cutaway.base import hardware
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.files import require_writable
from cutaway.runs.checkpoint import Checkpoint
from cutaway.runs.folder import Run
from cutaway.runs.sinks import Sink
from cutaway.studies.registry import config_of, study_of
from cutaway.studies.settings import StudyConfig, resolve
from cutaway.studies.study import Prepared

CHECKPOINT_HEADROOM = 4  # checkpoints of weights and two moments, each twice, and the tables


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
    its final learning rate. Raises UserError, RunFailed or Interrupted.
    """
    if not isinstance(config, StudyConfig):
        config = resolve(config_of(study), config)
    out = Path(out)
    if resume or extra_steps:
        return _resume(study, config, out, extra_steps)
    hardware.device(config.device)
    require_writable(out)
    Run.require_free(out)
    prepared = study_of(study).prepare(config)
    parameters = sum(p.numel() for p in prepared.task.parameters())
    require_writable(out, CHECKPOINT_HEADROOM * 4 * parameters)
    with Run.create(
        out,
        study=study,
        config=config.model_dump(mode="json"),
        seed=config.seed,
        steps_planned=config.loop().steps,
        parents=prepared.parents,
        resolved=prepared.resolved,
        sinks=_sinks(config, prepared),
    ) as run:
        prepared.write(run.path)
        for line in prepared.notices:
            run.record.notices.append(line)
        _fit(study, config, prepared, run, None)
    return run


def recorded_config(folder: str | Path) -> tuple[str, dict[str, Any]]:
    """The study and settings of an existing run."""
    record = Run.open(folder).record
    return record.study, dict(record.config)


def _resume(study: str, config: StudyConfig, out: Path, extra_steps: int) -> Run:
    from cutaway.training.saving import matching_state

    record = Run.open(out).record
    _require_same(record.config, config.model_dump(mode="json"), out)
    loop = config.loop()
    steps = max(record.steps_planned, loop.steps) + extra_steps
    if record.status == "done" and not extra_steps:
        notice(f"{out}: already done at step {record.steps_done}; --extra-steps N trains on")
        return Run.open(out)
    prepared = study_of(study).prepare(config)
    for before, now in zip(record.parents, prepared.parents, strict=False):
        if before.get("sha256") != now.get("sha256"):
            raise UserError(
                f"{out}: {now.get('id')} has changed since this run began; start a new run"
            )
    checkpoint, damage = _checkpoint(Run.open(out))
    if checkpoint is not None:
        matching_state(checkpoint, prepared.task, loop)
    with Run.resume(out, sinks=_sinks(config, prepared)) as run:
        for line in damage:
            run.notice(line)
        prepared.write(run.path)
        _fit(study, config, prepared, run, checkpoint, steps)
    return run


def _checkpoint(run: Run) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint, and what was damaged; None where none was ever written."""
    checkpoint, damage = run.checkpoints.latest_intact()
    if checkpoint is None and damage:
        raise UserError(f"{run.path}: no checkpoint left intact; start a new run")
    return checkpoint, damage


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    for name, value in now.items():
        if name in before and before[name] != value:
            raise UserError(
                f"{name} = {value!r}: {out} was trained with {before[name]!r}; "
                "leave the field out to go on, or start a new run"
            )


def _sinks(config: StudyConfig, prepared: Prepared) -> list[Sink]:
    from cutaway.runs import sinks

    found = list(prepared.sinks)
    if config.wandb != "off":
        found.append(sinks.WandbSink(project=config.wandb_project, mode=config.wandb))
    if config.tensorboard:
        found.append(sinks.TensorBoardSink())
    return found


def _fit(
    study: str,
    config: StudyConfig,
    prepared: Prepared,
    run: Run,
    checkpoint: Checkpoint | None,
    steps: int | None = None,
) -> None:
    from dataclasses import replace

    from cutaway.training.loop import fit

    loop = config.loop()
    if steps is not None:
        loop = replace(loop, steps=steps)
    fit(prepared.task, loop, [run], prepared.instruments, checkpoint=checkpoint)
    advice = study_of(study).advise(run, config)
    for line in advice:
        notice(f"note: {line}")
    run.save_record(notices=[*run.record.notices, *advice])
