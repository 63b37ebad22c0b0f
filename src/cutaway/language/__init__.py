"""The language room: Backpack and GPT-2 language models, trained on any text with instruments on.

Owns their config, task and presets; reads words by sense, changes senses and samples; draws loss
curves and words. `docs/language.md` walks through it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["LanguageConfig"],
        "attribution": ["attribute"],
        "senses": ["SenseEdit", "editing", "sense_effect"],
        "sampling": ["sample"],
        "words": ["evoked_by", "predicts", "used"],
    },
)
