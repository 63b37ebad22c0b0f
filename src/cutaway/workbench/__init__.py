"""Dictionaries with their models and texts: one pipeline, one session."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "pipeline": ["extracted", "judge_layers", "train_layers"],
        "session": ["Session", "sessions"],
    },
)
