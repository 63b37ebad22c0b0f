"""Writing files so that a reader sees the old content or the new one, never a torn one.

Every write goes to a temporary name in the same folder, is flushed to the disk, then renamed;
a crash at any moment leaves the previous file whole. The price is one fsync per file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cutaway.base.errors import UserError, shortened

_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes, as file systems and systems have it
DEEPEST = 100  # levels of nesting in a JSON or YAML file
LARGEST_JSON = 1_000_000_000  # bytes of a JSON file that is read whole
_TOO_DEEP = f"nested more than {DEEPEST} levels deep"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it takes `path`'s place."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        flush_to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def flush_to_disk(path: str | os.PathLike[str]) -> None:
    """fsync a file or a folder (a folder's fsync makes renames inside it lasting)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems refuse to sync folders
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise
    finally:
        os.close(handle)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace the file's content in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Replace the file's content in one step, as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replace the file with `value` as JSON; NaN and infinities are refused (not JSON)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON text. ValueError, whatever is wrong with it: also where it is not UTF-8
    or nested more than a hundred deep, so that nothing which walks the value can run out of stack.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except UnicodeDecodeError:
        raise ValueError("not a text in UTF-8") from None
    marks = ("[", "{") if isinstance(content, str) else (b"[", b"{")
    if sum(map(content.count, marks)) > DEEPEST:  # type: ignore[arg-type]
        require_shallow(value)
    return value


def read_json(path: str | os.PathLike[str], *, most: int = LARGEST_JSON) -> Any:
    """The value in a JSON file of at most `most` bytes. OSError, or ValueError as of `parse_json`."""
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"larger than the {human_bytes(most)} that such a file may have")
    return parse_json(content)


def require_shallow(value: Any) -> None:
    """ValueError for lists and mappings nested more than a hundred deep, or within themselves."""
    level, depth = [value] if isinstance(value, dict | list | tuple) else [], 0
    while level:
        if depth > DEEPEST:
            raise ValueError(_TOO_DEEP)
        inner: dict[int, Any] = {}
        for one in level:
            parts = one.values() if isinstance(one, dict) else one
            inner.update(
                (id(part), part) for part in parts if isinstance(part, dict | list | tuple)
            )
        level, depth = list(inner.values()), depth + 1


def sha256(path: str | os.PathLike[str]) -> str:
    """The file's SHA-256 in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Free bytes on the disk that holds `path` or, where it does not exist yet, its parent."""
    existing = Path(path).absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def human_bytes(count: float) -> str:
    """`1536` → `'1.5 KB'`; powers of 1000, as disks are sold."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def is_folder_name(name: str) -> bool:
    """Whether a run may be called so: one folder, which any terminal and any system can show."""
    fit = name.isprintable() and not set(name) & {"/", "\\"}
    return fit and bool(name.strip()) and name not in (".", "..")


def as_path(given: str | os.PathLike[str]) -> Path:
    """A path that a user named. UserError for what no file system can hold: NUL, names too long."""
    path = Path(given)
    if "\0" in str(path):
        raise UserError(f"{shortened(str(path))}: no path, it holds a NUL character")
    for part in path.parts:
        if (length := len(os.fsencode(part))) > _LONGEST_NAME:
            raise UserError(
                f"{shortened(part)}: no path, a name of {length:,} bytes (file systems take "
                f"{_LONGEST_NAME})"
            )
    if (length := len(os.fsencode(path))) > _LONGEST_PATH:
        raise UserError(
            f"{shortened(str(path))}: no path, {length:,} bytes (systems take {_LONGEST_PATH:,})"
        )
    return path


def require_writable(folder: str | os.PathLike[str], needed: int = 0) -> None:
    """Refuse, before slow work, a folder that cannot be written or whose disk is too full.

    Creates nothing: the nearest existing parent is what is tried.
    """
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"{folder}: {existing} is a file, not a folder")
    probe = existing / f".cutaway-write-test.{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot write in {existing}: {error.strerror}") from None
    if needed and (free := free_bytes(existing)) < needed:
        raise UserError(
            f"{folder}: {human_bytes(needed)} needed, {human_bytes(free)} free on that disk"
        )
