"""`cutaway tour`: the whole story."""

from __future__ import annotations

from pathlib import Path

from cutaway.base import display


def tour(*, out: Path | None = None, fast: bool = False, only: str | None = None) -> None:
    """The whole story on an embedded corpus: trains, draws, reads, ends in one report.

    Args:
        out: A new folder; default tour, or tour-2, tour-3, ... where that is taken.
        fast: A tenth of the training steps: to see that it works.
        only: Visit this station only.
    """
    from cutaway.tour.run import tour as visit

    number, folder = 1, out or Path("tour")
    while out is None and folder.exists():
        number += 1
        folder = Path(f"tour-{number}")
    report = visit(folder, fast=fast, only=only)
    display.notice(
        f"figures and runs are in {folder}; `cutaway runs ls --runs {folder}` lists them"
    )
    print(f"open {report.resolve()}")
