"""Rows kept as tensors and turned into numbers together: one synchronisation per flush."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.base import hardware

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.runs.folder import Run

FLUSH_SECONDS = 1.0


class Recorder:
    """Takes rows whose values are numbers or tensors, () or (members,); writes them to the runs.

    `told` is handed every row of the first member when it is written.
    """

    def __init__(
        self, runs: Sequence[Run], told: Callable[[dict[str, float]], None] = lambda row: None
    ):
        self.runs, self.told = runs, told
        self.everyone = range(len(runs))
        self.pending: list[tuple[int, dict[str, Tensor | float], Collection[int]]] = []
        self.tables: list[tuple[str, list[pa.Table], Collection[int]]] = []
        self.until: list[float] = [math.inf] * len(runs)  # the last step recorded of each member
        self._latest: list[dict[str, float]] = [{} for _ in runs]
        self.flushed = time.monotonic()

    def row(
        self,
        step: int,
        values: Mapping[str, Tensor | float],
        members: Collection[int] | None = None,
    ) -> None:
        """Everything recorded about one step, of all members or some; the tensors are read later."""
        kept = {k: v.detach() if isinstance(v, Tensor) else v for k, v in values.items()}
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.numel() not in (1, len(self.runs)):
                raise ValueError(
                    f"{name} at step {step}: {value.numel()} values for {len(self.runs)} runs"
                )
        self.pending.append((step, kept, self.everyone if members is None else members))

    def table(
        self,
        name: str,
        table: pa.Table | list[pa.Table],
        members: Collection[int] | None = None,
    ) -> None:
        """Rows of an instrument's own table, one for all members or one for each; `members` get it."""
        tables = table if isinstance(table, list) else [table] * len(self.runs)
        self.tables.append((name, tables, self.everyone if members is None else members))

    def latest(self, member: int) -> dict[str, float]:
        """The newest value of every figure of one member."""
        return self._latest[member]

    def stop(self, member: int, step: int) -> None:
        """Record nothing more of a member after `step`: it ended, or was no number any more."""
        self.until[member] = min(self.until[member], step)

    @property
    def due(self) -> bool:
        """Whether rows have waited long enough for those who watch."""
        return time.monotonic() - self.flushed > FLUSH_SECONDS

    def flush(self) -> None:
        """Write all pending rows, in order, to each member's run."""
        # taken out first: a second Ctrl-C in the middle must not write them twice
        pending, self.pending = self.pending, []
        tables, self.tables = self.tables, []
        tensors = [
            v.reshape(-1) for _, row, _ in pending for v in row.values() if isinstance(v, Tensor)
        ]
        wide = hardware.wide(tensors[0].device) if tensors else torch.float64
        numbers = torch.cat([t.to(wide) for t in tensors]).tolist() if tensors else []
        rows: list[list[dict[str, float]]] = [[] for _ in self.runs]
        position = 0
        for step, row, members in pending:
            out: list[dict[str, float]] = [{"step": step} for _ in self.runs]
            for key, value in row.items():
                if isinstance(value, Tensor):
                    count = value.numel()
                    values = numbers[position : position + count]
                    position += count
                else:
                    count, values = 1, [value]
                for member, into in enumerate(out):
                    into[key] = values[member if count > 1 else 0]
            for member, into in enumerate(out):
                if member in members and step <= self.until[member]:
                    rows[member].append(into)
        for member, (run, run_rows) in enumerate(zip(self.runs, rows, strict=True)):
            if run_rows:
                run.append(run_rows)
            for name, each, members in tables:
                table = each[member]
                last = max(table["step"].to_pylist(), default=0)
                if member in members and last <= self.until[member]:
                    run.append_table(name, table)
        for latest, run_rows in zip(self._latest, rows, strict=True):
            for row in run_rows:
                latest.update(row)
        for row in rows[0]:
            self.told(row)
        self.flushed = time.monotonic()
