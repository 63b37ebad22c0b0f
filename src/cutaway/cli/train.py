"""`cutaway train` and `cutaway presets`."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Collection
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from cutaway.base import display
from cutaway.base.errors import UserError
from cutaway.cli.common import fresh_folder, from_config, output_format, whole
from cutaway.studies.registry import STUDIES, config_of
from cutaway.studies.settings import describe

if TYPE_CHECKING:
    from cutaway.runs.folder import Run
    from cutaway.studies.settings import StudyConfig


_NAME_COLUMN = 33  # where a field's meaning begins


def _settings_help() -> str:
    """Every field of every study; what does not fit into a line goes on below itself."""
    wide = max(60, min(100, shutil.get_terminal_size().columns)) - 1
    indent = " " * _NAME_COLUMN
    lines = ["Settings, given as --field value:"]
    for study in STUDIES:
        lines.append(f"\n{study}:")
        for row in describe(config_of(study)):
            name = f"  --{row['field'].replace('_', '-')}".ljust(_NAME_COLUMN)
            meaning = f"{row['meaning']} [{row['default']}]"
            lines.append(
                textwrap.fill(
                    meaning,
                    wide,
                    initial_indent=name,
                    subsequent_indent=indent,
                    break_on_hyphens=False,
                )
            )
    return "\n".join(lines)


app = App(
    name="train",
    help="Train anything: a preset or a YAML file.",
    help_epilogue=_settings_help(),
    help_format="plaintext",
)


@app.default
def train(
    what: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    out: Path | None = None,
    resume: bool = False,
    extra_steps: Annotated[
        int, Parameter(name=["--extra-steps", "--extra-epochs"], converter=whole)
    ] = 0,
) -> None:
    """Train a preset, a YAML file, or (with --resume or --extra-steps) an existing run.

    Args:
        what: A preset (`cutaway presets`), a YAML file (also as --config FILE), or a run's folder.
        settings: Fields of the study's config, as --field value.
        out: The run's folder; without it a fresh one under runs/.
        resume: Go on from the newest intact checkpoint of the run in --out.
        extra_steps: Train this many steps more than the run was planned for, at its final rate.
    """
    from cutaway.studies.asked import asked_for
    from cutaway.studies.settings import overrides

    what, given = from_config(what, settings)
    changes = overrides(given)
    if extra_steps < 0:
        raise UserError(f"extra_steps = {extra_steps}: expected 0 or more")
    going_on = resume or extra_steps > 0
    is_run = (Path(what) / "run.json").is_file()
    if is_run and not going_on:
        raise UserError(f"{what}: is a run; --resume or --extra-steps N goes on with it")
    if going_on:
        out = out or (Path(what) if is_run else None)
        if out is None:
            raise _no_run(what, "--resume" if resume else f"--extra-steps {extra_steps}")
        run = _go_on(what, out, is_run, changes, resume, extra_steps)
    else:
        asked = asked_for(what, changes)
        config = asked.config()
        run = _start(getattr(config, "name", None) or asked.file.name, asked.study, config, out)
    _report(run)


def _no_run(what: str, asked: str) -> UserError:
    """What to say where there is no run to go on with: of settings which run, else that it is none."""
    from cutaway.studies.presets import find_preset

    try:
        find_preset(what)
    except UserError:
        found = "holds no run (no run.json there)" if Path(what).is_dir() else "no such run"
        return UserError(f"{what}: {found}")
    return UserError(
        f"{asked}: say which run to go on with: `cutaway train FOLDER {asked}`, "
        f"or {what} with --out FOLDER"
    )


def _go_on(
    what: str, out: Path, is_run: bool, changes: dict[str, Any], resume: bool, extra_steps: int
) -> Run:
    """The recorded settings count, and above them only what the command line says."""
    from cutaway.studies.asked import asked_for
    from cutaway.studies.train import train

    asked = asked_for(None if is_run else what, changes, run=out)
    model = asked.values.get("model")
    if asked.file is not None and (mine := asked.file.values.get("model", model)) != model:
        raise UserError(f"{out}: a run of model {model}; {what} is of model {mine}")
    return train(asked.study, asked.config(), out, resume=resume, extra_steps=extra_steps)


def _start(name: str, study: str, config: StudyConfig, out: Path | None) -> Run:
    from cutaway.studies.train import train

    if out is not None:
        return train(study, config, out)
    with fresh_folder(name) as folder:
        return train(study, config, folder)


def _report(run: Run) -> None:
    from cutaway.studies.registry import study_of

    record = run.record
    study = study_of(record.study)
    figures = [
        " ".join((f"{name} {record.metrics[name]:.4f}", *filter(None, [study.remarks.get(name)])))
        for name in study.headline
        if record.metrics.get(name) is not None
    ]
    print(f"{_shown(run.path)}: {record.status} at step {record.steps_done}, {', '.join(figures)}")


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def presets(name: str | None = None, /, *, json: bool = False, csv: bool = False) -> None:
    """List the presets (name, study, what it is for), or print one's settings as YAML.

    Args:
        name: A preset; its settings are printed as a file that `cutaway train` or `sweep` takes.
        json: Print JSON.
        csv: Print CSV, of the list.
    """
    from cutaway.studies.presets import presets as every

    known = every(sweeps=True)
    if name is not None:
        if csv:
            raise UserError("--csv: goes with the list of presets; settings are YAML or --json")
        _print_preset(name, {p.name for p in known if p.is_sweep}, json=json)
        return
    rows = [{"preset": p.name, "study": p.study, "about": p.about} for p in known]
    display.show(rows, output_format(json, csv))


def _print_preset(name: str, sweeps: Collection[str], *, json: bool) -> None:
    """One preset's settings, after its study, with its comment as it stands."""
    from ruamel.yaml import YAML

    from cutaway.studies.presets import find_preset

    preset = find_preset(name, sweep=name.replace("_", "-") in sweeps)
    settings = {"study": preset.study, **preset.values}
    if json:
        print(dumps(settings, ensure_ascii=False, indent=2))
        return
    if preset.about:
        print(f"# {preset.about}")
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.allow_unicode = True
    writer.dump(settings, sys.stdout)
