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

from cutaway.base.errors import UserError


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
