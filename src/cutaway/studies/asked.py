"""What a command asks for: the settings of a file or of a run that goes on, the command line's above."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cutaway.base.errors import UserError
from cutaway.studies.presets import Preset, find_preset, hinted
from cutaway.studies.registry import config_of
from cutaway.studies.settings import StudyConfig, flattened, resolve


@dataclass(frozen=True)
class Asked:
    """`values`: of `file`, or those that the run which goes on `recorded`. `changes` count above them."""

    study: str
    values: dict[str, Any]
    changes: dict[str, Any]
    file: Preset | None  # the preset or YAML file, where one was named
    recorded: bool

    def config(self) -> StudyConfig:
        """The one validated config; UserError for what is wrong with it."""
        of_file = self.file is not None and not self.recorded
        with hinted(self.file) if of_file else nullcontext():
            return resolve(config_of(self.study), self.values, self.changes)


def asked_for(
    file: str | os.PathLike[str] | None,
    changes: Mapping[str, Any],
    *,
    study: str | None = None,
    called: str | None = None,
    run: Path | None = None,
) -> Asked:
    """The settings of a preset or YAML `file` and, above them, `changes` (`settings.overrides`).

    `study`: the only one that the command trains, and what its runs are `called`; a file that names no
    study is of this one. Without `study` it is the file's. `run`: a run that goes on; its recorded
    settings stand in the place of the file's, which must be of the same study. Raises UserError where
    a study is another.
    """
    recorded = None if run is None else _recorded(run, study, called)
    preset = None if file is None else _preset(file, study, called)
    if recorded is None:
        study = preset.study if preset else study
        values = flattened(config_of(study), preset.values if preset else {})
        return Asked(study, values, dict(changes), preset, recorded=False)
    study, values = recorded
    if preset is not None and preset.study != study:
        raise UserError(f"{run}: a {study} run; {file} is a preset of {preset.study}")
    return Asked(study, values, dict(changes), preset, recorded=True)


def _preset(file: str | os.PathLike[str], study: str | None, called: str | None) -> Preset:
    """The preset or file, of the `study` where that is given."""
    preset = find_preset(os.fspath(file))
    if study is None:
        return preset
    if study != preset.study and not preset.guessed:
        raise UserError(
            f"{file}: settings of a {preset.study} run, not of {called or study}, which has no field "
            f"for them"
        )
    return replace(preset, study=study, guessed=False)


def _recorded(run: Path, study: str | None, called: str | None) -> tuple[str, dict[str, Any]]:
    """The study and settings of a run, which must be of the `study` where that is given."""
    from cutaway.studies.train import recorded_config

    recorded, values = recorded_config(run)
    if study not in (None, recorded):
        raise UserError(f"{run}: a {recorded} run, not of {called or study}")
    return recorded, values
