"""Grokking: small networks that first memorise modular arithmetic and much later understand it.

`config`, `data`, `task` and `study` train them (alone or many stacked as one); `spectrum`,
`routing` and `progress` look inside; `phases` and `analysis` read histories, also those of others.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["GrokkingConfig"],
        "data": ["Split", "all_pairs", "split"],
        "phases": ["Phases", "phases"],
        "task": ["GrokkingTask"],
    },
)
