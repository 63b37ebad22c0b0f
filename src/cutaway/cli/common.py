"""What several commands share."""

from __future__ import annotations

from pathlib import Path

from cutaway.base.display import Format
from cutaway.base.errors import UserError


def output_format(json: bool, csv: bool) -> Format:
    """The format two flags ask for."""
    if json and csv:
        raise UserError("--json and --csv: choose one")
    return "json" if json else "csv" if csv else "table"


def run_folder(run: str | Path) -> Path:
    """A run by its folder, or by its name under runs/."""
    for folder in (Path(run), Path("runs") / run):
        if (folder / "run.json").is_file():
            return folder
    raise UserError(f"{run}: no run there (no run.json, neither here nor under runs/)")


def readable(token: str) -> str:
    """A token for a table: spaces at its ends and control characters made visible."""
    return repr(token) if token != token.strip() or not token.isprintable() else token
