"""All runs under one root: listing them, and SQL over everything they recorded.

The folders are the truth: there is no index and no shared database to keep in step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.base import files
from cutaway.base.display import notice, readable_path
from cutaway.base.doors import door
from cutaway.base.errors import UserError, nearest
from cutaway.base.files import as_path
from cutaway.runs import record
from cutaway.runs.folder import Run, derived_status
from cutaway.runs.names import is_table_name
from cutaway.runs.record import RunRecord

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.runs.query import Queries

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


class RunStore:
    """The runs under `root`. Cheap to make; what it lists is what is there at that moment.

    Damaged files are reported once per store as notices on stderr, and skipped.
    """

    def __init__(self, root: str | os.PathLike[str] = "runs"):
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"{self.root}: is a file, not a folder of runs")
        self._queries: Queries | None = None
        self._records: dict[Path, tuple[tuple[int, int, int], RunRecord]] = {}
        self._told: set[str] = set()

    def runs(self) -> list[RunRecord]:
        """Every run's record in the order they began; `name` is the path under the root.

        `status` is the derived one: `interrupted` for a run whose process is gone.
        """
        return sorted(
            (content for _, content in self._readable()), key=lambda r: (r.started, r.name)
        )

    @door
    def run(self, name: str) -> Run:
        """The run of that name, for reading. `UserError` names the nearest."""
        return Run.open(self._folder(name))

    @door
    def sql(self, query: str) -> pa.Table:
        """The answer to one SELECT over the views `runs`, `history` and one per other table.

        `runs` has a row per run: `run`, `study`, `status`, ..., and `config` and `metrics` whose
        fields are read with a dot (`config.learning_rate`). The others have a column `run` and
        every column any run has, null where a run lacks it. Floats that are not finite are null
        too, and the map `not_finite` has them (column → NaN, Infinity or -Infinity), so that none
        wins a `max` or an `ORDER BY`; the tables of the schema `raw` (`raw.history`) have every value
        as recorded. An answer counts only if no file was replaced while it was read.

        A query can read nothing outside the root and write nothing anywhere. Raises `UserError` with
        the first line of what is wrong.
        """
        from cutaway.runs import query as queries

        queries.require_select(query)
        if not files.is_utf8(os.path.abspath(self.root)):
            raise UserError(
                f"{readable_path(self.root)}: SQL needs a folder whose whole path is UTF-8; rename it"
            )
        if self._queries is None:
            self._queries = queries.Queries(self.root, self._tell)
        return self._queries.answer(query, self._readable)

    @door
    def verify(self, name: str) -> list[str]:
        """Read every byte of a run and check it; one line per file that is damaged."""
        return verify(self._folder(name))

    # -- inside ----------------------------------------------------------------------------

    def _folder(self, name: str) -> Path:
        if (self.root / name / record.FILE).is_file():
            return self.root / name
        for found in find_all(self.root):  # a name that is not UTF-8 is listed as text
            if found.name == name:
                return found.path
        raise unknown(name, self.root)

    def _readable(self) -> Iterator[tuple[Found, RunRecord]]:
        for found in find_all(self.root, self._tell):
            try:
                yield found, self._record(found)
            except UserError as error:
                self._tell(f"{error}; skipped")
            except Exception as error:  # one odd run: named and left out
                self._tell(f"{readable_path(found.path)}: {type(error).__name__}: {error}; skipped")

    def _record(self, found: Found) -> RunRecord:
        known = self._records.get(found.path)
        if known is None or known[0] != found.stamp:
            known = (found.stamp, record.read(found.path))
            self._records[found.path] = known
        status = derived_status(known[1], found.path)
        return known[1].model_copy(update={"name": found.name, "status": status})

    def _tell(self, message: str) -> None:
        message = " ".join(readable_path(message).split("\n"))
        if message not in self._told:
            self._told.add(message)
            notice(message)


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


def verify(path: Path) -> list[str]:
    """A line per damaged file of a run; an empty list means the run is whole (see `verifying`)."""
    from cutaway.runs import verifying

    return verifying.verify(path).damages
