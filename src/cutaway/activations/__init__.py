"""Hidden states: read them, change them, keep them, stream them.

`capture` reads states at named sites and stops the forward pass at the deepest; `splice` puts
others in their place while the model runs; the store keeps them on disk, and streams hand out
shuffled batches, from a store or straight from the model. Knows models, not what is made of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "capture": ["capture"],
        "extraction": ["ExtractionConfig", "extract"],
        "splice": ["ablate", "patch", "replace", "splice", "steer"],
        "store": ["ActivationStore"],
        "stream": ["ActivationStream"],
        "model_stream": ["ModelStream"],
    },
)
