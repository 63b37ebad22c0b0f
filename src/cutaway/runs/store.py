"""All runs under one root: listing them, and SQL over everything they recorded.

The folders are the truth: there is no index and no shared database to keep in step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.base import files
from cutaway.base.display import notice, readable_path
from cutaway.base.doors import door
from cutaway.base.errors import UserError
from cutaway.runs import record, verifying
from cutaway.runs.finding import Found, find_all, unknown
from cutaway.runs.folder import Run
from cutaway.runs.record import RunRecord
from cutaway.runs.status import derived_status

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.runs.query import Queries


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


def verify(path: Path) -> list[str]:
    """A line per damaged file of a run; an empty list means the run is whole (see `verifying`)."""
    return verifying.verify(path).damages
