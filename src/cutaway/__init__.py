"""cutaway: a workbench for looking inside neural networks while they learn.

Each folder is a room or a floor of the house; `docs/house.md` draws it. Importing this package
loads no torch: names below are fetched from their rooms when first used.
"""

import lazy_loader

from cutaway import moved as _moved
from cutaway.base import files as _files
from cutaway.runs import checksums as _checksums

_moved.install()
_files.replacements.append(_checksums.kept)  # lists of finished folders stay in step

__version__ = "0.1.0"

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submodules=[
        *("activations", "base", "dictionaries", "dynamics", "evaluations", "features", "figures"),
        *("grokking", "labelled", "language", "nets", "orthogonality", "probes", "runs", "sparse"),
        *("stats", "studies", "sweeps", "tables", "text", "training", "workbench"),
    ],
    submod_attrs={
        "activations.capture": ["capture"],
        "activations.splice": ["splice"],
        "dictionaries.model.dictionary": ["Dictionary"],
        "nets.reference": ["open_model"],
        "probes.states.probe": ["Probe"],
        "runs.store": ["RunStore"],
        "studies.train": ["train"],
    },
)
__all__ = [
    "Dictionary",
    "Probe",
    "RunStore",
    "__version__",
    "capture",
    "open_model",
    "splice",
    "train",
]
