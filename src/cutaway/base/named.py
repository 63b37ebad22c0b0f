"""Things named by `module:attribute` and fetched when they are needed.

So a lower floor can hand over to a higher one without importing it: the doors of studies, a
dictionary's files, penalties and instruments. `docs/house.md` lists them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def fetch(place: str) -> Any:
    """What `package.module:attribute` names; loads that module."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
