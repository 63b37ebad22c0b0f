"""Presets: named YAML files that come with the rooms, and files of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cutaway.base.errors import UserError, nearest
from cutaway.studies.registry import STUDIES, infer
from cutaway.studies.settings import read_yaml


@dataclass(frozen=True)
class Preset:
    """A named starting point: its study, its values, and the comment its file begins with."""

    name: str
    study: str
    values: dict[str, Any]
    about: str = ""


def presets() -> list[Preset]:
    """All presets of all rooms, by name."""
    found = []
    for study, entry in STUDIES.items():
        for file in files(entry.presets).iterdir():
            if file.name.endswith(".yaml"):
                path = Path(str(file))
                first = path.read_text(encoding="utf-8").splitlines()[0]
                about = first.lstrip("# ") if first.startswith("#") else ""
                found.append(Preset(path.stem, study, read_yaml(path), about))
    return sorted(found, key=lambda preset: preset.name)


def find_preset(name: str) -> Preset:
    """A preset by name, or a YAML file by path (its study named in it, or inferred from keys)."""
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        values = read_yaml(name)
        study = values.pop("study", None) or infer(values)
        return Preset(Path(name).stem, study, values)
    known = {preset.name: preset for preset in presets()}
    if name not in known:
        close = nearest(name, known, count=3, cutoff=0.4)
        raise UserError(
            f"no preset or file {name!r}{close or '; `cutaway presets` lists the presets'}"
        )
    return known[name]
