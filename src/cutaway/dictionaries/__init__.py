"""Sparse dictionaries of hidden states: learned, judged, read, and put back into the model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "architectures.registry": ["ARCHITECTURES", "build"],
        "model.dictionary": ["Dictionary", "DictionaryShape"],
        "training.config": ["DictionaryConfig"],
    },
)
