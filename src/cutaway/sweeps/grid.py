"""A sweep file becomes named, checked runs. One file, many runs:

    study: language            # or inferred from the keys
    name: rates                # default: the file's name
    preset: docstrings-tiny    # optional: shared settings to begin with
    sweep:                     # every combination; the first field varies slowest
      n_embd: [48, 96]
      learning_rate: [3e-4, 1e-3]
      n_layer, n_head: [[2, 2], [4, 4]]      # fields that vary together
    seeds: 3                   # short for a last axis seed: [0, 1, 2]; or a list of seeds
    runs:                      # optional: runs one by one, each the fields it changes;
      - {name: plain}          # with `sweep` or `seeds` each is combined with all of them
      - {name: heavy, weight_decay: 1.0}
    max_iters: 2000            # everything else: settings that all runs share

A run is named after what varies, `n-embd48_lr3e-4_s0` (lr, wd, s for seed; numbers in their
shortest form), or begins with its own name; its group is that name without the seed. Where the
study's config has a field `name`, each run's name goes there.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from cutaway.base.doors import door
from cutaway.base.errors import UserError, nearest
from cutaway.studies.presets import find_preset, hinted
from cutaway.studies.registry import config_of
from cutaway.studies.settings import StudyConfig, flattened, resolve
from cutaway.studies.yaml_file import field_names

_SHORT = {"learning_rate": "lr", "weight_decay": "wd", "seed": "s"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")
_RESERVED = ("checkpoints", "figures", "wandb", "tensorboard")  # folders that are never runs
_LONGEST = 150  # bytes of a folder's name; file systems allow 255, temporary names add some
MOST_RUNS = 10_000  # of one sweep
_OWN = ("name", "group")  # keys of an entry under `runs` that are not settings


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: its study, name, group, the fields that vary, its whole config."""

    study: str
    name: str
    group: str
    swept: dict[str, Any]
    config: StudyConfig


@dataclass(frozen=True)
class Sweep:
    """Named runs of one study, in the order they are started."""

    name: str
    study: str
    runs: tuple[SweepRun, ...]

    def select(self, experiment: str | None = None, start_from: int = 0) -> list[SweepRun]:
        """The runs from index `start_from` (0: all), of one run's or group's name if given."""
        if not 0 <= start_from < len(self.runs):
            raise UserError(
                f"start_from = {start_from}: expected 0 to {len(self.runs) - 1} "
                f"({self.name} has {len(self.runs)} runs)"
            )
        rest = self.runs[start_from:]
        chosen = [run for run in rest if experiment in (None, run.name, run.group)]
        if not chosen:
            names = [*(run.name for run in rest), *(run.group for run in rest)]
            close = nearest(experiment or "", dict.fromkeys(names), count=2, cutoff=0.3)
            raise UserError(
                f"experiment = {experiment!r}: no such run{close or '; --dry-run lists them'}"
            )
        return chosen


@dataclass(frozen=True)
class _Point:
    """One place on an axis: the fields it sets, and its own name and group if it has them."""

    fields: dict[str, Any]
    name: str | None = None
    group: str | None = None


@door
def read_sweep(what: str | Path, over: Mapping[str, Any] | None = None) -> Sweep:
    """The sweep a preset or YAML file describes, `over` (`--field value`) applied to every run.

    Every run is resolved and validated. Raises UserError naming the run and the field.
    """
    preset = find_preset(str(what), sweep=True)
    with hinted(preset):
        return expand(preset.values, preset.study, preset.name, over)


@door
def expand(
    values: Mapping[str, Any],
    study: str,
    name: str,
    over: Mapping[str, Any] | None = None,
) -> Sweep:
    """The sweep of a file's `values`; `name` is its own unless the file gives one."""
    if not isinstance(values, Mapping):
        raise TypeError(f"values: expected a mapping, got {type(values).__name__}")
    shared, over = dict(values), dict(over or {})
    study = shared.pop("study", study)
    if (form := shared.pop("format", 1)) != 1:
        raise UserError(f"format = {form!r}: is newer than this cutaway reads (1); update it")
    name = shared.pop("name", name)
    _require_name(name, "name")
    axes = _axes({key: shared.pop(key) for key in ("runs", "sweep", "seeds") if key in shared})
    shared = flattened(config_of(study), shared)
    varied = list(dict.fromkeys(f for axis in axes for point in axis for f in point.fields))
    for field in varied:
        if field in over:
            raise UserError(
                f"--{field.replace('_', '-')}: this sweep varies {field}; "
                "choose among its runs with --experiment, or change the file"
            )
        if field in shared:
            raise UserError(f"{field}: is both varied and given for all runs; leave one out")
    if (base := shared.pop("preset", None)) is not None:
        found = find_preset(str(base))
        if found.study != study:
            raise UserError(f"preset = {base!r}: a preset of {found.study}, not of {study}")
        base = flattened(config_of(study), found.values)
        shared = {k: v for k, v in base.items() if k != "name"} | shared
    count = math.prod(map(len, axes))
    if count > MOST_RUNS:
        raise UserError(f"{name}: describes {count:,} runs; a sweep has at most {MOST_RUNS:,}")
    runs = [_run(name, study, shared, over, points) for points in itertools.product(*axes)]
    _require_distinct(runs)
    return Sweep(name, study, tuple(runs))


def format_value(value: Any) -> str:
    """A setting's value in a run's name: 0.001 → `1e-3`, 0.5 → `0.5`, 1.0 → `1.0`, None → `none`.

    The same value always gives the same text, which has no underscore and is fit for a folder.
    """
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if (
        isinstance(value, float)
        and math.isfinite(value)
        and value
        and not 0.01 <= abs(value) < 10_000
    ):
        sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
        mantissa = str(digits[0]) + ("." + "".join(map(str, digits[1:])) if digits[1:] else "")
        return f"{'-' * sign}{mantissa}e{int(exponent) + len(digits) - 1}"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "-".join(map(format_value, value))
    return re.sub(r"[^A-Za-z0-9.+=-]+", "-", str(value)).strip("-.") or "empty"


