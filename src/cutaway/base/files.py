"""Reading and writing files so that nothing hangs, and nobody sees a torn one.

Every write goes to a temporary name in the same folder, is flushed to the disk, then renamed;
a crash at any moment leaves the previous file whole. The price is one fsync per file. What a crash
leaves is a hidden file that names the process which wrote it (`clear_leftovers`).

Every file that a user or a folder names is opened by `open_regular`: a pipe or a device, which may
never give an end, is refused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from cutaway.base import json_text
from cutaway.base.errors import UserError, shortened

_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes, as file systems and systems have it

JSON_BYTES = 1 << 28  # the longest JSON file that is read: a record has a few kilobytes
_DAY = 86400.0  # seconds after which a temporary file of another machine counts as left over
_TEMPORARY = re.compile(r"\..*\.(?:([0-9a-f]{8})-)?(\d+)(?:\.old)?\.tmp", re.DOTALL)
_KINDS = [
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
]

# What has to be in force around the moment in which a file takes another's place, given its path:
# `runs.checksums` keeps the lists of finished folders in step.
replacements: list[Callable[[Path], AbstractContextManager[None]]] = []


class NotAFile(OSError):
    """A pipe, a socket or a device where a file was expected."""


# -- reading ---------------------------------------------------------------------------------------


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading bytes; OSError, at once, for a folder, a pipe, a socket or a device."""
    _require_regular(path, os.stat(path).st_mode)
    # Should a pipe have come in its place meanwhile, O_NONBLOCK keeps `open` from waiting for it.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    try:
        _require_regular(path, os.fstat(handle).st_mode)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def require_regular(path: str | os.PathLike[str]) -> None:
    """OSError where `path` is no file: before it is handed to a library that would open it."""
    _require_regular(path, os.stat(path).st_mode)


def read_bytes(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """A regular file's content; OSError where it is none, or longer than `limit` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            why = f"{human_bytes(size)}, more than the {human_bytes(limit)} that are read"
            raise OSError(errno.EFBIG, why, os.fspath(path))
        return file.read()


def read_text(path: str | os.PathLike[str], limit: int | None = None) -> str:
    """A regular file's content as UTF-8; OSError or UnicodeDecodeError where it is none."""
    return read_bytes(path, limit).decode("utf-8")


def read_json(path: str | os.PathLike[str], limit: int = JSON_BYTES) -> Any:
    """What a JSON file holds; OSError, or ValueError for what is no JSON or nested too deeply."""
    return json_text.loads(read_bytes(path, limit))


def load_tensors(path: str | os.PathLike[str], device: str = "cpu") -> dict[str, Any]:
    """The tensors of a safetensors file; OSError, or SafetensorError for a damaged one."""
    from safetensors.torch import load, load_file

    require_regular(path)
    if is_utf8(os.fspath(path)):
        return load_file(path, device=device)
    found = load(read_bytes(path))  # the library takes names that are UTF-8
    return {name: tensor.to(device) for name, tensor in found.items()}


def require_inside(folder: str | os.PathLike[str], name: Any) -> Path:
    """The path of a file that a list in `folder` names; UserError where it leads out of it.

    Absolute names, `..`, and links whose target is elsewhere are refused, whether it is there or not.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(f"{folder}: {name!r} is no file's name")
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or Path(name).is_absolute() or name.startswith(("/", "\\")):
        raise UserError(f"{folder}: {name!r} leads out of the folder; not read")
    path = Path(folder) / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UserError(f"{path}: a link that leads out of the folder; not read")
    return path


def is_plain(name: Any) -> bool:
    """Whether `name` is the name of a file and nothing of a path."""
    plain = isinstance(name, str) and bool(name) and not set(name) & {"/", "\\", "\0"}
    return plain and name not in (".", "..")


def _require_regular(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", os.fspath(path))
    kind = next((name for test, name in _KINDS if test(mode)), "something else")
    raise NotAFile(errno.EINVAL, f"is {kind}, not a file", os.fspath(path))


# -- writing ---------------------------------------------------------------------------------------


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it takes `path`'s place."""
    path = Path(path)
    temporary = temporary_beside(path)
    with suppress(FileNotFoundError, IsADirectoryError):
        require_regular(path)  # /dev/null stays what it is
    try:
        yield temporary
        flush_to_disk(temporary)
        with ExitStack() as around:
            for each in replacements:
                around.enter_context(each(path))
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """A hidden name beside `path` that says which machine and process writes it."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}.tmp")


def clear_leftovers(folder: str | os.PathLike[str], name: str | None = None) -> None:
    """Delete what processes that are gone left half-written in `folder`, at any depth.

    With `name` only what was to become `folder/name`. What a living process of this machine writes
    stays; so does, for a day, what another machine's does.
    """
    for place, folders, files in os.walk(folder):
        for one in [*folders, *files]:
            if (match := _TEMPORARY.fullmatch(one)) is None or not _is_left(match, place):
                continue
            if name is not None and not one.startswith(f".{name}."):
                continue
            path = Path(place) / one
            if one in folders and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        folders[:] = [] if name is not None else [one for one in folders if one[0] != "."]


def _is_left(match: re.Match[str], place: str) -> bool:
    machine, process = match.groups()
    if machine is not None and machine != _machine():
        try:
            return time.time() - os.lstat(os.path.join(place, match[0])).st_mtime > _DAY
        except OSError:
            return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass  # it lives, and is another user's
    return False


def _machine() -> str:
    """This machine's name in eight digits."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


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


def save_tensors(tensors: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write torch tensors (contiguous, on the CPU) as a safetensors file; OSError if the disk refuses."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:  # its way of passing on what the disk said
        said = re.search(r"os error (\d+)", str(error))
        number = int(said[1]) if said else errno.EIO
        why = os.strerror(number) if said else str(error)
        raise OSError(number, why, os.fspath(path)) from None


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Replace the file's content in one step, as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replace the file with `value` as JSON; NaN and infinities are refused (not JSON)."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode("utf-8", "backslashreplace"))  # `\udce9`: JSON's own escape


def sha256(path: str | os.PathLike[str]) -> str:
    """The file's SHA-256 in hexadecimal."""
    with open_regular(path) as handle:
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


def is_utf8(name: str) -> bool:
    """Whether a file's name is text; other names Python holds with half characters in them."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


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


@contextmanager
def written_into(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Within it a folder is made and written; OSError becomes a UserError that names the folder."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot write: {error.strerror or error}") from None


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
