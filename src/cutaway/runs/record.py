"""`run.json`: what a run is, how it stands, and what it came to."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cutaway.base import files, json_text
from cutaway.base.display import json_value
from cutaway.base.errors import UserError

FORMAT = 1
FILE = "run.json"
TOGETHER = "trained_with"  # where `resolved` names all the runs of its stack
Status = Literal["running", "done", "failed", "interrupted"]
_PACKAGES = ("cutaway", "torch", "numpy", "safetensors", "tokenizers", "transformers", "pyarrow")


class RunRecord(BaseModel):
    """Everything `run.json` holds. Keys of the same format that are unknown here are kept."""

    model_config = ConfigDict(extra="allow")

    format: int = FORMAT
    name: str
    study: str
    config: dict[str, Any] = {}
    resolved: dict[str, Any] = Field({}, description="what each `auto` in the config became")
    status: Status = "running"
    reason: str | None = Field(None, description="why it failed or what interrupted it")
    steps_planned: int = 0
    steps_attempted: int = 0
    steps_done: int = 0
    seed: int = 0
    metrics: dict[str, float | int | None] = Field(
        {}, description="final figures; null: not defined; of older runs also: not finite"
    )
    started: str = Field("", description="ISO 8601, UTC")
    finished: str | None = None
    seconds: float = Field(0.0, description="time in the run, over all its resumes")
    versions: dict[str, str] = {}
    git_commit: str | None = None
    device: str | None = None
    host: str = ""
    pid: int = 0
    parents: list[dict[str, Any]] = Field([], description="runs, model and data it came from")
    notices: list[str] = []
    checksums: str | None = Field(
        None, description="the list of all files' checksums; null while the run lives"
    )


def now() -> str:
    """This second in ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python and the packages that shape results, read without importing them."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit checked out where the process runs; None outside a repository or without git."""
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None


def new(name: str, study: str, **fields: Any) -> RunRecord:
    """A record of a run that starts now, in this process."""
    return RunRecord(
        name=name,
        study=study,
        started=now(),
        versions=versions(),
        git_commit=git_commit(),
        host=platform.node(),
        pid=os.getpid(),
        **fields,
    )


def write(record: RunRecord, folder: Path) -> None:
    """Replace the folder's `run.json`; numbers that are not finite become "NaN", "Infinity" and
    "-Infinity", which `read` reads as numbers among the figures."""
    files.write_json(folder / FILE, json_value(record.model_dump(mode="json")))


def read(folder: str | os.PathLike[str]) -> RunRecord:
    """The record in `folder`. `UserError` where there is none, or it is damaged or too new."""
    path = Path(folder) / FILE
    try:
        content = json_text.loads(files.read_bytes(path, files.JSON_BYTES), escape=True)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: holds no run (no {FILE} there)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one too
        raise UserError(f"{path}: damaged, not JSON: {error}") from None
    return parse(content, path)


def parse(content: Any, path: str | os.PathLike[str]) -> RunRecord:
    """`content` of the file at `path` as a record; `UserError` names what is wrong with it."""
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged: expected a JSON object, got {type(content).__name__}")
    form = content.get("format")
    if isinstance(form, int) and form > FORMAT:
        raise UserError(
            f"{path}: format {form} is newer than this cutaway reads ({FORMAT}); update it"
        )
    if form != FORMAT:
        raise UserError(f"{path}: not a run's record: format = {form!r}, expected {FORMAT}")
    try:
        return RunRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: damaged: {field}: {first['msg']}") from None


def json_ready(value: Any, place: str) -> Any:
    """`value` as JSON gives it back (tuples as lists, paths as text); refuses what JSON has not."""
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=os.fspath))
    except (TypeError, ValueError) as error:
        raise UserError(f"{place}: cannot be written as JSON: {error}") from None