def label(field: str, value: Any) -> str:
    """A field and its value in a run's name: `lr1e-3`, `n-layer2`, `bias-true`, `beta2-0.98`."""
    short = _SHORT.get(field, field.replace("_", "-"))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return short + ("" if number and not short[-1].isdigit() else "-") + format_value(value)


# -- axes ----------------------------------------------------------------------------------


def _axes(given: Mapping[str, Any]) -> list[list[_Point]]:
    """The axes of `runs`, `sweep` and `seeds`, whichever are given, in this order."""
    axes: list[list[_Point]] = []
    if "runs" in given:
        axes.append([_entry(one) for one in _filled("runs", given["runs"])])
    if "sweep" in given:
        grid = given["sweep"]
        if not isinstance(grid, Mapping) or not grid:
            raise UserError("sweep: expected `field: [values]` lines")
        axes += [_grid_axis(str(key), values) for key, values in grid.items()]
    if "seeds" in given:
        seeds = given["seeds"]
        if isinstance(seeds, int) and not isinstance(seeds, bool):
            if not 0 <= seeds <= MOST_RUNS:
                raise UserError(f"seeds = {seeds}: expected 1 to {MOST_RUNS:,}, or a list of seeds")
            seeds = list(range(seeds))
        axes.append([_Point({"seed": seed}) for seed in _filled("seeds", seeds)])
    fields = [{field for point in axis for field in point.fields} for axis in axes]
    for one, other in itertools.combinations(fields, 2):
        if twice := one & other:
            raise UserError(f"{min(twice)}: is varied twice (in sweep, runs or seeds)")
    return axes


def _grid_axis(key: str, values: Any) -> list[_Point]:
    fields = [part.strip().replace("-", "_") for part in key.split(",")]
    if not all(fields):
        raise UserError(f"sweep: {key!r}: expected a field, or fields with commas between")
    if len(set(fields)) < len(fields):
        raise UserError(f"sweep: {key!r}: names a field twice")
    if len(fields) == 1:
        return [_Point({fields[0]: value}) for value in _filled(fields[0], values)]
    points = []
    for together in _filled(key, values):
        if not isinstance(together, list) or len(together) != len(fields):
            raise UserError(f"{key}: expected lists of {len(fields)} values, got {together!r}")
        points.append(_Point(dict(zip(fields, together))))
    return points


def _filled(key: str, values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise UserError(f"{key} = {values!r}: expected a list of what to vary, as in [1, 2]")
    if not values:
        raise UserError(f"{key}: the list is empty; nothing would be trained")
    return values


def _entry(entry: Any) -> _Point:
    if not isinstance(entry, Mapping):
        raise UserError(f"runs: {entry!r}: expected the fields this run changes, as field: value")
    try:
        fields = field_names(entry)
    except UserError as error:
        raise UserError(f"runs: {error}") from None
    own = {key: fields.pop(key, None) for key in _OWN}
    for key, given in own.items():
        if given is not None:
            _require_name(given, f"runs: {key}")
    if own["name"] is None and not fields:
        raise UserError("runs: an entry without fields needs a name")
    return _Point(fields, **own)


# -- runs ----------------------------------------------------------------------------------


def _run(
    sweep: str,
    study: str,
    shared: Mapping[str, Any],
    over: Mapping[str, Any],
    points: Sequence[_Point],
) -> SweepRun:
    model = config_of(study)
    fields = {field: value for point in points for field, value in point.fields.items()}
    try:
        config = resolve(model, shared, {**fields, **over})
    except UserError as error:
        raise UserError(f"run {_named(points, fields)[0]}: {error}") from None
    swept = {field: value for field, value in config if field in fields}
    swept = {field: swept[field] for field in fields}
    name, group = _named(points, swept)
    _require_name(name, "run")
    if "name" in model.model_fields:
        config = config.model_copy(update={"name": name})
    return SweepRun(study, name, group or sweep, swept, config.anchored())


def _named(points: Iterable[_Point], values: Mapping[str, Any]) -> tuple[str, str]:
    """A run's name and its group's (empty where only the seed varies)."""
    name: list[str] = []
    group: list[str] = []
    for point in points:
        labels = {field: label(field, values[field]) for field in point.fields}
        unseeded = [text for field, text in labels.items() if field != "seed"]
        name += [point.name] if point.name else labels.values()
        group += [point.group or point.name] if point.group or point.name else unseeded
    return "_".join(name), "_".join(group)


def _require_name(name: Any, place: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED:
        raise UserError(
            f"{place} = {name!r}: expected a folder's name of letters, digits and . _ + = -"
        )
    if len(name) > _LONGEST:
        raise UserError(
            f"{place} = {name[:40] + '...'!r}: longer than {_LONGEST} letters; "
            "give each entry under `runs:` a short `name`"
        )


def _require_distinct(runs: Sequence[SweepRun]) -> None:
    names: dict[str, str] = {}
    contents: dict[str, str] = {}
    for run in runs:
        text = run.config.model_dump_json(exclude={"name"})
        if (same := contents.get(text)) is not None:
            raise UserError(f"runs {same} and {run.name}: have the same settings; leave one out")
        if (same := names.get(run.name.casefold())) is not None:
            raise UserError(
                f"run {run.name}: another run ({same}) has this name; "
                "list them under `runs:`, each with its own `name`"
            )
        names[run.name.casefold()] = contents[text] = run.name
