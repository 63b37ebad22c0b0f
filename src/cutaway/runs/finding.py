"""Finding runs: every one under a root, or one by its path or name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cutaway.base.display import readable_path
from cutaway.base.doors import door
from cutaway.base.errors import UserError, nearest
from cutaway.base.files import as_path
from cutaway.runs import record
from cutaway.tables.names import is_table_name

_NOT_RUNS = ("checkpoints", "figures", "wandb", "tensorboard")
_DEPTH = 8  # folders below the root; deeper there is a loop of links, not a run


@dataclass
class Found:
    """A run's folder as one look into it shows: `name` is its path under the root, with bytes that
    are not UTF-8 as `\\xe9`."""

    name: str
    path: Path
    linked: bool  # reached through a symbolic link: DuckDB may not follow it out of the root
    stamp: tuple[int, int, int]  # of run.json: inode, when changed, size
    tables: set[str] = field(default_factory=set)
    live: set[str] = field(default_factory=set)  # those of them that are being written


@door
def find_run(reference: str | os.PathLike[str], root: str | os.PathLike[str] = "runs") -> Path:
    """The folder of a run given by path, or by name under `root`. `UserError` names the nearest."""
    for place in (as_path(reference), as_path(root) / reference):
        if (place / record.FILE).is_file():
            return place
    for found in find_all(Path(root)):  # a name that is not UTF-8 is listed as text
        if found.name == str(reference):
            return found.path
    if Path(reference).exists():
        raise UserError(f"{reference}: holds no run (no {record.FILE} there)")
    raise unknown(reference, Path(root))


def unknown(reference: str | os.PathLike[str], root: Path) -> UserError:
    hint = nearest(str(reference), [found.name for found in find_all(root)])
    return UserError(f"{reference}: no run of this name or path (looked in {root}/ too){hint}")


def find_all(root: Path, tell: Callable[[str], None] | None = None) -> list[Found]:
    """Every run under `root`, at any depth, by one look into each folder.

    `tell`, where given, gets a line about each folder inside that cannot be read. `UserError` where
    that is the root itself.
    """
    runs: list[Found] = []
    try:
        with os.scandir(root):
            pass
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{readable_path(root)}: cannot read: {error.strerror}") from None
    _look(root, "", (), False, runs, tell)
    return sorted(runs, key=lambda found: found.name)


def _look(
    folder: Path,
    name: str,
    above: tuple[tuple[int, int], ...],
    linked: bool,
    runs: list[Found],
    tell: Callable[[str], None] | None,
) -> None:
    """Look into one folder and those below it; `above` are the folders it is in, as device and
    inode, so that a loop of links is left."""
    below: list[os.DirEntry[str]] = []
    found = Found(readable_path(name) or ".", folder, linked, (0, 0, 0))
    try:
        state = os.stat(folder)
        here = (state.st_dev, state.st_ino)
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError as error:
        if tell is not None and not isinstance(error, FileNotFoundError):  # gone meanwhile
            tell(f"{readable_path(folder)}: cannot read: {error.strerror}; skipped")
        return
    if here in above:
        return
    for entry in listed:
        stem, _, suffix = entry.name.rpartition(".")
        if suffix in ("parquet", "live") and is_table_name(stem):
            found.tables.add(stem)
            if suffix == "live":
                found.live.add(stem)
        elif suffix in ("parquet", "live") and stem.isidentifier() and tell is not None:
            odd = readable_path(folder / entry.name)
            tell(f"{odd}: no name of a table (a-z, 0-9 and _, not 'runs'); skipped")
        elif entry.name == record.FILE:
            found.stamp = _stamp(entry)
        elif entry.name[0] != "." and entry.name not in _NOT_RUNS and _is_folder(entry):
            below.append(entry)
    if found.stamp != (0, 0, 0):
        runs.append(found)
    if len(above) < _DEPTH:
        for entry in below:
            child = f"{name}/{entry.name}" if name else entry.name
            through_link = linked or entry.is_symlink()
            _look(folder / entry.name, child, (*above, here), through_link, runs, tell)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link through a folder that is not ours to read
        return False


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int, int]:
    """Changes whenever a file is replaced or written. Of a link that leads nowhere, its own; zeros for
    a file that is gone meanwhile."""
    try:
        state = entry.stat()
    except OSError:
        try:
            state = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return 0, 0, 0
        except OSError:  # in a folder that may be listed and not entered: reading it names it
            return entry.inode(), 0, 0
    return state.st_ino, state.st_mtime_ns, state.st_size
