"""What a training settled as it began, kept in its run's settings: read back when it goes on.

A run's config holds, in the fields that its study calls `settled`, what `auto` became and what was
measured, so that the same settings give the same computation again. Runs made before these fields
existed say part of it in `resolved`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from cutaway.runs.record import RunRecord
from cutaway.studies.settings import StudyConfig
from cutaway.training.config import LoopConfig

# how text was read before runs recorded it: no special tokens, end of text after each document
_BEFORE_READINGS = {"bos": False, "separator": "eos", "chat": False, "reply_only": False}

C = TypeVar("C", bound=StudyConfig)


def settings_of(record: RunRecord, config: type[StudyConfig]) -> dict[str, Any]:
    """A run's settings, what older runs recorded elsewhere put where it belongs now."""
    found = dict(record.config)
    precision = record.resolved.get("precision")
    if "precision" in config.settled and found.get("precision", "auto") == "auto" and precision:
        found["precision"] = precision
    measured = record.resolved.get("break_even")
    if "break_even" in config.settled and found.get("break_even") is None and measured:
        found["break_even"] = measured.get(found.get("precision"))
    for name, was in _BEFORE_READINGS.items():
        if name in config.model_fields and name not in found:
            found[name] = was
    return found


def continued(config: C, before: Mapping[str, Any]) -> C:
    """`config` with what the run settled `before` in the fields where it asks for nothing."""
    changes = {
        name: before[name]
        for name in config.settled
        if before.get(name) is not None and is_default(config, name)
    }
    return type(config).model_validate({**config.model_dump(), **changes})


def differing(config: StudyConfig, before: Mapping[str, Any]) -> str | None:
    """The first field in which `config` differs from a run's settings and a resume may not."""
    for name, value in config.model_dump(mode="json").items():
        if name not in before or name in config.free or before[name] == value:
            continue
        if not (name in config.settled and is_default(config, name)):
            return name
    return None


def is_default(config: StudyConfig, name: str) -> bool:
    """Whether a setting has the value that asks for nothing (`auto`, none)."""
    field = type(config).model_fields[name]
    return bool(getattr(config, name) == field.default)


def extended(
    loop: LoopConfig, config: StudyConfig, planned_before: int = 0, extra_steps: int = 0
) -> tuple[LoopConfig, list[int]]:
    """The loop's settings with every extension, and the extensions, a new one of `extra_steps`
    included.

    `planned_before`: the steps of the run's record, which of an older run say how far it was
    extended.
    """
    extensions = list(config.extra_steps)
    unsaid = planned_before - loop.steps - sum(extensions)
    extensions += [steps for steps in (unsaid, extra_steps) if steps > 0]
    ends, last = [], loop.steps
    for steps in extensions:
        ends.append(last)
        last += steps
    return replace(loop, steps=last, ends=tuple(ends)), extensions
