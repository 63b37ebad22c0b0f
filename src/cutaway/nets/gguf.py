"""GGUF files as models: converted once into a folder of Hugging Face's layout, then opened from it.

`<cache>/gguf/<sha256 of the file>` holds the weights as they are after dequantising, in the shortest
type that keeps every value (float32 for all quantised kinds), the tokenizer, and `gguf.json`, which
lists the files with their checksums. The folder appears by a rename: whole or not at all.
`<cache>/gguf/checksums` remembers the checksums of large files, so that later openings do not read
them again while size, inode and times of change stay the same.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutaway.base import files
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.progress import progress
from cutaway.nets import gguf_header

FORMAT = 1
MANIFEST = "gguf.json"
_BLOCK = 1 << 23  # bytes read at once
_SMALL = 1 << 20  # bytes of a file that is hashed at every opening
_WAIT = 2.0  # seconds of waiting for another process before a notice
_PACKAGES = ("gguf", "accelerate")
_PIECES = "*.gguf.part*"


@dataclass(frozen=True)
class Converted:
    """A GGUF file's model in Hugging Face's layout.

    `sha256` is of the .gguf file; `quantisation` is how its weights were stored, `4 bits (Q4_K_M)`,
    None for 16 and 32 bits.
    """

    folder: Path
    sha256: str
    quantisation: str | None


def has_layout(folder: Path) -> bool:
    """Whether a folder is in Hugging Face's layout; not so where its weights are in a GGUF file alone."""
    alone = any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors*"))
    return (folder / "config.json").is_file() and not alone


def find(place: Path) -> Path | None:
    """The GGUF file that a path means: itself, or the only one in a folder; None where there is none.

    Raises UserError for a folder with several, and for one with the pieces of a file that was cut.
    """
    if place.is_dir():
        found = sorted(one for one in place.glob("*.[gG][gG][uU][fF]") if not one.is_dir())
        if len(found) == 1:
            return found[0].absolute()
        if found:
            gguf_header.require_whole(found[0])
            names = ", ".join(one.name for one in found[:5]) + (", ..." if len(found) > 5 else "")
            raise UserError(
                f"model = '{place}': holds {len(found)} GGUF files; name one of them ({names})"
            )
        _require_no_pieces(sorted(place.glob(_PIECES)))
        return None
    if ".gguf.part" in place.name and place.exists():
        _require_no_pieces([place])
    if place.suffix.lower() == ".gguf" and not os.path.lexists(place):
        raise UserError(f"model = '{place}': no such file")
    if os.path.lexists(place) and gguf_header.is_gguf(place):
        return place.absolute()
    return None


def _require_no_pieces(pieces: list[Path]) -> None:
    if pieces:
        whole = pieces[0].name.rpartition(".part")[0]
        raise UserError(
            f"{pieces[0]}: a piece of a GGUF file, not a whole one; join all pieces in order first: "
            f"cat {whole}.part* > {whole}"
        )


def converted(path: Path, cache: str | os.PathLike[str] | None = None) -> Converted:
    """The conversion of a GGUF file, from the cache or made now.

    `cache` is `$CUTAWAY_CACHE` or `~/.cache/cutaway` unless given. Two processes that want the same
    file convert it once; a damaged conversion is made again, with a notice. Raises UserError with
    one line for a file that is damaged, split, of an unknown kind, or for which disk, memory or the
    `gguf` extra are missing.
    """
    from cutaway.text.token_files import cache_folder

    root = cache_folder(cache).absolute() / "gguf"
    gguf_header.require_whole(path)
    header = None
    if _remembered(root, path) is None and (not _missing() or not any(root.glob("*/"))):
        _require_extra(path)
        header = gguf_header.read(path)  # before reading all of the file
    sha256 = checksum(root, path)
    folder = root / sha256
    if (found := _opened(root, folder, sha256)) is not None:
        return found
    _require_extra(path)
    header = gguf_header.read(path) if header is None else header
    return _convert(root, folder, sha256, header)


