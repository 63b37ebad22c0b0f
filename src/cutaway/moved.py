"""Modules that have moved: an import by the old name gives the module by its new one, and says so."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Names below `cutaway`. Names that a folder has now (`probes.data`) give what they gave from there.
MOVED = {
    "probes.dealing": "probes.data.dealing",
    "probes.gathering": "probes.data.gathering",
    "probes.places": "probes.data.places",
    "probes.labelled": "probes.data.labels",
    "probes.windows": "probes.data.windows",
    "probes.inspect": "probes.data.inspect",
    "probes.asked": "probes.data.request",
    "probes.conversations": "probes.data.conversations",
    "probes.report_rows": "probes.states.report_rows",
    "probes.probe": "probes.states.probe",
    "probes.inputs": "probes.states.inputs",
    "probes.evaluation": "probes.scores.evaluation",
    "probes.findings": "probes.scores.findings",
    "probes.controls": "probes.fitting.controls",
    "probes.probing": "probes.fitting.layers",
    "probes.report_pictures": "probes.charts.report",
    "probes.confusion_picture": "probes.charts.confusion",
    "probes.reliability_picture": "probes.charts.reliability",
    "probes.pictures": "probes.charts.runs",
    "probes.config": "probes.train.config",
    "probes.task": "probes.train.task",
    "probes.study": "probes.train.study",
    "probes.run": "probes.train.run",
    "probes.notebook": "probes.train.notebook",
    "probes.held_out": "probes.other_data.held_out",
    "probes.familiar": "probes.other_data.familiar",
    "probes.evaluating": "probes.other_data.evaluating",
    "probes.reading": "probes.view.reading",
}
_HERE = "cutaway."


class _Moved(MetaPathFinder, Loader):
    def __init__(self) -> None:
        self._homes: dict[str, ModuleSpec | None] = {}

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        known = name.startswith(_HERE) and name.removeprefix(_HERE) in MOVED
        return ModuleSpec(name, self) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = _HERE + MOVED[spec.name.removeprefix(_HERE)]
        warnings.warn(f"{spec.name} is now {new}", FutureWarning, stacklevel=2)
        module = import_module(new)
        self._homes[module.__name__] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Undo what the import system has noted on the module: its home is elsewhere."""
        module.__spec__ = self._homes.pop(module.__name__)


def install() -> None:
    """Let old names be imported; asked only for names that nothing else knows."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
