"""Linear probes: every layer of a model at once, with the controls that make them mean something.

`data` holds what is probed, `states` reads the model once, `fitting` solves every layer and
strength together, `controls` says what the figures would be by chance, `view` shows probes over
text.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "data": ["Examples", "ProbeData"],
        "notebook": ["Report", "fit"],
        "probe": ["Probe"],
    },
)
