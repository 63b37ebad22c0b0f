"""The states of examples, read from a model in one pass, and the probes that read them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"probe": ["Probe"]},
)
