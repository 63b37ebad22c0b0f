"""`sweep.yaml` in a sweep's folder: its runs with every setting, itself a sweep file.

It is what a resume reads, so that neither the file nor the preset it came from is needed, and
what tells that a resumed sweep is no longer the one that was begun.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from cutaway.base import files
from cutaway.base.errors import UserError
from cutaway.runs import checksums
from cutaway.studies.settled import differing
from cutaway.sweeps.grid import Sweep, SweepRun, read_sweep

FILE = "sweep.yaml"
_FIRST_LINE = (
    "# A sweep's runs with every setting; `cutaway sweep FOLDER --resume` goes on with it.\n"
    f"# {checksums.FILE} lists the files of this folder, once the sweep has ended.\n"
)


def write_definition(sweep: Sweep, folder: Path) -> None:
    """Put the resolved sweep into `folder`, atomically."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 1_000_000
    yaml.sort_base_mapping_type_on_output = False
    text = io.StringIO()
    yaml.dump(_content(sweep), text)
    files.write_text(folder / FILE, _FIRST_LINE + text.getvalue())


def read_definition(folder: Path) -> Sweep | None:
    """The sweep that was begun in `folder`; None where none was."""
    if not (folder / FILE).is_file():
        return None
    return read_sweep(folder / FILE)


def joined(sweep: Sweep, before: Sweep | None, folder: Path) -> Sweep:
    """`sweep` and the runs that only the one begun `before` has: a sweep may grow, never change.

    Raises UserError naming the first run whose settings differ from those it was begun with, or the
    first setting outside the varied ones in which the two sweeps have nothing in common.
    """
    if before is None:
        return sweep
    if before.study != sweep.study:
        raise UserError(f"{folder}: holds a sweep of {before.study}, not of {sweep.study}")
    old = {run.name: run for run in before.runs}
    for run in sweep.runs:
        if run.name in old:
            require_same(run, old.pop(run.name).config.model_dump(mode="json"), folder)
    _require_same_shared(sweep, before, folder)
    return Sweep(sweep.name, sweep.study, (*sweep.runs, *old.values()))


def require_same(run: SweepRun, before: dict[str, Any], folder: Path) -> None:
    """Refuse a run whose settings are not those of `before`, but for what a resume may change."""
    if (field := differing(run.config, before)) is not None:
        value = run.config.model_dump(mode="json")[field]
        raise UserError(
            f"run {run.name}: {field} = {value!r}: {folder} began it with {before[field]!r}; "
            "go on with what it was begun with, or choose another --out"
        )


def _require_same_shared(sweep: Sweep, before: Sweep, folder: Path) -> None:
    """Refuse a sweep that is another one: a setting that not both vary has no value in common."""
    now, then = (_values(one) for one in (sweep, before))
    free = sweep.runs[0].config.free
    both = _varied(sweep) & _varied(before) | free | {"name"}
    for field in now:
        if field in both or field not in then or now[field].keys() & then[field].keys():
            continue
        new, old = (next(iter(one[field].values())) for one in (now, then))
        raise UserError(
            f"{field} = {new!r}: the sweep in {folder} has {old!r}; choose another --out"
        )


def _varied(sweep: Sweep) -> set[str]:
    return {field for run in sweep.runs for field in run.swept}


def _values(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """The values each setting has in a sweep's runs, by their JSON, which any value has."""
    found: dict[str, dict[str, Any]] = {}
    for run in sweep.runs:
        for field, value in run.config.model_dump(mode="json").items():
            found.setdefault(field, {})[json.dumps(value)] = value
    return found


def _content(sweep: Sweep) -> dict[str, Any]:
    """The sweep as the explicit form of a sweep file: what all runs share once, the rest per run."""
    configs = [run.config.model_dump(mode="json", exclude={"name"}) for run in sweep.runs]
    first, swept = configs[0], dict.fromkeys(field for run in sweep.runs for field in run.swept)
    void = {f for field in swept for f in sweep.runs[0].config.displaces.get(field, ())}
    own = dict.fromkeys(field for field in swept if field in first)
    own |= dict.fromkeys(
        field
        for field, value in first.items()
        if field in void or any(config[field] != value for config in configs)
    )
    runs = [
        {"name": run.name, "group": run.group} | {field: config[field] for field in own}
        for run, config in zip(sweep.runs, configs, strict=True)
    ]
    shared = {field: value for field, value in first.items() if field not in own}
    return {"format": 1, "study": sweep.study, "name": sweep.name, "runs": runs} | shared
