"""`cutaway sweep`: many runs from one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from cutaway.base import display
from cutaway.base.errors import Interrupted, RunFailed, UserError
from cutaway.cli.common import Flag, from_config, output_format

if TYPE_CHECKING:
    from cutaway.sweeps.grid import Sweep, SweepRun

_FILE = """A sweep file is a file of `cutaway train` with lists of what to vary:

preset: docstrings-tiny      (optional: shared settings to begin with)
sweep:                       (every combination; the first varies slowest)
  n_embd: [48, 96]
  learning_rate: [3e-4, 1e-3]
  n_layer, n_head: [[2, 2], [4, 4]]          (fields that vary together)
seeds: 3                     (each with seed 0, 1 and 2; or a list)
runs:                        (optional: combinations chosen by hand)
  - {name: plain}
  - {name: heavy, weight_decay: 1.0}
max_iters: 2000              (everything else holds for all runs)

Fields given as --field value hold for all runs; `cutaway train --help`
lists them. A run is named after what varies (n-embd48_lr3e-4_s0); without
the seed that is its group. Each run has its folder in the sweep's, which
also gets sweep.yaml (all settings), summary.csv and figures/ of all runs
together; `cutaway plot sweep FOLDER --out DIR` draws them anew."""

app = App(
    name="sweep",
    help="Train many runs: every combination of the settings a file names.",
    help_epilogue=_FILE,
    help_format="plaintext",
)


@app.default
def sweep(
    what: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    out: Path | None = None,
    dry_run: Flag = False,
    experiment: str | None = None,
    start_from: int = 0,
    jobs: int = 1,
    resume: Flag = False,
    ensemble: bool | None = None,
    json: bool = False,
    csv: bool = False,
) -> None:
    """Train every combination of the settings a file names; one failure never stops the rest.

    Args:
        what: A sweep preset, a YAML file (also as --config FILE), or, to resume, a sweep's folder.
        settings: Fields of the study's config for every run, as --field value.
        out: The sweep's folder; without it runs/NAME.
        dry_run: Show what would be trained, and stop.
        experiment: Only this run, or the runs of this group.
        start_from: Only the runs from this index on; the first is 0.
        jobs: Runs trained at the same time, each with its share of the cores.
        resume: Skip what is done, go on with what is not, start what never began.
        ensemble: Train runs of equal shapes as one program; by default where it is faster.
        json: Print the summary as JSON.
        csv: Print the summary as CSV.
    """
    from cutaway.studies.settings import overrides

    format = output_format(json, csv)
    what, given = from_config(what, settings)
    defined, out = _defined(what, overrides(given), out, resume or dry_run)
    if dry_run:
        chosen = defined.select(experiment, start_from)
        display.show(_planned(defined, chosen, format == "json"), format)
        if format == "table":
            display.notice(f"all {len(chosen)} runs: {_shared(chosen, defined.study)}")
        return
    from cutaway.studies.registry import study_of
    from cutaway.sweeps.run import run_sweep
    from cutaway.sweeps.summary import columns

    swept = run_sweep(
        defined,
        out,
        resume=resume,
        jobs=jobs,
        experiment=experiment,
        start_from=start_from,
        ensemble=ensemble,
    )
    headline = study_of(defined.study).headline
    shown = columns(swept.rows, headline) if format == "table" else None
    display.show(swept.rows, format, columns=shown)
    if swept.signal is not None:
        left = len(swept.unfinished)
        raise Interrupted(f"{out}: stopped with {left} runs to go; --resume goes on", swept.signal)
    _close(defined, out, swept.rows)
    if swept.unfinished:
        for row in swept.unfinished:
            print(f"{row['run']}: {row['status']}: {row['reason']}", file=sys.stderr)
        count = f"{len(swept.unfinished)} of {len(swept.rows)} runs"
        raise RunFailed(f"{out}: {count} did not come to their end; --resume tries them again")


def _close(sweep: Sweep, out: Path, rows: list[dict[str, Any]]) -> None:
    """The last words on a sweep: advice, and its pictures; where they fail it has not."""
    from cutaway.sweeps import pictures
    from cutaway.sweeps.summary import advice

    fields = list(dict.fromkeys(field for run in sweep.runs for field in run.swept))
    try:
        for line in [*pictures.advise(sweep, out), *advice(rows, fields)]:
            display.notice(f"note: {line}")
        for path in pictures.draw_sweep(out, out / pictures.FOLDER):
            display.notice(f"wrote {path}")
    except UserError as error:
        display.notice(f"no pictures: {error}")
    except Exception as error:  # the runs are what counts
        display.notice(f"no pictures: {type(error).__name__}: {error}")


def _defined(
    what: str, over: dict[str, Any], out: Path | None, may_exist: bool
) -> tuple[Sweep, Path]:
    """The sweep, and its folder: the one given, the one it was read from, or runs/NAME."""
    from cutaway.sweeps import definition
    from cutaway.sweeps.grid import read_sweep

    folder = Path(what)
    if (folder / definition.FILE).is_file():
        if not may_exist:
            raise UserError(f"{what}: is a sweep; --resume goes on with it")
        return read_sweep(folder / definition.FILE, over), out or folder
    if folder.is_dir():
        raise UserError(f"{what}: holds no sweep (no {definition.FILE} there)")
    sweep = read_sweep(what, over)
    return sweep, out or Path("runs") / sweep.name


def _planned(sweep: Sweep, chosen: list[SweepRun], nested: bool) -> list[dict[str, Any]]:
    """A row per run: index, name, what varies, and what else differs from the study's defaults."""
    from cutaway.studies.registry import config_of

    fields = config_of(sweep.study).model_fields
    names, rows = {run.name for run in chosen}, []
    for index, run in enumerate(sweep.runs):
        if run.name not in names:
            continue
        other = {
            field: value
            for field, value in run.config.model_dump(mode="json").items()
            if field not in run.swept and field != "name" and value != fields[field].default
        }
        own = {"settings": other} if nested else {}
        rows.append({"index": index, "run": run.name, **run.swept, **own})
    return rows


def _shared(chosen: list[SweepRun], study: str) -> str:
    """What all runs have in common that is not the study's default, on one line."""
    from cutaway.studies.registry import config_of

    fields = config_of(study).model_fields
    first, swept = chosen[0].config.model_dump(mode="json"), set()
    for run in chosen:
        swept |= run.swept.keys()
    told = [
        f"{field}={value}"
        for field, value in first.items()
        if field not in swept and field != "name" and value != fields[field].default
    ]
    return ", ".join(told) or "the defaults"
