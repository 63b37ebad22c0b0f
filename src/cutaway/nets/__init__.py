"""Every network one can look inside, and how to get hold of one.

`trunk` is the one transformer body; `gpt2` and `backpack` stand on it; `reference` turns what a
user names (a run, a folder or id of Hugging Face) into a `Model` with its tokenizer and named
sites; `export` hands models on to others.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "trunk": ["Trunk", "TrunkConfig"],
        "gpt2": ["GPT2"],
        "backpack": ["Backpack"],
        "architectures": ["ARCHITECTURES", "build"],
        "reference": ["LoadedModel", "load", "open_model"],
        "model": ["Model", "ModelReference"],
        "sites": ["Site", "parse_site", "parse_sites"],
        "parameters": ["parameters_by_component"],
    },
)
