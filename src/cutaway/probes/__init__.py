"""Linear probes: every layer of a model at once, with the controls that make them mean something.

From below: `data` holds what is probed, `states` reads the model once, `scores` judges, `fitting` solves
every layer and strength together and says what the figures would be by chance, `charts` draws, `train`
is the study, `other_data` asks elsewhere, `view` shows probes over text.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "data.examples": ["Examples", "ProbeData"],
        "train.notebook": ["Report", "fit"],
        "states.probe": ["Probe"],
    },
)
