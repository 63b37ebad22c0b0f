"""`cutaway probe train`: probes of every layer as a run, with tables, pictures and probe files.

Exact fits and mass means are solved here; those trained in minibatches go through the one loop
(`studies.train.train_by_steps`) and are judged here when it is done; `cutaway train` and sweeps come
here too (`studies.registry`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base import display, files, hardware
from cutaway.base.display import notice
from cutaway.base.errors import RunFailed, UserError
from cutaway.probes.data.request import SOLVED, Asked, chosen_controls
from cutaway.probes.fitting.layers import probe_layers
from cutaway.probes.scores.findings import SCORES, Findings
from cutaway.probes.states.inputs import Inputs
from cutaway.probes.train.config import ProbeConfig
from cutaway.probes.train.record import open_inputs, parents_of, resolved_of, settled
from cutaway.runs.folder import Run
from cutaway.runs.session import Session
from cutaway.studies.settings import resolve
from cutaway.studies.settled import continued, settings_of
from cutaway.studies.train import (
    going_on,
    require_same,
    sinks_of,
    train_by_steps,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from cutaway.probes.states.probe import Probe

STUDY = "probe"
PROBES = "probes"  # the folder of a run that holds one folder per site
# fields without effect on probes that are solved
OF_THE_LOOP = (
    *("epochs", "learning_rate", "batch_size", "weight_decay", "max_steps", "decay_steps"),
    *("mlp_width", "eval_every", "log_every", "checkpoint_every", "keep_checkpoints"),
)


def train_probes(
    config: ProbeConfig | Mapping[str, Any],
    out: str | Path,
    *,
    resume: bool = False,
    extra_steps: int = 0,
) -> Run:
    """Probe every layer that `config` names and return the closed run in `out`.

    The run keeps the tables `layers`, `controls`, `reliability` and `confusion`, a probe per site
    under `probes/` and `figures/`. `resume` goes on with a run that was stopped: a solved one starts
    again, one in minibatches goes on at its last checkpoint. `extra_steps` trains one in minibatches
    so much longer and judges it anew. Raises UserError where nothing could start, RunFailed (a probe
    that predicts one class only; what was found stays readable) or Interrupted.
    """
    if not isinstance(config, ProbeConfig):
        config = resolve(ProbeConfig, config)
    from cutaway.training.guards import computing_with

    config, out = config.anchored(), Path(out)
    chosen_controls(config.controls)  # a mistake is told before anything slow
    if not (resume or extra_steps):
        hardware.device(config.device)
    files.require_writable(out)
    if extra_steps and config.method in SOLVED:
        raise UserError(f"extra_steps = {extra_steps}: {_solved_by(config.method)}")
    if resume and not extra_steps and judged(out):
        run = Run.open(out)
        require_same(settings_of(run.record, ProbeConfig), config, out)
        controls = run.record.config["controls"]
        other = f" with controls = {controls!r}; others need a new run"
        notice(f"{out}: already done{other if config.controls != controls else ''}")
        return run
    if not resume and not extra_steps:
        _require_effect(config)
    if resume or extra_steps:
        config = going_on(config, Run.open(out).record, out)
    with computing_with(config.thread_count()):
        if config.method in SOLVED:
            return _solved(config, out, resume)
        from cutaway.probes.train.study import probes_of

        run = train_by_steps(STUDY, config, out, resume=resume, extra_steps=extra_steps)
        config = continued(config, run.record.config)
        inputs = open_inputs(config)
        given = probes_of(run)
        session = Session(out, going_on=True)
        with session.take(config=run.record.config, sinks=sinks_of(config)) as run:
            run.truncate(0, Findings().tables)  # of a judging that was cut off
            _work(session, inputs, config, given)
    return run


def judged(out: Path) -> bool:
    """Whether a run there is done and what it trained last was judged.

    The loop, where it ends, leaves final figures of its own in the record; judging adds to them.
    """
    record = Run.open(out).record
    return record.status == "done" and "balanced_accuracy" in record.metrics


def asked_of(config: ProbeConfig) -> Asked:
    """What a config asks of `probe_layers`."""
    return Asked(
        method=config.method,
        strengths=config.strengths,
        controls=chosen_controls(config.controls),
        pos_weight_cap=config.pos_weight_cap,
        seed=config.seed,
    )


def draw(findings: Mapping[str, Any], out: Path) -> dict[str, Figure]:
    """The pictures of a run's tables, saved as figures/NAME.png too."""
    from cutaway.figures.look import save
    from cutaway.probes.charts.report import probes_figures

    drawn = probes_figures(findings, record=Run.open(out).record)
    for name, figure in drawn.items():
        save(figure, out / "figures" / f"{name}.png")
    return drawn


