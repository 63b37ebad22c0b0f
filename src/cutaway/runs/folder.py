"""A run's folder: one process writes it, anyone reads it, at any time.

run.json          the record                config.yaml     the configuration, for people
history.parquet   one row per recorded step; every other *.parquet is an instrument's table
checkpoints/      weights and state         figures/        pictures
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cutaway.base import display, files
from cutaway.base.errors import RunFailed, UserError
from cutaway.runs import config_file, lock, record
from cutaway.runs.audience import Audience
from cutaway.runs.checkpoint import Checkpoints
from cutaway.runs.record import RunRecord, Status

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.runs.sinks import Sink
    from cutaway.runs.table import Table

HISTORY = "history"


class Run:
    """One run. Make it with `create`, `resume` or `open`; it is a context manager that closes.

    The writer's `record` is the truth; `save_record` puts it on the disk. Values given to
    `append` must be numbers. A sink that fails is announced once and dropped: training goes on.
    """

    def __init__(
        self, path: Path, content: RunRecord, held: lock.RunLock | None, sinks: Sequence[Sink]
    ):
        self.path, self.record = path, content
        self._lock = held
        self._audience = Audience(sinks, self.notice)
        self._tables: dict[str, Table] = {}
        self._seconds_before = content.seconds
        self._since = time.monotonic()
        self.checkpoints = Checkpoints(path / "checkpoints", before_save=self._before_checkpoint)

    # -- ways to a run ---------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        study: str,
        config: Mapping[str, Any],
        seed: int = 0,
        steps_planned: int = 0,
        parents: Sequence[Mapping[str, Any]] = (),
        resolved: Mapping[str, Any] | None = None,
        sinks: Sequence[Sink] = (),
    ) -> Run:
        """A new run in `folder`, which must be missing or empty, taken by this process.

        Raises `UserError`, leaving nothing behind, for a folder in use, a config JSON cannot
        hold, or a disk that refuses.
        """
        path = Path(folder).absolute()
        settings = record.json_ready(dict(config), "config")
        resolved = record.json_ready(dict(resolved or {}), "resolved")
        cls.require_free(path)
        content = record.new(
            path.name,
            study,
            config=settings,
            resolved=resolved,
            device=resolved.get("device"),
            seed=seed,
            steps_planned=steps_planned,
            parents=record.json_ready([dict(parent) for parent in parents], "parents"),
        )
        missing = [place for place in (path, *path.parents) if not place.exists()]
        held = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            held = lock.RunLock(path, content.started)
            cls.require_free(path)  # another process may have been quicker
            try:
                record.write(content, path)
                files.write_text(path / "config.yaml", config_file.text(content))
            except OSError:
                for made in (record.FILE, "config.yaml", lock.OWNER, lock.LOCK):
                    (path / made).unlink(missing_ok=True)
                raise
        except (OSError, UserError) as error:
            if held:
                held.release()
            for place in missing:
                with contextlib.suppress(OSError):  # another run is in it by now
                    place.rmdir()
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path}: cannot write: {error.strerror or error}") from None
        run = cls(path, content, held, sinks)
        try:
            return run._started()
        except Exception:  # a sink refused to start: the run never was
            cls.remove(path)
            raise

    @classmethod
    def resume(cls, folder: str | Path, *, sinks: Sequence[Sink] = ()) -> Run:
        """The run in `folder`, taken by this process to go on. `UserError` while another has it."""
        path = Path(folder).absolute()
        record.read(path)
        try:
            held = lock.RunLock(path, record.now())
        except OSError as error:
            raise UserError(f"{path}: cannot write: {error.strerror or error}") from None
        try:
            for leftover in path.glob(".*.tmp"):  # of a write that a kill cut off
                leftover.unlink()
            run = cls(path, record.read(path), held, sinks)
            fresh = record.new(run.name, run.record.study)
            run.save_record(
                status="running",
                reason=None,
                finished=None,
                **{key: getattr(fresh, key) for key in ("versions", "git_commit", "host", "pid")},
            )
            for name in run.tables():
                if (path / f"{name}.live").is_dir():
                    run._table(name)
        except OSError as error:
            held.release()
            raise UserError(f"{path}: cannot write: {error.strerror or error}") from None
        except BaseException:
            held.release()
            raise
        return run._started()

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """The run in `folder`, for reading. `UserError` where there is none."""
        path = Path(folder).absolute()
        return cls(path, record.read(path), None, ())

    @classmethod
    def mark_interrupted(cls, folder: str | Path, reason: str) -> None:
        """Write down why a run ended whose process is gone and could not say so itself.

        Leaves a run alone that another process has, that ended by itself or that refuses to be
        written: such a run reads as `interrupted` in any case, without a reason.
        """
        path = Path(folder).absolute()
        with contextlib.suppress(OSError, UserError):
            held = lock.RunLock(path, record.now())
            try:
                content = record.read(path)
                if content.status == "running":
                    changes = {"status": "interrupted", "reason": reason}
                    record.write(content.model_copy(update=changes), path)
            finally:
                held.release()

    @classmethod
    def require_free(cls, folder: str | Path) -> None:
        """Refuse a folder that a new run cannot have: it holds a run, other things, or is a file."""
        path = Path(folder).absolute()
        if not path.exists():
            return
        if not path.is_dir():
            raise UserError(f"{path}: is a file, not a folder")
        if (path / record.FILE).exists():
            if lock.alive(path):
                owner = lock.read_owner(path)
                if owner and owner.pid != os.getpid():
                    raise UserError(f"{path}: this run is being written by {owner}")
            raise UserError(
                f"{path}: holds another run; go on with it by --resume, or choose another --out"
            )
        if others := sorted(entry.name for entry in path.iterdir() if not _ours(entry.name)):
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise UserError(f"{path}: is not empty (holds {others[0]}{more}) and holds no run")

    @classmethod
    def require_removable(cls, folder: str | Path) -> None:
        """Refuse to delete a run that is being written, or whose folder holds other runs."""
        from cutaway.runs.store import find_all

        path = Path(folder).absolute()
        if lock.alive(path):
            raise UserError(f"{path}: is being written by {lock.read_owner(path)}; not deleted")
        if others := [found.name for found in find_all(path) if found.path != path]:
            raise UserError(f"{path}: holds other runs ({others[0]}, ...); not deleted")

    @classmethod
    def remove(cls, folder: str | Path) -> None:
        """Delete a run with everything in its folder; nobody can begin to write it meanwhile."""
        cls.require_removable(folder)
        path = Path(folder).absolute()
        held = lock.RunLock(path, record.now())
        try:
            doomed = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            path.rename(doomed)  # never half a run under its name
            shutil.rmtree(doomed)
        except OSError as error:
            raise UserError(f"{path}: cannot delete: {error.strerror or error}") from None
        finally:
            held.release()

    # -- what it is ------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The folder's name: a run that was moved or copied goes by the new one."""
        return self.path.name

    @property
    def status(self) -> Status:
        """How it stands; `interrupted` where the record says running but its process is gone."""
        return derived_status(self.record, self.path)

    @property
    def seconds(self) -> float:
        """Time spent in this run, over all its resumes."""
        running = time.monotonic() - self._since if self._lock else 0.0
        return self._seconds_before + running

    # -- tables ----------------------------------------------------------------------------

    def append(
        self, rows: Sequence[Mapping[str, float | int | None]], table: str = HISTORY
    ) -> None:
        """Add rows of numbers, each with an integer `step`; None and missing keys become null."""
        self._table(table).append(rows)
        if table == HISTORY and self._audience:
            for row in rows:
                values = {key: value for key, value in row.items() if key != "step"}
                self._audience.tell("log", row["step"], values)

    def append_table(self, name: str, table: pa.Table) -> None:
        """Add to an instrument's table: any column types, with an integer column `step`."""
        self._table(name).append_table(table)
        self._audience.tell("table", name, table)

    def truncate(self, step: int, tables: Iterable[str] | None = None) -> None:
        """Keep only rows before `step` in every table, or those named: what a resume from checkpoint
        `step` needs."""
        for name in self.tables():
            if tables is None or name in tables:
                self._table(name).truncate(step)

    def read(self, table: str = HISTORY) -> pa.Table | None:
        """All rows so far, also of a run that is being written; None where there are none."""
        from cutaway.runs import table as tables

        return tables.read(self.path, table)

    def tables(self) -> list[str]:
        """Names of the tables the run has."""
        from cutaway.runs import table as tables

        return tables.names(self.path)

    # -- the record ------------------------------------------------------------------------

    def save_record(self, **changes: Any) -> None:
        """Change fields of the record and put it on the disk, atomically; `config` also as YAML.

        `seconds`, where not given, goes on from its last value by the time since.
        """
        self._writer()
        if unknown := changes.keys() - RunRecord.model_fields.keys():
            raise TypeError(f"a run's record has no field {sorted(unknown)[0]!r}")
        changes.setdefault("seconds", self.seconds)
        self._seconds_before, self._since = changes["seconds"], time.monotonic()
        self.record = RunRecord.model_validate({**self.record.model_dump(), **changes})
        if "config" in changes:  # first, as the record is what a resume goes by
            files.write_text(self.path / "config.yaml", config_file.text(self.record))
        record.write(self.record, self.path)

    def notice(self, message: str) -> None:
        """Tell the user something once, and keep it in the record (on the disk at its next save)."""
        if message not in self.record.notices:
            display.notice(message)
            self.record.notices.append(message)

    def finish(self, metrics: Mapping[str, float]) -> None:
        """The run came to its end: status done, with its final figures.

        Raises RunFailed, and the run is a failed one, where that could not be written down.
        """
        error = self._end("done", None, metrics=dict(metrics))
        if error is not None:
            reason = f"{self.path}: the record could not be saved: {error.strerror or error}"
            self._end("failed", reason)
            raise RunFailed(reason)

    def fail(self, reason: str, step: int | None = None) -> None:
        """The run failed, at `step` where it was one."""
        changes = {}
        if step is not None:
            reason = f"step {step}: {reason}"
            changes["steps_attempted"] = max(self.record.steps_attempted, step + 1)
        self._end("failed", reason, **changes)

    def interrupt(self, signal_name: str) -> None:
        """A signal asked the run to stop; `signal_name` (`SIGINT`) becomes the reason."""
        self._end("interrupted", signal_name)

    def close(self) -> None:
        """Fold the tables and let others write; does nothing the second time."""
        if self._lock:
            self._close_tables()
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- inside ----------------------------------------------------------------------------

    def _started(self) -> Run:
        """Start the sinks. What a user can mend is refused now; anything else is announced."""
        try:
            self._audience.start(self)
        except BaseException as error:
            self.fail(str(error))
            self.close()
            raise
        return self

    def _writer(self) -> None:
        if self._lock is None:
            raise RuntimeError(f"run {self.name} is open for reading only")

    def _table(self, name: str) -> Table:
        from cutaway.runs import table as tables

        self._writer()
        if name not in self._tables:
            tables.check_name(name)
            try:
                self._tables[name] = tables.Table(self.path, name)
            except OSError as error:
                raise UserError(f"{self.path}: cannot write: {error.strerror or error}") from None
        return self._tables[name]

    def _before_checkpoint(self) -> None:
        """Rows and record must not be behind a checkpoint, whatever happens next."""
        for table in self._tables.values():
            table.sync()
        self.save_record()

    def _close_tables(self) -> None:
        for name, table in list(self._tables.items()):
            try:
                table.close()
            except Exception as error:  # a full disk: what is there stays readable as it is
                self.notice(f"{self.name}: table {name} was left in parts: {error}")
            del self._tables[name]

    def _end(self, status: Status, reason: str | None, **changes: Any) -> OSError | None:
        """The run's last word, and what kept it from the disk."""
        self._writer()
        self._close_tables()
        changes |= {"status": status, "reason": reason, "finished": record.now()}
        try:
            self.save_record(**changes)
        except OSError as error:
            self.notice(f"{self.path}: the record could not be saved: {error.strerror or error}")
            return error
        self._audience.tell("finish", self.record)
        return None


def _ours(name: str) -> bool:
    """Whether a file is what a `create` killed before its first word leaves."""
    return name in (lock.LOCK, lock.OWNER) or (name[0] == "." and name.endswith(".tmp"))


def derived_status(content: RunRecord, path: Path) -> Status:
    """The record's status, except that a run whose process is gone is `interrupted`."""
    if content.status == "running" and not lock.alive(path):
        return "interrupted"
    return content.status
