"""Whether a folder is as cutaway left it, by reading every byte in it.

A finished folder has `checksums.json` (see `checksums.py`), and every file in it is compared. What
has none, such as a run that was stopped, or one of an older version, is checked by what its parts
say of themselves: the record, the pages of tables, the checkpoints' own checksums.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cutaway.base import files
from cutaway.base.display import readable_path
from cutaway.base.errors import UserError
from cutaway.runs import checksums, record
from cutaway.runs.finding import find_all, unknown
from cutaway.runs.folder import Run

# What says that a folder is one of ours, besides a run's record and a list of checksums, and the
# check of such a folder without a list. `activations` adds its own.
MARKS = ("manifest.json", "metadata.json", "sweep.yaml", checksums.MARK)
parts: dict[str, Callable[[Path], list[str]]] = {}
_SHOWN = 5  # names in one line, at most
_DEPTH = 8  # folders within folders


@dataclass
class Verified:
    """`damages`: a line per file that is not as it was; `notices`: what could not be compared."""

    damages: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def add(self, other: Verified) -> None:
        """Take over what was found elsewhere."""
        self.damages += [line for line in other.damages if line not in self.damages]
        self.notices += [line for line in other.notices if line not in self.notices]


def verify(folder: str | os.PathLike[str]) -> Verified:
    """Read every byte of a run, or of another folder that cutaway wrote, and of those inside it.

    An empty list of damages means that all that can be compared is as it was written.
    """
    return _verify(Path(folder), _DEPTH)


def find_folder(reference: str | os.PathLike[str], root: str | os.PathLike[str] = "runs") -> Path:
    """The folder to verify, given by path, or by name under `root`.

    A run, or anything else that cutaway writes a folder for; also one that lost its record.
    """
    for place in (Path(reference), Path(root) / reference):
        known = (record.FILE, checksums.FILE, *MARKS)
        if place.is_dir() and (
            any(os.path.lexists(place / name) for name in known) or find_all(place)
        ):
            return place
    if Path(reference).exists():
        raise UserError(
            f"{reference}: holds no run (no {record.FILE} there), and no other folder of cutaway's "
            f"(no {checksums.FILE} there)"
        )
    raise unknown(reference, Path(root))


# -- inside ----------------------------------------------------------------------------------------


def _verify(folder: Path, depth: int) -> Verified:
    found = Verified()
    run = sums = None
    if os.path.lexists(folder / record.FILE):
        try:
            run = Run.open(folder)
        except UserError as error:
            found.damages.append(str(error))
    lives = run is not None and run.record.status == "running"
    try:
        sums = checksums.read(folder)
    except UserError as error:
        if not lives:
            found.damages.append(str(error))
    if sums is not None and not lives:
        _compare(folder, sums, found, depth)
        return found
    if run is not None and not lives and run.record.checksums and not found.damages:
        found.damages.append(f"{folder / checksums.FILE}: missing")
    _say(folder, run, found)
    _by_parts(folder, run, found)
    for inside in _below(folder, found) if depth else ():
        found.add(_verify(inside, depth - 1))
    return found


def _compare(folder: Path, sums: checksums.Checksums, found: Verified, depth: int) -> None:
    """Every file against the list, and the folders that have lists of their own."""
    damages, further = checksums.differences(folder, sums)
    named = {line.partition(": ")[0] for line in found.damages}
    found.damages += [line for line in damages if line.partition(": ")[0] not in named]
    for name in sums.folders:
        try:
            inside = files.require_inside(folder, name)
        except UserError as error:
            found.damages.append(str(error))
            continue
        if checksums.linked(folder, name):
            found.damages.append(f"{inside}: damaged, a link in its place")
            continue
        if not os.path.isdir(inside):
            found.damages.append(f"{inside}: missing")
            continue
        if not any(os.path.lexists(inside / one) for one in (record.FILE, checksums.FILE)):
            found.damages.append(f"{inside / checksums.FILE}: missing")
        if depth:
            found.add(_verify(inside, depth - 1))
    further = [
        name for name in further if not any(name.startswith(f"{one}/") for one in sums.folders)
    ]
    if further:
        shown = ", ".join(readable_path(name) for name in further[:_SHOWN])
        more = f" and {len(further) - _SHOWN} more" if len(further) > _SHOWN else ""
        found.notices.append(f"{folder}: not in {checksums.FILE}, so not compared: {shown}{more}")


def _say(folder: Path, run: Run | None, found: Verified) -> None:
    """What of a folder without a list can be compared."""
    if run is None:
        if _claims(folder) and not found.damages:
            found.damages.append(f"{folder / checksums.FILE}: missing")
        elif any((folder / name).is_file() for name in MARKS):
            found.notices.append(
                f"{folder}: has no {checksums.FILE}; its own files are not compared"
            )
        return
    only = "its record, tables and checkpoints are checked, other files are not"
    if run.status == "running":
        found.notices.append(f"{folder}: is being written; {only}")
    elif run.record.status == "running":
        found.notices.append(
            f"{folder}: was stopped before it could write {checksums.FILE}; {only}"
        )
    elif not run.record.checksums:
        found.notices.append(
            f"{folder}: has no {checksums.FILE} (written by an earlier version); {only}"
        )


def _by_parts(folder: Path, run: Run | None, found: Verified) -> None:
    """What the parts of a folder say of themselves."""
    from cutaway.runs import table as tables

    for name in tables.names(folder) if run is not None else ():
        try:
            tables.read(folder, name)
        except UserError as error:
            found.damages.append(str(error))
    for step in run.checkpoints.steps() if run is not None else ():
        try:
            run.checkpoints.verify(step)
        except UserError as error:
            found.damages.append(str(error))
    study = None if run is None else run.record.study
    if study in parts:
        found.damages += parts[study](folder)


def _below(folder: Path, found: Verified) -> list[Path]:
    """The nearest folders inside that are verified for themselves."""
    _, folders = checksums.scan(folder, unreadable=found.damages)
    return [folder / name for name in folders]


def _claims(folder: Path) -> bool:
    """Whether a folder that is no run says of itself that it had a list."""
    for name in (checksums.MARK, "metadata.json", "sweep.yaml"):
        try:
            with files.open_regular(folder / name) as file:
                if checksums.FILE.encode() in file.read(4096):
                    return True
        except OSError:
            continue
    return False
