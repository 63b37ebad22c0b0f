"""Which folders may be written into, and which runs deleted: told before anything slow is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from cutaway.base import files
from cutaway.base.display import readable_path
from cutaway.base.errors import UserError
from cutaway.runs import checksums, lock, record
from cutaway.runs.finding import find_all

PICTURES = (".png", ".pdf", ".svg")


def require_free(folder: str | Path) -> None:
    """Refuse a folder that a new run cannot have: it holds a run, other things, or is a file."""
    path = Path(folder).absolute()
    if not path.exists():
        _require_no_link(path)
        return
    if not path.is_dir():
        raise UserError(f"{path}: is a file, not a folder")
    if (path / record.FILE).exists():
        if lock.alive(path):
            owner = lock.read_owner(path)
            if owner and owner.pid != os.getpid():
                raise UserError(f"{path}: this run is being written by {owner}")
        raise UserError(
            f"{path}: holds another run; go on with it by --resume, or choose another --out"
        )
    if others := _others(path):
        raise UserError(f"{path}: is not empty (holds {_listed(others)}) and holds no run")


def require_output(
    folder: str | Path,
    what: str,
    marks: Collection[str] = (),
    *,
    suffixes: Collection[str] = (),
    folders: bool = False,
    mine: Callable[[Path], bool] = lambda folder: False,
) -> None:
    """Refuse a folder that `what` cannot be written into, because it is of another kind.

    It may be missing or empty, hold one of the files `marks`, nothing but files that end in
    `suffixes` and (with `folders`) folders, or be what `mine` takes for its own. A run's folder, a folder of other things and a
    file are refused; nothing is created.
    """
    path = Path(folder)
    if not path.exists():
        _require_no_link(path)
        return
    if not path.is_dir():
        raise UserError(f"{path}: is a file, not a folder; choose another --out")
    if os.path.lexists(path / record.FILE):
        raise UserError(f"{path}: holds a run, not {what}; choose another --out")
    if any((path / name).exists() for name in marks) or mine(path):
        return
    others = [
        name
        for name in _others(path)
        if Path(name).suffix.lower() not in suffixes and not (folders and (path / name).is_dir())
    ]
    if others:
        raise UserError(
            f"{path}: is not empty (holds {_listed(others)}), and nothing in it says that it is for "
            f"{what}; choose another --out"
        )


def holds_runs(folder: Path) -> bool:
    """Whether there is a run in one of the folders right below."""
    return any(folder.glob(f"*/{record.FILE}"))


def require_removable(folder: str | Path) -> None:
    """Refuse to delete a run that is being written, a link, or a folder with more than the run."""
    path = Path(folder).absolute()
    if path.is_symlink():
        raise UserError(
            f"{path}: is a link to {os.path.realpath(path)}; not deleted. Name the folder itself, "
            "or remove the link with rm"
        )
    if Path.cwd().is_relative_to(path.resolve()):
        raise UserError(f"{path}: holds the folder this command runs in; not deleted")
    if lock.alive(path):
        raise UserError(f"{path}: is being written by {lock.read_owner(path)}; not deleted")
    if others := [found.name for found in find_all(path) if found.path != path]:
        raise UserError(f"{path}: holds other runs ({others[0]}, ...); not deleted")


def remove(folder: str | Path) -> None:
    """Delete a run with everything in its folder; nobody can begin to write it meanwhile."""
    require_removable(folder)
    path = Path(folder).absolute()
    moved = False
    held = lock.RunLock(path, record.now())
    try:
        doomed = files.temporary_beside(path)
        path.rename(doomed)  # never half a run under its name
        moved = True
        checksums.removed(path)
        shutil.rmtree(doomed)
    except OSError as error:
        raise UserError(f"{path}: cannot delete: {error.strerror or error}") from None
    finally:
        held.release(moved=moved)


def _require_no_link(path: Path) -> None:
    if path.is_symlink():
        raise UserError(f"{path}: is a link to {os.readlink(path)}, which is not there")


def _others(path: Path) -> list[str]:
    """What a folder holds besides what a `create` killed before its first word leaves."""
    names = sorted(entry.name for entry in path.iterdir())
    return [name for name in names if not checksums.left_out(Path(name))]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{readable_path(names[0])}{more}"
