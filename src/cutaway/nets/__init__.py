"""Every network one can look inside, and how to get hold of one.

`trunk` is the one transformer body; `gpt2` and `backpack` stand on it; `reference` turns what a
user names (so far a run) into a model with its tokenizer; `export` hands models on to others.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "trunk": ["Trunk", "TrunkConfig"],
        "gpt2": ["GPT2"],
        "backpack": ["Backpack"],
        "architectures": ["ARCHITECTURES", "build"],
        "reference": ["LoadedModel", "load"],
        "parameters": ["parameters_by_component"],
    },
)
