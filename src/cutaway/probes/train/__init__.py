"""The study of probes: settings, task, run, and `fit` for notebooks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"notebook": ["Report", "fit"]},
)
