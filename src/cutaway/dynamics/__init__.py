"""Measures of training itself, as instruments that ride on any task.

Each yields columns of the run's history under the names of `docs/numbers.md`: its value and, where
it is an estimate, the value's standard error as `<name>_se`. `exact` has the same figures by dense
means, for small networks.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["exact"],
    submod_attrs={
        "adam": ["AdamDynamics"],
        "fisher": ["fisher_trace"],
        "hessian": ["WeightCurvature", "weight_hessian_trace"],
        "norms": ["WeightNorms"],
        "representation": ["RepresentationNorm"],
        "sensitivity": ["InputSensitivity"],
    },
)