def _convert(root: Path, folder: Path, sha256: str, header: gguf_header.Header) -> Converted:
    from cutaway.nets import gguf_conversion

    gguf_conversion.require_known(header)
    files.require_writable(folder, needed=gguf_conversion.disk_needed(header))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock"), header.path):
        if (found := _opened(root, folder, sha256)) is not None:  # another process made it
            return found
        if folder.exists():
            notice(f"{folder}: a damaged conversion of {header.path}, made again")
            shutil.rmtree(folder)
        files.clear_leftovers(root, folder.name)
        temporary = files.temporary_beside(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            about = gguf_conversion.convert(header, temporary)
            if checksum(root, header.path) != sha256:
                raise UserError(f"{header.path}: changed while it was read")
            _finish(temporary, sha256, header, about)
            os.rename(temporary, folder)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    found = _opened(root, folder, sha256)
    if found is None:
        raise UserError(f"{folder}: the conversion changed while it was being opened")
    return found


def _finish(folder: Path, sha256: str, header: gguf_header.Header, about: dict[str, Any]) -> None:
    """Flush what was written, and list it with its checksums."""
    contents = sorted(path for path in folder.iterdir() if path.is_file())
    for path in contents:
        files.flush_to_disk(path)
    manifest = {
        "format": FORMAT,
        "source": {"path": str(header.path), "sha256": sha256},
        **about,
        "files": {
            path.name: {"size": path.stat().st_size, "sha256": files.sha256(path)}
            for path in contents
        },
    }
    files.write_json(folder / MANIFEST, manifest)
    files.flush_to_disk(folder)


def _opened(root: Path, folder: Path, sha256: str) -> Converted | None:
    """The conversion in `folder`, or None where it is missing or damaged."""
    try:
        manifest = files.read_json(folder / MANIFEST)
        if manifest["format"] != FORMAT or manifest["source"]["sha256"] != sha256:
            return None
        for name, about in manifest["files"].items():
            if not files.is_plain(name) or (folder / name).stat().st_size != about["size"]:
                return None
            if checksum(root, folder / name) != about["sha256"]:
                return None
        quantisation = manifest["quantisation"]
        if not {"config.json", "model.safetensors"} <= set(manifest["files"]):
            return None
        if quantisation is not None and not isinstance(quantisation, str):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Converted(folder, sha256, quantisation)


def _locked(lock: Path, path: Path) -> Any:
    """The lock of one conversion, held; a wait of more than two seconds is announced."""
    from filelock import FileLock, Timeout

    held = FileLock(lock)
    try:
        return held.acquire(timeout=_WAIT)
    except Timeout:
        notice(f"{path}: another process is converting this file; waiting for it")
        return held.acquire()
    except OSError as error:
        raise UserError(f"{lock}: {error.strerror or error}") from None


def _missing() -> list[str]:
    return [package for package in _PACKAGES if importlib.util.find_spec(package) is None]


def _require_extra(path: Path) -> None:
    if missing := _missing():
        raise UserError(
            f"{path}: converting a GGUF file needs the package {missing[0]}: "
            "pip install 'cutaway[gguf]'"
        )


# -- checksums -----------------------------------------------------------------------------


def checksum(root: Path, path: Path) -> str:
    """The SHA-256 of a file, remembered under `root` for as long as the file stays as it is."""
    if (known := _remembered(root, path)) is not None:
        return known
    try:
        before = _state(path)
        found = _read_sha256(path, before["size"])
        unchanged = _state(path) == before
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    if before["size"] > _SMALL and unchanged:
        place = _memory(root, path)
        with suppress(OSError, UserError):  # then it is read again the next time
            place.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(place, {**before, "sha256": found})
    return found


def _remembered(root: Path, path: Path) -> str | None:
    try:
        known = files.read_json(_memory(root, path), limit=_SMALL)
        sha256 = known.pop("sha256")
        fit = isinstance(sha256, str) and len(sha256) == 64 and sha256.isalnum()
        return sha256 if fit and known == _state(path) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _memory(root: Path, path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
    return root / "checksums" / f"{name}.json"


def _state(path: Path) -> dict[str, int]:
    """What changes when somebody writes to a file, also where its modification time is set back."""
    found = os.stat(path)
    return {
        "size": found.st_size,
        "modified_ns": found.st_mtime_ns,
        "changed_ns": found.st_ctime_ns,
        "inode": found.st_ino,
    }


def _read_sha256(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with (
        files.open_regular(path) as file,
        progress(f"reading {path.name}", size, "bytes") as bar,
    ):
        while block := file.read(_BLOCK):
            digest.update(block)
            bar.advance(len(block))
    return digest.hexdigest()
