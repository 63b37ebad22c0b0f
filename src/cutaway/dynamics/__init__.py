"""Measures of training itself, as instruments that ride on any task.

Each yields columns of the run's history under the names of `docs/numbers.md`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"norms": ["WeightNorms"]}
)
