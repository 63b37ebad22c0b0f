"""What dictionaries are worth: reconstruction, loss with states replaced, baselines, benchmarks, known truth."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "evaluate": ["Evaluation"],
    },
)
