"""`checksums.json`: size and SHA-256 of every file in a folder that cutaway wrote and finished.

    {"kind": "checksums", "format": 1, "files": {"config.yaml": {"bytes": 812, "sha256": "..."}, ...},
     "folders": ["seed-1"], "sha256": "..."}

`folders` are those below that have such a list, or a run's record, of their own. The list carries a
checksum of itself, and `run.json` says that there is one, so neither can change or vanish unnoticed.

A list is made whole by `seal`, when a run's life or a writer's work ends. From then on every file
that is replaced through `base.files` is entered by itself (`cutaway/__init__.py` sees to it): before
the file changes its entry is taken out, afterwards the new one is put in. A kill between the two
leaves a file that is not in the list, which `runs verify` says, and never one that looks damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cutaway.base import files
from cutaway.base.errors import UserError

FILE, KIND, FORMAT = "checksums.json", "checksums", 1
MARK = ".finished"  # in a folder without a run's record: says, should the list vanish, that it was
_RECORD = "run.json"  # record.FILE; this file is imported with the package and stays light
_DEPTH = 8  # folders above a file that may own it
# of the writer while it lives, or of an operating system: never part of what a folder holds
_LEFT_OUT = {".lock", ".owner.json", ".sweep.lock", FILE}
_LEFT_OUT |= {".DS_Store", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints"}

Entry = dict[str, Any]  # {"bytes": int, "sha256": str}


class DamagedChecksums(UserError):
    """A folder's list of checksums cannot be read, or differs from its own checksum."""


@dataclass
class Checksums:
    """What a folder's list says: an entry per file, and the folders that have lists of their own."""

    files: dict[str, Entry] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)


def read(folder: Path) -> Checksums | None:
    """The list in `folder`; None where there is none. `DamagedChecksums` for one that changed."""
    path = folder / FILE
    if os.path.islink(path):
        raise DamagedChecksums(f"{path}: damaged, a link in its place")
    try:
        content = files.read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "not JSON"
        raise DamagedChecksums(f"{path}: damaged, {why}") from None
    if isinstance(content, dict) and content.get("kind") == KIND:
        form = content.get("format")
        if isinstance(form, int) and form > FORMAT and content.get("sha256") == _own(content):
            raise UserError(
                f"{path}: format {form} is newer than this cutaway reads ({FORMAT}); update it"
            )
    # byte for byte: a list that was cut by its last character still says the same
    whole = isinstance(content, dict) and files.read_bytes(path) == _text(content).encode()
    if not whole or content.get("sha256") != _own(content):
        raise DamagedChecksums(f"{path}: damaged, its content differs from its checksum")
    return Checksums(content["files"], content["folders"])


def seal(
    folder: Path, known: Mapping[str, Entry] | None = None, *, without: str | None = None
) -> None:
    """Write the list of every file in `folder` but `without`. Those in `known` are taken from there.

    `known` are by path below the folder, of files whose checksum was recorded when they were
    written: large files are not read a second time. Raises OSError where the disk refuses.
    """
    listed, folders = scan(folder)
    entries = {}
    for name in listed:
        if name == without:
            continue
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            entries[name] = _known(folder, name, known or {}) or entry(folder / name)
    with _alone(folder):
        _write(folder, Checksums(entries, folders))


def finish(folder: str | os.PathLike[str]) -> None:
    """A writer has filled `folder`: it gets a list of its own, or is entered into its owner's.

    Does nothing in the folder of a run that still lives, which is sealed when its life ends.
    """
    folder = Path(os.path.realpath(folder))
    owner = _owner(folder / FILE)
    if owner is None and not _inside_a_run(folder):
        files.write_text(folder / MARK, f"{FILE} lists the files of this folder.\n")
        seal(folder)
    elif owner is not None and owner != folder:
        listed, _ = scan(folder)
        below = folder.relative_to(owner).as_posix() + "/"
        entries = {below + name: entry(folder / name) for name in listed}
        _change(owner, entries, lambda name: name.startswith(below))
    elif owner is not None:
        seal(folder)


def removed(folder: Path) -> None:
    """A folder with a list of its own is gone: the list above, which names it, no longer does."""
    folder = _really(folder)
    owner = _owner(folder)
    if owner is None:
        return
    name = folder.relative_to(owner).as_posix()
    with _alone(owner), contextlib.suppress(UserError):
        sums = read(owner)
        if sums is not None and name in sums.folders:
            sums.folders.remove(name)
            _write(owner, sums)


def forget(folder: Path) -> None:
    """Take the list away: the folder is about to be written again."""
    (folder / FILE).unlink(missing_ok=True)


