"""What can be trained, and its settings.

A study is a room's offer to the rest of the house: a config (one pydantic model for YAML, command
line and Python), presets, and how to prepare a task from it. `train` runs any of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "presets": ["find_preset", "presets"],
        "registry": ["STUDIES", "config_of", "study_of"],
        "settings": ["StudyConfig", "overrides", "resolve"],
        "yaml_file": ["read_yaml"],
        "study": ["Prepared", "Study"],
        "train": ["train"],
    },
)
