"""`cutaway params`: parameters per component of any study's network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cutaway.base import display
from cutaway.base.errors import LARGEST_WHOLE, UserError, shortened
from cutaway.cli.common import output_format

_SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9}


def params(
    what: str,
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    target: str | None = None,
    json: bool = False,
    csv: bool = False,
) -> None:
    """Parameters per component, tied weights counted once.

    Args:
        what: A preset, a YAML file, or a run.
        settings: Fields of the config, as --field value.
        target: A number of parameters (500k, 1.5M): print the nearest configurations that have it.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.language.sizing import nearest_configurations, sized
    from cutaway.studies.registry import config_of, study_of
    from cutaway.studies.settings import overrides, resolve

    study, values = _settings_of(what)
    config = resolve(config_of(study), values, overrides(settings))
    form = output_format(json, csv)
    if target is not None:
        if study != "language":
            raise UserError(f"--target: of language models only; {what} is of {study}")
        rows = nearest_configurations(sized(config), _number(target))
        display.show(rows, form, empty=f"no field alone comes within 10 % of {target}")
        return
    counts = study_of(study).parameters(config)
    total = sum(counts.values())
    rows = [
        {"component": name, "parameters": count, "share": f"{count / total:.1%}"}
        for name, count in [*counts.items(), ("total", total)]
    ]
    display.show(rows, form)


def _settings_of(what: str) -> tuple[str, dict]:
    """A study and its settings, those of a run with the vocabulary it turned out to have."""
    folder = Path(what)
    if (folder / "run.json").is_file():
        from cutaway.runs.folder import Run

        record = Run.open(folder).record
        architecture = record.resolved.get("architecture", {})
        known = {"vocab_size": architecture["vocab_size"]} if "vocab_size" in architecture else {}
        sized = record.resolved.get("settings", {})  # with what hung on the data filled in
        return record.study, {**record.config, **sized, **known}
    from cutaway.studies.presets import find_preset

    preset = find_preset(what)
    return preset.study, preset.values


def _number(text: str) -> int:
    match = re.fullmatch(r"([0-9.]+)\s*([kmb]?)", text.strip().lower().replace("_", ""))
    try:
        number = int(float(match[1]) * _SUFFIXES.get(match[2], 1)) if match else 0
    except (ValueError, OverflowError):
        number = 0
    if not 1 <= number <= LARGEST_WHOLE:
        raise UserError(
            f"target = {shortened(repr(text))}: expected a number of parameters, like 500k or 1.5M"
        )
    return number
