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
    "text.loading": "text.tokenizers",
    "text.labelled": "labelled.texts",
    "text.labelled_rows": "labelled.rows",
    "text.labelled_tables": "labelled.tables",
    "text.labelled_files": "labelled.files",
    "text.official": "labelled.official",
    "runs.names": "tables.names",
    "runs.schemas": "tables.schemas",
    "runs.columns": "tables.tidy",
    "runs.long_form": "tables.long_form",
    "runs.history_files": "tables.recorded_runs",
    "runs.exports": "tables.recorded_runs",
    "dictionaries.kernels": "sparse",
    "dictionaries.orthogonality": "orthogonality",
    "dictionaries.experiments": "orthogonality",
    "dictionaries.codes": "sparse.codes",
    "dictionaries.kernels.pattern": "sparse.pattern",
    "dictionaries.kernels.sparse": "sparse.products",
    "dictionaries.kernels.choice": "dictionaries.architectures.choice",
    "dictionaries.base": "dictionaries.model.dictionary",
    "dictionaries.auxiliary": "dictionaries.model.revival",
    "dictionaries.scores": "dictionaries.model.reconstruction",
    "dictionaries.registry": "dictionaries.architectures.registry",
    "dictionaries.formats": "dictionaries.files",
    "dictionaries.formats.dictionary_learning": "dictionaries.files.dictionary_learning",
    "dictionaries.formats.gemma_scope": "dictionaries.files.gemma_scope",
    "dictionaries.formats.own": "dictionaries.files.own",
    "dictionaries.formats.saelens": "dictionaries.files.saelens",
    "dictionaries.formats.saelens_about": "dictionaries.files.saelens_about",
    "dictionaries.formats.sparsify": "dictionaries.files.sparsify",
    "dictionaries.config": "dictionaries.training.config",
    "dictionaries.control": "dictionaries.training.control",
    "dictionaries.task": "dictionaries.training.task",
    "dictionaries.study": "dictionaries.training.study",
    "dictionaries.sources": "dictionaries.training.sources",
    "dictionaries.instruments": "dictionaries.training.instruments",
    "dictionaries.advice": "dictionaries.training.advice",
    "dictionaries.presets": "dictionaries.training.presets",
    "dictionaries.orthogonality.config": "dictionaries.training.orthogonality_fields",
    "dictionaries.points": "dictionaries.pictures.points",
    "dictionaries.loss_picture": "dictionaries.pictures.loss",
    "dictionaries.experiments.training_pictures": "dictionaries.pictures.training",
    "dictionaries.examples": "features.examples",
    "dictionaries.features": "features.reader",
    "dictionaries.features_table": "features.table",
    "dictionaries.page": "features.page",
    "dictionaries.effects": "features.effects",
    "dictionaries.evaluation": "evaluations.evaluate",
    "dictionaries.losses": "evaluations.losses",
    "dictionaries.baselines": "evaluations.baselines",
    "dictionaries.judging": "evaluations.held_out",
    "dictionaries.missing": "evaluations.missing",
    "dictionaries.suite": "evaluations.suite",
    "dictionaries.suite.ablation": "evaluations.suite.ablation",
    "dictionaries.suite.absorption": "evaluations.suite.absorption",
    "dictionaries.suite.crossed": "evaluations.suite.crossed",
    "dictionaries.suite.encoding": "evaluations.suite.encoding",
    "dictionaries.suite.letters": "evaluations.suite.letters",
    "dictionaries.suite.pictures": "evaluations.suite.pictures",
    "dictionaries.suite.run": "evaluations.suite.run",
    "dictionaries.suite.scr": "evaluations.suite.scr",
    "dictionaries.suite.sparse_probing": "evaluations.suite.sparse_probing",
    "dictionaries.suite.splitting": "evaluations.suite.splitting",
    "dictionaries.suite.summary": "evaluations.suite.summary",
    "dictionaries.suite.tpp": "evaluations.suite.tpp",
    "dictionaries.synthetic.measures": "evaluations.known_truth.measures",
    "dictionaries.synthetic.judging": "evaluations.known_truth.judging",
    "dictionaries.synthetic.instrument": "evaluations.known_truth.instrument",
    "dictionaries.using": "workbench.session",
    "dictionaries.pipeline": "workbench.pipeline",
    "dictionaries.orthogonality.instrument": "orthogonality.instrument",
    "dictionaries.orthogonality.pairs": "orthogonality.pairs",
    "dictionaries.orthogonality.penalty": "orthogonality.penalty",
    "dictionaries.orthogonality.products": "orthogonality.products",
    "dictionaries.orthogonality.stability": "orthogonality.stability",
    "dictionaries.experiments.comparison": "orthogonality.comparison",
    "dictionaries.experiments.forest": "orthogonality.forest",
    "dictionaries.experiments.orthogonality": "orthogonality.experiment",
    "dictionaries.experiments.pair_pictures": "orthogonality.pair_pictures",
    "dictionaries.experiments.pictures": "orthogonality.pictures",
    "dictionaries.experiments.report": "orthogonality.report",
    "training.variants": "training.gradient_filters",
    "dynamics.probes": "dynamics.estimation",
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
    """Let old names be imported. Asked first: the path of a moved folder would give its modules twice."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Moved())
