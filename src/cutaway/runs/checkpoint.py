"""Checkpoints: tensors as safetensors, the rest as JSON, all of it checksummed.

    checkpoints/step-000500/{model,updater,task}.safetensors, state.json
    checkpoints/best, last     each holds the name of one of these folders

A checkpoint is written beside its place, flushed to the disk and renamed into it, so a crash
leaves a whole one or none. What was damaged later is found when it is loaded, by size and
SHA-256. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base import files
from cutaway.base.errors import RunFailed, UserError

if TYPE_CHECKING:
    import torch

FORMAT = 1
STATE = "state.json"
_NAME = re.compile(r"step-(\d+)")


class DamagedCheckpoint(UserError):
    """A file of a checkpoint is missing, cut short or altered; the message names it."""


@dataclass
class Checkpoint:
    """A run at `step`: groups of named tensors (`model`, `updater`, `task`) and plain state."""

    step: int
    tensors: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]
    path: Path


class Checkpoints:
    """The checkpoints in `folder`, which appears with the first one.

    `before_save` is called first: what must be on the disk before the checkpoint counts.
    """

    def __init__(self, folder: Path, before_save: Callable[[], None] = lambda: None):
        self.folder = Path(folder)
        self._before_save = before_save

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, torch.Tensor]],
        state: Mapping[str, Any],
    ) -> Path:
        """Write the checkpoint of `step` and point `last` at it; one of the same step is replaced.

        `tensors` may be on any device, strided or shared; `state` is what JSON can hold (floats
        may be infinite). Raises `RunFailed` when the disk refuses; what was there stays.
        """
        place = self.folder / f"step-{step:06d}"
        try:
            self._before_save()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear_leftovers()
            needed = sum(t.nbytes for group in tensors.values() for t in group.values())
            if (free := files.free_bytes(self.folder)) < needed:
                raise RunFailed(
                    f"{place}: a checkpoint needs {files.human_bytes(needed)}, "
                    f"{files.human_bytes(free)} free on that disk"
                )
            temporary = files.temporary_beside(place)
            try:
                temporary.mkdir()
                _write(temporary, step, tensors, state)
                self._put(temporary, place)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            files.write_text(self.folder / "last", place.name + "\n")
        except OSError as error:
            raise RunFailed(f"{place}: cannot write: {error.strerror or error}") from None
        return place

    def steps(self) -> list[int]:
        """Steps with a checkpoint, damaged ones included, in order."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.fullmatch(entry.name) for entry in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def load(
        self,
        step: int,
        device: str | torch.device = "cpu",
        groups: Collection[str] | None = None,
    ) -> Checkpoint:
        """The checkpoint of `step`, verified. `DamagedCheckpoint` says which file is wrong, and how.

        `groups` names those wanted (`["model"]` to look at a network); the others are not read.
        """
        content = self.verify(step, groups)
        place = self.path(step)
        tensors = {
            name.removesuffix(".safetensors"): files.load_tensors(place / name, str(device))
            for name in content["files"]
            if groups is None or name.removesuffix(".safetensors") in groups
        }
        return Checkpoint(step, tensors, content["state"], place)

    def verify(self, step: int, groups: Collection[str] | None = None) -> dict[str, Any]:
        """Check the files of `step` (of `groups` only) against their sizes and SHA-256.

        Returns the content of `state.json`.
        """
        place = self.path(step)
        content = _read_state(place / STATE)
        for name, expected in content["files"].items():
            if not files.is_plain(name):
                raise DamagedCheckpoint(f"{place / STATE}: {name!r} is no file's name")
            if groups is None or name.removesuffix(".safetensors") in groups:
                _check_file(place / name, expected)
        return content

    def recorded(self) -> dict[str, dict[str, Any]]:
        """Bytes and SHA-256 of all tensor files as they were written, by path in the run's folder."""
        found = {}
        for step in self.steps():
            place = self.path(step)
            with contextlib.suppress(UserError):  # damaged: its files are read
                for name, entry in _read_state(place / STATE)["files"].items():
                    found[f"{self.folder.name}/{place.name}/{name}"] = entry
        return found

    def latest_intact(
        self, device: str | torch.device = "cpu"
    ) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that is whole, and a notice for each damaged one passed over."""
        notices = []
        for step in reversed(self.steps()):
            try:
                return self.load(step, device), notices
            except DamagedCheckpoint as error:
                notices.append(f"{error}; falling back to the checkpoint before")
        return None, notices

    def path(self, step: int) -> Path:
        """The folder of the checkpoint of `step`; `UserError` lists what there is instead."""
        for digits in (f"{step:06d}", str(step)):
            if (place := self.folder / f"step-{digits}").is_dir():
                return place
        there = ", ".join(map(str, self.steps())) or "none"
        raise UserError(f"{self.folder}: no checkpoint at step {step}; there are: {there}")

    def mark_best(self, step: int, value: float) -> None:
        """Point `best` at the checkpoint of `step`; `value`, what made it so, is its second line."""
        try:
            files.write_text(self.folder / "best", f"{self.path(step).name}\n{value!r}\n")
        except OSError as error:
            raise RunFailed(f"{self.folder / 'best'}: cannot write: {error.strerror}") from None

    def best(self) -> int | None:
        """The step of the best checkpoint, where one is marked and there."""
        return self._pointed("best")

    def last(self) -> int | None:
        """The step of the checkpoint saved last."""
        step = self._pointed("last")
        return step if step is not None else max(self.steps(), default=None)

    def prune(self, keep: int | None) -> None:
        """Keep the newest `keep` checkpoints and the best; None keeps all."""
        if keep is None:
            return
        kept = {*self.steps()[-keep:]} if keep else set()
        for step in set(self.steps()) - kept - {self.best()}:
            self._remove(step)

    def truncate(self, step: int) -> None:
        """Delete the checkpoints of steps beyond `step`: of a course that is taken anew."""
        for later in (one for one in self.steps() if one > step):
            self._remove(later)

    def _remove(self, step: int) -> None:
        place = self.path(step)
        doomed = files.temporary_beside(place)  # never half a checkpoint under its name
        place.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _pointed(self, pointer: str) -> int | None:
        try:
            name = files.read_text(self.folder / pointer, 4096).partition("\n")[0]
        except (OSError, UnicodeDecodeError):
            return None
        match = _NAME.fullmatch(name.strip())
        return int(match[1]) if match and (self.folder / match[0]).is_dir() else None

    def _put(self, temporary: Path, place: Path) -> None:
        if place.exists():
            old = files.temporary_beside(place.with_name(f"{place.name}.old"))
            shutil.rmtree(old, ignore_errors=True)
            place.rename(old)
            temporary.rename(place)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(place)
        files.flush_to_disk(self.folder)

    def _clear_leftovers(self) -> None:
        for leftover in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)


def _write(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
) -> None:
    written = {}
    for group, named in tensors.items():
        path = folder / f"{group}.safetensors"
        files.save_tensors(_owned(named), path)
        files.flush_to_disk(path)
        written[path.name] = {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
    content = json.loads(
        json.dumps({"format": FORMAT, "step": step, "files": written, "state": dict(state)})
    )
    content["sha256"] = _own_checksum(content)
    files.write_text(folder / STATE, json.dumps(content, indent=1))
    files.flush_to_disk(folder)


def _owned(named: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors in main memory that share nothing, as safetensors wants them."""
    owned, seen = {}, set()
    for name, tensor in named.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        if place in seen:
            tensor = tensor.clone()
        seen.add(place)
        owned[name] = tensor
    return owned


def _read_state(path: Path) -> dict[str, Any]:
    try:
        content = files.read_json(path)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path}: missing") from None
    except OSError as error:
        raise DamagedCheckpoint(f"{path}: cannot read: {error.strerror}") from None
    except ValueError:
        raise DamagedCheckpoint(f"{path}: damaged, not JSON") from None
    if (
        isinstance(content, dict)
        and isinstance(form := content.get("format"), int)
        and form > FORMAT
    ):
        raise UserError(
            f"{path}: format {form} is newer than this cutaway reads ({FORMAT}); update it"
        )
    if not isinstance(content, dict) or content.get("sha256") != _own_checksum(content):
        raise DamagedCheckpoint(f"{path}: damaged, its content differs from its checksum")
    return content


def _own_checksum(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _check_file(path: Path, expected: Mapping[str, Any]) -> None:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise DamagedCheckpoint(f"{path}: damaged, {size} bytes instead of {expected['bytes']}")
        if files.sha256(path) != expected["sha256"]:
            raise DamagedCheckpoint(f"{path}: damaged, its content differs from its checksum")
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path}: missing") from None
    except OSError as error:
        raise DamagedCheckpoint(f"{path}: cannot read: {error.strerror}") from None
