"""Examples to probe: windows of text, labelled texts and words, conversations; their parts and places."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"examples": ["Examples", "ProbeData"]},
)
