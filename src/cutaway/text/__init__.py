"""Words in: sources of documents by name, tokenizers, and token files that training reads.

A source streams documents; `token_files` turns it into two memory-mapped arrays of token ids,
split by document and kept by content and settings. Nothing here knows of models.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "documents": ["Document", "First", "Source", "SourceInfo"],
        "reading": ["Reading"],
        "sources": ["known", "source"],
        # The function token_files stays in its module: on the package it and the module would
        # take turns under one name.
        "token_files": ["TokenFiles"],
        "tokenizers": ["Tokenizer", "pretrained", "train"],
        "windows": ["gather", "spaced_windows", "starts"],
    },
)
