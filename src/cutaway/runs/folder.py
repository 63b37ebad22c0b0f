"""A run's folder: one process writes it, anyone reads it, at any time.

run.json          the record                config.yaml     the configuration, for people
history.parquet   one row per recorded step; every other *.parquet is an instrument's table
checkpoints/      weights and state         figures/        pictures
checksums.json    size and SHA-256 of every file, once the run's life has ended
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cutaway.base import display, files, signals
from cutaway.base.display import readable_path
from cutaway.base.doors import door
from cutaway.base.errors import CutawayError, RunFailed, UserError
from cutaway.runs import checksums, config_file, lock, places, record
from cutaway.runs.audience import Audience
from cutaway.runs.checkpoint import Checkpoints
from cutaway.runs.record import RunRecord, Status
from cutaway.runs.status import derived_status, mark_interrupted

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.runs.sinks import Sink
    from cutaway.runs.table import Table

HISTORY = "history"


class Run:
    """One run. Make it with `create`, `resume` or `open`; it is a context manager that closes.

    The writer's `record` is the truth; `save_record` puts it on the disk. Values given to
    `append` must be numbers. A sink that fails is announced once and dropped: training goes on.
    `known` takes checksums of large files, by path in the folder, so that they are not read again
    when the run's life ends and `checksums.json` is written; those of checkpoints are known.
    """

    def __init__(
        self, path: Path, content: RunRecord, held: lock.RunLock | None, sinks: Sequence[Sink]
    ):
        self.path, self.record = path, content
        self._lock = held
        self._audience = Audience(sinks, self.notice)
        self._tables: dict[str, Table] = {}
        self.known: dict[str, checksums.Entry] = {}
        self._seconds_before = content.seconds
        self._since = time.monotonic()
        self.checkpoints = Checkpoints(path / "checkpoints", before_save=self._before_checkpoint)

    # -- ways to a run ---------------------------------------------------------------------

    @classmethod
    @door
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
        if not all(isinstance(parent, Mapping) for parent in parents):
            raise TypeError("parents: expected mappings")
        settings = record.json_ready(dict(config), "config")
        resolved = record.json_ready(dict(resolved or {}), "resolved")
        cls.require_free(path)
        content = record.new(
            readable_path(path.name),
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
            files.clear_leftovers(path.parent, path.name)
            held = lock.RunLock(path, content.started)
            files.clear_leftovers(path)
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
    @door
    def resume(cls, folder: str | Path, *, sinks: Sequence[Sink] = ()) -> Run:
        """The run in `folder`, taken by this process to go on. `UserError` while another has it."""
        path = Path(folder).absolute()
        record.read(path)
        try:
            held = lock.RunLock(path, record.now())
        except OSError as error:
            raise UserError(f"{path}: cannot write: {error.strerror or error}") from None
        try:
            files.clear_leftovers(path)  # of writes that a kill cut off
            run = cls(path, record.read(path), held, sinks)
            fresh = record.new(run.name, run.record.study)
            run.save_record(
                status="running",
                reason=None,
                finished=None,
                checksums=None,
                **{key: getattr(fresh, key) for key in ("versions", "git_commit", "host", "pid")},
            )
            checksums.forget(path)  # of the life that had ended
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
    @door
    def open(cls, folder: str | Path) -> Run:
        """The run in `folder`, for reading. `UserError` where there is none."""
        path = Path(folder).absolute()
        return cls(path, record.read(path), None, ())

    mark_interrupted = staticmethod(mark_interrupted)
    require_free = staticmethod(places.require_free)
    require_removable = staticmethod(places.require_removable)
    remove = staticmethod(places.remove)

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

    @door
    def read(self, table: str = HISTORY) -> pa.Table | None:
        """All rows so far, also of a run that is being written; None where there are none."""
        from cutaway.runs import table as tables

        if "\0" in table:
            raise UserError(f"table = {table!r}: expected a name without NUL characters")
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
            if self.record.status != "running" and not (self.path / checksums.FILE).exists():
                self._seal()  # a resume that was refused took the list away
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
        if self._lock and error is not None and self.record.status == "running":
            if isinstance(error, KeyboardInterrupt):
                self.interrupt(signals.name_of(error))
            elif isinstance(error, Exception) and not isinstance(error, UserError):
                reason = str(error).partition("\n")[0]
                known = isinstance(error, CutawayError | OSError) and reason
                self.fail(reason if known else f"{kind.__name__}: {reason}")
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
        self._seal()
        return None

    def _seal(self) -> None:
        """Write `checksums.json` over all there is, and say in the record that there is one.

        The record comes after the list, which is told of it: a kill between the two leaves a record
        that does not speak of a list.
        """
        try:
            files.clear_leftovers(self.path)
            known = {**self.known, **self.checkpoints.recorded()}
            checksums.seal(self.path, known, without=record.FILE)
            self.save_record(checksums=checksums.FILE)
        except OSError as error:
            self.record.checksums = None
            with contextlib.suppress(OSError):
                checksums.forget(self.path)
            self.notice(f"{self.path}: no checksums could be saved: {error.strerror or error}")