def headline(found: Findings) -> dict[str, float]:
    """A run's final figures: the layer best on validation, and the controls beside it."""
    best = found.best.about
    row = next(one for one in found.layers if one["site"] == best.site)
    metrics = {"best_layer": row["layer"]} | {name: row[name] for name in SCORES}
    for one in found.controls:
        if one["site"] in (None, best.site):
            metrics[f"{one['control']}_balanced_accuracy"] = one["balanced_accuracy"]
            if one["selectivity"] is not None:
                metrics["selectivity"] = one["selectivity"]
    return metrics


# -- inside ----------------------------------------------------------------------------------------


def _require_effect(config: ProbeConfig) -> None:
    """Refuse settings that would change nothing with this method."""
    idle = OF_THE_LOOP if config.method in SOLVED else ("mlp_width",) * (config.method != "mlp")
    for name in idle:
        value = getattr(config, name)
        if value == ProbeConfig.model_fields[name].default:
            continue
        if config.method in SOLVED:
            raise UserError(f"{name} = {value}: {_solved_by(config.method)}")
        raise UserError(f"{name} = {value}: goes with method mlp, not with {config.method!r}")


def _solved_by(method: str) -> str:
    """What there is to say of a setting of the loop."""
    return (
        f"method {method!r} is solved, not trained in steps; leave it out, or take --method "
        "minibatch or mlp"
    )


def _solved(config: ProbeConfig, out: Path, resume: bool) -> Run:
    session = Session(out, going_on=resume)
    inputs = open_inputs(config)
    config = settled(config, inputs)
    parents = parents_of(inputs)
    session.require_same_parents(parents)
    with session.take(
        study=STUDY,
        config=config.model_dump(mode="json"),
        seed=config.seed,
        steps_planned=len(inputs.sites),
        parents=parents,
        resolved=resolved_of(inputs),
        sinks=sinks_of(config),
    ) as run:
        if resume:
            run.truncate(0)
        _work(session, inputs, config, None)
    return run


def _work(
    session: Session, inputs: Inputs, config: ProbeConfig, given: Sequence[Probe] | None
) -> None:
    """Fit or take the probes, judge them, and leave everything in the run."""
    run = session.run
    with session.working():
        found = probe_layers(inputs, asked_of(config), given=given, folder=run.path)
        _write(run, found)
    for line in (*found.warnings, found.verdict()):
        run.notice(line)
    metrics = {**run.record.metrics, **headline(found)}
    if given is None:
        run.save_record(steps_attempted=len(inputs.sites), steps_done=len(inputs.sites))
    if found.failures:
        run.save_record(metrics=metrics)
        run.fail("; ".join(found.failures))
        raise RunFailed("; ".join(found.failures))
    run.finish(metrics)


def _write(run: Run, found: Findings) -> None:
    for name, rows in found.tables.items():
        if rows:
            run.append_table(name, _table(rows))
    for probe in found.probes:
        probe.save(run.path / PROBES / probe.about.site)
    draw(found.tables, run.path)


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table, NaN as null; columns of nothing but null have the type they have elsewhere."""
    import pyarrow as pa

    table = pa.Table.from_pylist([display.finite(row) for row in rows])
    known = {"site": pa.string(), "layer": pa.int64()}
    kinds = [
        known.get(one.name, pa.float64()) if pa.types.is_null(one.type) else one.type
        for one in table.schema
    ]
    return table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))))
