"""Products with codes of which nearly every entry is zero, and their gradients."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "codes": ["Codes", "DenseCodes", "SparseCodes"],
    },
)
