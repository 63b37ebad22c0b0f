"""Running the tour: each station in turn, then the report and what to open."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path

from cutaway.base.display import notice
from cutaway.base.errors import UserError, nearest
from cutaway.base.files import require_writable, write_text
from cutaway.base.progress import duration
from cutaway.figures.html import Section, page
from cutaway.runs import checksums, places
from cutaway.tour.stations import STATIONS


def tour(out: str | Path, *, fast: bool = False, only: str | None = None) -> Path:
    """Visit every station (or `only` one), write `report.html` into `out`, return its path.

    `fast` trains for a tenth of the steps. Raises UserError for a folder that is not empty.
    """
    if only is not None and only not in STATIONS:
        raise UserError(
            f"only = {only!r}: expected one of {', '.join(STATIONS)}{nearest(only, STATIONS)}"
        )
    out = Path(out)
    places.require_output(out, "a tour")
    require_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    sections: list[Section] = []
    began = time.monotonic()
    names = [only] if only else list(STATIONS)
    for number, name in enumerate(names, 1):
        notice(f"station {number} of {len(names)}: {name}")
        module, _, function = STATIONS[name].partition(":")
        sections += getattr(import_module(module), function)(out, fast)
    spent = duration(time.monotonic() - began)
    report = out / "report.html"
    subtitle = f"What cutaway saw on this machine in {spent}. Every figure below was made just now."
    write_text(report, page("A tour of cutaway", sections, subtitle=subtitle))
    checksums.finish(out)
    return report
