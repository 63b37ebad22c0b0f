"""What several commands share."""

from __future__ import annotations

from cutaway.base.display import Format
from cutaway.base.errors import UserError


def output_format(json: bool, csv: bool) -> Format:
    """The format two flags ask for."""
    if json and csv:
        raise UserError("--json and --csv: choose one")
    return "json" if json else "csv" if csv else "table"


def readable(token: str) -> str:
    """A token for a table: spaces at its ends and control characters made visible."""
    return repr(token) if token != token.strip() or not token.isprintable() else token
