"""Environment variables of the libraries a command uses, where their value would stop it."""

from __future__ import annotations

import os

from cutaway.base.errors import whole_in


def tidy() -> None:
    """Take out what does not concern a command and could end it: a terminal's size that is no number,
    a window system for pictures (a command only writes files), a date for them (they hold none)."""
    for name in ("COLUMNS", "LINES"):
        if name in os.environ and whole_in(os.environ[name]) is None:
            del os.environ[name]
    os.environ.pop("SOURCE_DATE_EPOCH", None)
    os.environ["MPLBACKEND"] = "agg"
