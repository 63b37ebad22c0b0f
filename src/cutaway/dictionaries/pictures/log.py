"""What pictures draw from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


class Log(Protocol):
    """What a picture needs of a run or of a training log (`cutaway.runs.foreign.Log` has it)."""

    @property
    def name(self) -> str: ...
    @property
    def history(self) -> pa.Table: ...
    @property
    def path(self) -> Path: ...
