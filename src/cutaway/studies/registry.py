"""The studies there are. Modules are named as strings, so that listing them loads nothing.

This is the one place where a lower floor names a room: the inversion that lets `train`, `sweep`
and the command line serve rooms they do not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cutaway.base.errors import UserError, nearest
from cutaway.base.named import fetch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cutaway.runs.folder import Run
    from cutaway.studies.settings import StudyConfig
    from cutaway.studies.study import Study


@dataclass(frozen=True)
class Entry:
    """Where a study lives: its config (loads no torch), its code, its presets, its pictures.

    `train`: what trains a run, where that is more than `studies.train.train_by_steps`; it takes a
    config, a folder, `resume` and `extra_steps`, and returns the closed run. `words`: its recorded
    columns in plain words. `sweep_pictures`: from a sweep's logs and their
    groups to pictures by name. `sweep_advice`: from the same to lines; empty where it has none.
    """

    config: str
    study: str
    presets: str
    pictures: str
    words: str
    sweep_pictures: str
    sweep_advice: str = ""
    train: str = ""


STUDIES: dict[str, Entry] = {
    "language": Entry(
        config="cutaway.language.config:LanguageConfig",
        study="cutaway.language.study:LanguageStudy",
        presets="cutaway.language.presets",
        pictures="cutaway.language.pictures:PICTURES",
        words="cutaway.language.pictures:NAMES",
        sweep_pictures="cutaway.language.pictures:sweep_pictures",
    ),
    "grokking": Entry(
        config="cutaway.grokking.config:GrokkingConfig",
        study="cutaway.grokking.study:GrokkingStudy",
        presets="cutaway.grokking.presets",
        pictures="cutaway.grokking.pictures:PICTURES",
        words="cutaway.grokking.pictures:NAMES",
        sweep_pictures="cutaway.grokking.sweep_pictures:sweep_pictures",
        sweep_advice="cutaway.grokking.advice:sweep_advice",
    ),
    "dictionary": Entry(
        config="cutaway.dictionaries.training.config:DictionaryConfig",
        study="cutaway.dictionaries.training.study:DictionaryStudy",
        presets="cutaway.dictionaries.training.presets",
        pictures="cutaway.dictionaries.pictures.runs:PICTURES",
        words="cutaway.dictionaries.pictures.runs:NAMES",
        sweep_pictures="cutaway.dictionaries.pictures.sweeps:sweep_pictures",
    ),
    "probe": Entry(
        config="cutaway.probes.train.config:ProbeConfig",
        study="cutaway.probes.train.study:ProbeStudy",
        presets="cutaway.probes.train.presets",
        pictures="cutaway.probes.charts.runs:PICTURES",
        words="cutaway.probes.charts.runs:NAMES",
        sweep_pictures="cutaway.probes.charts.runs:sweep_pictures",
        train="cutaway.probes.train.run:train_probes",
    ),
}


def config_of(name: str) -> type[StudyConfig]:
    """The config class of a study."""
    return fetch(_entry(name).config)


def study_of(name: str) -> Study:
    """The study itself; loads its room."""
    return fetch(_entry(name).study)()


def trainer_of(name: str) -> Callable[..., Run] | None:
    """What trains a study's runs; None where that is the loop alone."""
    place = _entry(name).train
    return fetch(place) if place else None


def pictures_of(name: str) -> Mapping[str, Callable[[Any], Figure | None]]:
    """Every picture of a study's runs: name → from a log to a figure, or None."""
    return fetch(_entry(name).pictures)


def words_of(name: str) -> Mapping[str, str]:
    """What a study calls its recorded columns."""
    return fetch(_entry(name).words)


def sweep_pictures_of(name: str) -> Callable[[Sequence[Any], Sequence[str]], dict[str, Figure]]:
    """From the logs of a study's runs and their groups to pictures of all of them, by name."""
    return fetch(_entry(name).sweep_pictures)


def sweep_advice_of(name: str) -> Callable[[Sequence[Any], Sequence[str]], list[str]]:
    """From the logs of a study's runs and their groups to what their owner should know."""
    place = _entry(name).sweep_advice
    return fetch(place) if place else lambda logs, groups: []


def infer(values: Mapping[str, Any]) -> str:
    """The study whose config knows the most of a file's keys; of several, the one that takes more
    of their values: `model: baseline` is no language model."""
    return max(STUDIES, key=lambda name: _fit(config_of(name), values))


def _fit(config: type[StudyConfig], values: Mapping[str, Any]) -> tuple[int, int]:
    """How many of the keys a config knows, and of how many it takes the value."""
    from pydantic import TypeAdapter, ValidationError

    from cutaway.studies.settings import flattened

    values = flattened(config, values)
    known = [name for name in values if name in config.model_fields]
    taken = 0
    for name in known:
        field = config.model_fields[name]
        try:
            TypeAdapter(Annotated[field.annotation, field]).validate_python(values[name])
            taken += 1
        except ValidationError:
            pass
    return len(known), taken


def _entry(name: str) -> Entry:
    if not isinstance(name, str) or name not in STUDIES:
        raise UserError(
            f"study = {name!r}: expected one of {', '.join(STUDIES)}{nearest(str(name), STUDIES)}"
        )
    return STUDIES[name]
