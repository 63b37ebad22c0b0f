"""All runs under one root: listing them, and SQL over everything they recorded.

The folders are the truth: there is no index and no shared database to keep in step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.base.display import notice
from cutaway.base.errors import UserError, nearest
from cutaway.base.files import as_path
from cutaway.runs import record
from cutaway.runs.folder import Run, derived_status
from cutaway.runs.record import RunRecord

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.runs.query import Queries

_NOT_RUNS = ("checkpoints", "figures", "wandb", "tensorboard")
_DEPTH = 8  # folders below the root; deeper there is a loop of links, not a run


@dataclass
class Found:
    """A run's folder as one look into it shows: `name` is its path under the root."""

    name: str
    path: Path
    linked: bool  # reached through a symbolic link: DuckDB may not follow it out of the root
    stamp: tuple[int, int]  # of run.json: when changed, size
    tables: set[str] = field(default_factory=set)
    live: set[str] = field(default_factory=set)  # those of them that are being written


class RunStore:
    """The runs under `root`. Cheap to make; what it lists is what is there at that moment.

    Damaged files are reported once per store as notices on stderr, and skipped.
    """

    def __init__(self, root: str | os.PathLike[str] = "runs"):
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"{self.root}: is a file, not a folder of runs")
        self._queries: Queries | None = None
        self._records: dict[Path, tuple[tuple[int, int], RunRecord]] = {}
        self._told: set[str] = set()

    def runs(self) -> list[RunRecord]:
        """Every run's record in the order they began; `name` is the path under the root.

        `status` is the derived one: `interrupted` for a run whose process is gone.
        """
        return sorted(
            (content for _, content in self._readable()), key=lambda r: (r.started, r.name)
        )

    def run(self, name: str) -> Run:
        """The run of that name, for reading. `UserError` names the nearest."""
        return Run.open(self._folder(name))

    def sql(self, query: str) -> pa.Table:
        """The answer to one SELECT over the views `runs`, `history` and one per other table.

        `runs` has a row per run: `run`, `study`, `status`, ..., and `config` and `metrics` whose
        fields are read with a dot (`config.learning_rate`). The others have a column `run` and
        every column any run has, null where a run lacks it. A query can read nothing outside the
        root and write nothing anywhere. Raises `UserError` with the first line of what is wrong.
        """
        from cutaway.runs import query as queries

        queries.require_select(query)
        if self._queries is None:
            self._queries = queries.Queries(self.root, self._tell)
        return self._queries.answer(query, self._readable)

    def verify(self, name: str) -> list[str]:
        """Read every byte of a run and check it; one line per file that is damaged."""
        return verify(self._folder(name))

    # -- inside ----------------------------------------------------------------------------

    def _folder(self, name: str) -> Path:
        if not (self.root / name / record.FILE).is_file():
            raise _unknown(name, self.root)
        return self.root / name

    def _readable(self) -> Iterator[tuple[Found, RunRecord]]:
        for found in find_all(self.root):
            try:
                yield found, self._record(found)
            except UserError as error:
                self._tell(f"{error}; skipped")

    def _record(self, found: Found) -> RunRecord:
        known = self._records.get(found.path)
        if known is None or known[0] != found.stamp:
            known = (found.stamp, record.read(found.path))
            self._records[found.path] = known
        status = derived_status(known[1], found.path)
        return known[1].model_copy(update={"name": found.name, "status": status})

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            notice(message)


def find_run(reference: str | os.PathLike[str], root: str | os.PathLike[str] = "runs") -> Path:
    """The folder of a run given by path, or by name under `root`. `UserError` names the nearest."""
    for place in (as_path(reference), as_path(root) / reference):
        if (place / record.FILE).is_file():
            return place
    if Path(reference).exists():
        raise UserError(f"{reference}: holds no run (no {record.FILE} there)")
    raise _unknown(reference, Path(root))


def _unknown(reference: str | os.PathLike[str], root: Path) -> UserError:
    hint = nearest(str(reference), [found.name for found in find_all(root)])
    return UserError(f"{reference}: no run of this name or path (looked in {root}/ too){hint}")


def find_all(root: Path) -> list[Found]:
    """Every run under `root`, at any depth, by one look into each folder."""
    runs: list[Found] = []
    _look(root, "", False, _DEPTH, runs)
    return sorted(runs, key=lambda found: found.name)


def _look(folder: Path, name: str, linked: bool, depth: int, runs: list[Found]) -> None:
    below: list[tuple[str, bool]] = []
    found = Found(name or ".", folder, linked, (0, 0))
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, _, suffix = entry.name.rpartition(".")
                if suffix in ("parquet", "live") and stem.isidentifier():
                    found.tables.add(stem)
                    if suffix == "live":
                        found.live.add(stem)
                elif entry.name == record.FILE:
                    state = entry.stat()
                    found.stamp = (state.st_mtime_ns, state.st_size)
                elif (
                    entry.name[0] != "."
                    and entry.name not in _NOT_RUNS
                    and entry.is_dir()
                    and depth
                ):
                    below.append((entry.name, linked or entry.is_symlink()))
    except OSError:
        return  # gone meanwhile, or not ours to read
    if found.stamp != (0, 0):
        runs.append(found)
    for child, through_link in below:
        _look(folder / child, f"{name}/{child}" if name else child, through_link, depth - 1, runs)


def verify(path: Path) -> list[str]:
    """Check a run's record, tables (page checksums) and checkpoints (SHA-256), reading all of it.

    Returns one line per damaged file; an empty list means the run is whole.
    """
    from cutaway.runs import table as tables

    damages = []
    run = None
    try:
        run = Run.open(path)
    except UserError as error:
        damages.append(str(error))
    for name in tables.names(path):
        try:
            tables.read(path, name)
        except UserError as error:
            damages.append(str(error))
    if run is not None:
        for step in run.checkpoints.steps():
            try:
                run.checkpoints.verify(step)
            except UserError as error:
                damages.append(str(error))
    return damages
