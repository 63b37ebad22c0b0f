"""`cutaway train` and `cutaway presets`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from cutaway.base import display
from cutaway.base.errors import UserError
from cutaway.studies.registry import STUDIES, config_of
from cutaway.studies.settings import describe


def _settings_help() -> str:
    lines = ["Settings, given as --field value:"]
    for study in STUDIES:
        lines.append(f"\n{study}:")
        for row in describe(config_of(study)):
            lines.append(
                f"  --{row['field'].replace('_', '-'):28} {row['meaning']} [{row['default']}]"
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
    what: str,
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    out: Path | None = None,
    resume: bool = False,
    extra_steps: int = 0,
) -> None:
    """Train a preset, a YAML file, or (with --resume or --extra-steps) an existing run.

    Args:
        what: A preset (see `cutaway presets`), a YAML file, or a run's folder to go on with.
        settings: Fields of the study's config, as --field value.
        out: The run's folder; without it a fresh one under runs/.
        resume: Go on from the newest intact checkpoint of the run in --out.
        extra_steps: Train this many steps more than the run was planned for, at its final rate.
    """
    from cutaway.studies.presets import find_preset
    from cutaway.studies.settings import overrides, resolve

    changes = overrides(settings)
    if extra_steps < 0:
        raise UserError(f"extra_steps = {extra_steps}: expected 0 or more")
    going_on = resume or extra_steps > 0
    if going_on and (Path(what) / "run.json").is_file():
        out = out or Path(what)
    if going_on and out is None:
        raise UserError("--resume: say which run, with --out FOLDER or as the first argument")
    if going_on and Path(what) == out:
        from cutaway.studies.train import recorded_config

        study, values = recorded_config(out)
    else:
        preset = find_preset(what)
        study, values = preset.study, preset.values
        out = out or _fresh(preset.name)
    config = resolve(config_of(study), values, changes)

    from cutaway.studies.train import train as start

    run = start(study, config, out, resume=resume, extra_steps=extra_steps)
    _report(run)


def _fresh(name: str) -> Path:
    """`runs/<name>`, or `runs/<name>-2`, -3, ... where that is taken."""
    root = Path("runs")
    number, folder = 1, root / name
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder


def _report(run) -> None:
    record = run.record
    figures = [
        f"{name} {record.metrics[name]:.4f}"
        for name in ("val_loss", "best_val_loss", "val_bits_per_byte")
        if name in record.metrics
    ]
    print(f"{_shown(run.path)}: {record.status} at step {record.steps_done}, {', '.join(figures)}")


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def presets(*, json: bool = False, csv: bool = False) -> None:
    """List the presets: name, study, what it is for."""
    from cutaway.studies.presets import presets as every

    rows = [{"preset": p.name, "study": p.study, "about": p.about} for p in every()]
    display.show(rows, "json" if json else "csv" if csv else "table")
