"""Presets: named YAML files that come with the rooms, and files of the user's own.

A file with `sweep:`, `runs:` or `seeds:` is a sweep: many runs, for `cutaway sweep`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cutaway.base.doors import door
from cutaway.base.errors import UserError, nearest
from cutaway.base.files import as_path
from cutaway.studies.registry import STUDIES, infer
from cutaway.studies.yaml_file import read_yaml

_AXES = ("runs", "sweep", "seeds")  # keys that make many runs of one file


@dataclass(frozen=True)
class Preset:
    """A named starting point: its study, its values, and the comment its file begins with."""

    name: str
    study: str
    values: dict[str, Any]
    about: str = ""
    guessed: bool = False  # the study, by the file's keys

    @property
    def is_sweep(self) -> bool:
        """Whether these are the values of many runs."""
        return _is_sweep(self.values)


def presets(*, sweeps: bool = False) -> list[Preset]:
    """All presets of all rooms, by name; those that are sweeps only where asked for."""
    found = []
    for study, entry in STUDIES.items():
        for file in files(entry.presets).iterdir():
            if file.name.endswith(".yaml"):
                path = Path(str(file))
                first = path.read_text(encoding="utf-8").splitlines()[0]
                about = first.lstrip("# ") if first.startswith("#") else ""
                values = read_yaml(path)
                if _is_sweep(values):
                    about = f"sweep of {_count(values)} runs: {about}"
                found.append(Preset(path.stem, study, values, about))
    found = [preset for preset in found if sweeps or not preset.is_sweep]
    return sorted(found, key=lambda preset: preset.name)


@door
def find_preset(name: str, *, sweep: bool = False) -> Preset:
    """A preset by name, or a YAML file by path (its study named in it, or inferred from keys).

    One run's unless `sweep`, then one of many; either is refused in the other's place.
    """
    preset = _found(os.fspath(name), sweep)
    if not sweep:
        _require_one_run(name, preset.values)
    if sweep and not preset.is_sweep:
        raise UserError(
            f"{name}: nothing to vary (no sweep:, runs: or seeds: in it); "
            f"`cutaway train {name}` trains it"
        )
    return preset


def _require_one_run(name: str, values: Mapping[str, Any]) -> None:
    if _is_sweep(values):
        runs = _count(values)
        raise UserError(f"{name}: is a sweep of {runs} runs; `cutaway sweep {name}` trains them")


def _found(name: str, sweep: bool) -> Preset:
    if name.endswith((".yaml", ".yml")) or as_path(name).is_file():
        values = read_yaml(name)
        if not sweep:  # before its study is looked for in its own preset, and so without end
            _require_one_run(name, values)
        study = values.pop("study", None)
        if study is not None and study not in list(STUDIES):
            close = nearest(str(study), STUDIES)
            raise UserError(
                f"{name}: study = {study!r}: expected one of {', '.join(STUDIES)}{close}"
            )
        return Preset(Path(name).stem, study or _inferred(values), values, guessed=not study)
    known = {preset.name: preset for preset in presets(sweeps=True)}
    name = name if name in known else name.replace("_", "-")
    if name not in known:
        close = nearest(name, known, count=3, cutoff=0.4)
        raise UserError(
            f"no preset or file {name!r}{close or '; `cutaway presets` lists the presets'}"
        )
    return known[name]


def _inferred(values: Mapping[str, Any]) -> str:
    """The study of a file that does not name it: its base's, or by all the keys it gives."""
    if _is_sweep(values) and isinstance(base := values.get("preset"), str):
        return find_preset(base).study
    varied = values.get("sweep")
    entries = values.get("runs") if isinstance(values.get("runs"), list) else []
    found = dict(values)
    if isinstance(varied, Mapping):
        for key, axis in varied.items():
            fields = [part.strip().replace("-", "_") for part in str(key).split(",")]
            first = axis[0] if isinstance(axis, list) and axis else None
            together = len(fields) > 1 and isinstance(first, list)
            found |= dict(zip(fields, first if together else [first] * len(fields)))
    for entry in entries:
        if isinstance(entry, Mapping):
            found |= {str(key).replace("-", "_"): value for key, value in entry.items()}
    return infer(found)


@contextmanager
def hinted(preset: Preset) -> Iterator[None]:
    """Add to a complaint about a file's settings for which study they were taken, if guessed."""
    try:
        yield
    except UserError as error:
        if not preset.guessed or "has no field" not in str(error):
            raise
        raise UserError(
            f"{error} (taken for settings of {preset.study}; a line `study: NAME` says which)"
        ) from None


def _is_sweep(values: Mapping[str, Any]) -> bool:
    return any(key in values for key in _AXES)


def _count(values: Mapping[str, Any]) -> int:
    """How many runs a sweep's values describe: the product of its axes' lengths."""
    seeds, varied = values.get("seeds", 1), values.get("sweep") or {}
    axes = [values.get("runs"), *(varied.values() if isinstance(varied, Mapping) else ())]
    lengths = [len(axis) for axis in (*axes, seeds) if isinstance(axis, list)]
    return math.prod(lengths) * (seeds if isinstance(seeds, int) else 1)