def entry(path: Path) -> Entry:
    """Size and SHA-256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """Keeps the list that speaks of `path` in step while the block replaces that file."""
    path = _really(path)
    owner = _owner(path)
    if owner is None or left_out(path.relative_to(owner)):
        yield
        return
    name = path.relative_to(owner).as_posix()
    _change(owner, {}, lambda one: one == name)
    yield
    _change(owner, {name: entry(path)})


def linked(folder: Path, name: str) -> Path | None:
    """The first link on the way from `folder` to what is called `name` in it; None without one."""
    below = folder
    for part in Path(name).parts:
        below = below / part
        if os.path.islink(below):
            return below
    return None


def left_out(name: Path) -> bool:
    """Whether a path below a folder is none of what the folder holds."""
    return any(
        part in _LEFT_OUT or (part[0] == "." and (part.endswith(".tmp") or part[:4] == ".nfs"))
        for part in name.parts
    )


def differences(folder: Path, sums: Checksums) -> tuple[list[str], list[str]]:
    """(damages, further files): what in `folder` is not as listed, a line each; names not listed."""
    damages = []
    for name, expected in sorted(sums.files.items()):
        if (damage := _damage(folder, name, expected)) is not None:
            damages.append(damage)
    listed, _ = scan(folder, special=True, unreadable=damages)
    return damages, [name for name in listed if name not in sums.files]


# -- inside ----------------------------------------------------------------------------------------


def _damage(folder: Path, name: str, expected: Any) -> str | None:
    path = folder / name
    try:
        files.require_inside(folder, name)
        if linked(folder, name):
            return f"{path}: damaged, a link in its place"
        with files.open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected["bytes"]:
                return f"{path}: damaged, {size} bytes instead of {expected['bytes']}"
            if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                return f"{path}: damaged, its content differs from its checksum"
    except UserError as error:
        return str(error)
    except (FileNotFoundError, NotADirectoryError):
        return f"{path}: missing"
    except OSError as error:
        return f"{path}: cannot read: {error.strerror or error}"
    except (TypeError, KeyError):
        return f"{path}: its entry in {FILE} is damaged"
    return None


def scan(
    folder: Path, special: bool = False, unreadable: list[str] | None = None
) -> tuple[list[str], list[str]]:
    """(files, folders): every file below, by path, and the folders that speak for themselves.

    With `special` also what has no content to compare: links, pipes, devices. `unreadable`, where
    given, gets a line about each folder that cannot be read; without it that is an OSError.
    """
    listed: list[str] = []
    folders: list[str] = []
    waiting = [(folder, "")]
    while waiting:
        place, prefix = waiting.pop()
        try:
            with os.scandir(place) as found:
                inside = list(found)
        except OSError as error:
            if unreadable is None:
                raise
            unreadable.append(f"{place}: cannot read: {error.strerror}")
            continue
        for one in inside:
            name = f"{prefix}{one.name}"
            if left_out(Path(one.name)):
                continue
            if one.is_dir(follow_symlinks=False):
                below = Path(one.path)
                if os.path.exists(below / _RECORD) or _is_list(below / FILE):
                    folders.append(name)
                else:
                    waiting.append((below, name + "/"))
            elif special or one.is_file(follow_symlinks=False):
                listed.append(name)
    return sorted(listed), sorted(folders)


def _known(folder: Path, name: str, known: Mapping[str, Entry]) -> Entry | None:
    """The recorded entry of a file, where its size is still that; else it is read."""
    recorded = known.get(name)
    if recorded is None or (folder / name).stat().st_size != recorded["bytes"]:
        return None
    return {"bytes": recorded["bytes"], "sha256": recorded["sha256"]}


def _really(path: str | os.PathLike[str]) -> Path:
    """Where a file lies when links to folders are followed, which may be in another folder's list."""
    folder, name = os.path.split(os.path.abspath(path))
    return Path(os.path.realpath(folder), name)


def _owner(path: Path) -> Path | None:
    """The finished folder above `path` whose list speaks of it; None where none does.

    A run without a list is being written: what is above it does not speak of its files.
    """
    for _, folder in zip(range(_DEPTH), path.parents):
        if _is_list(folder / FILE):
            return folder
        if (folder / _RECORD).exists():
            return None
    return None


def _inside_a_run(folder: Path) -> bool:
    places = [folder, *folder.parents][:_DEPTH]
    return any((place / _RECORD).exists() for place in places)


def _is_list(path: Path) -> bool:
    """Whether the file is a list of ours: others may call a file so too."""
    try:
        with files.open_regular(path) as file:
            return f'"kind": "{KIND}"'.encode() in file.read(64)
    except (OSError, UserError):
        return False


def _change(
    folder: Path, entries: Mapping[str, Entry], without: Callable[[str], bool] = lambda name: False
) -> None:
    """Take some entries out of a folder's list, put others in; nothing where the list is damaged."""
    with _alone(folder):
        try:
            sums = read(folder)
        except UserError:  # `runs verify` says so; writing it anew would hide that
            return
        if sums is None:
            return
        changed = {name: one for name, one in sums.files.items() if not without(name)} | entries
        if changed != sums.files:
            _write(folder, Checksums(changed, sums.folders))


def _write(folder: Path, sums: Checksums) -> None:
    entries = dict(sorted(sums.files.items()))
    content = {"kind": KIND, "format": FORMAT, "files": entries, "folders": sums.folders}
    content["sha256"] = _own(content)
    files.write_text(folder / FILE, _text(content))


def _text(content: Mapping[str, Any]) -> str:
    """ASCII: a name that is not UTF-8 has half characters, which JSON can escape."""
    return json.dumps(content, indent=1) + "\n"


def _own(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time changes a folder's list; where the system has no locks, all may."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
