"""Features of a dictionary over text: what they fire on and promote, and what changing them does."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "effects": ["compare_logits", "feature_effect", "firing", "sample"],
        "reader": ["read_features"],
        "table": ["Features"],
    },
)
