"""The sinks of a run while it is written: told in order, dropped when they fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cutaway.base.errors import UserError

if TYPE_CHECKING:
    from cutaway.runs.sinks import Recording, Sink


class Audience:
    """The sinks that still listen. One that fails is told of by `notice`, once, and dropped."""

    def __init__(self, sinks: Sequence[Sink], notice: Callable[[str], None]):
        self._sinks = list(sinks)
        self._notice = notice

    def __len__(self) -> int:
        return len(self._sinks)

    def start(self, run: Recording) -> None:
        """The run begins or goes on. What a user can mend is raised now, as UserError."""
        wanted, self._sinks = self._sinks, []
        for sink in wanted:
            self._sinks.append(sink)
            try:
                sink.start(run)
            except UserError:
                self._sinks.remove(sink)
                raise
            except Exception as error:
                self._drop(sink, error)

    def tell(self, method: str, *values: Any) -> None:
        """Call a method of every sink; the run goes on whatever they do."""
        for sink in list(self._sinks):
            try:
                getattr(sink, method)(*values)
            except Exception as error:
                self._drop(sink, error)

    def _drop(self, sink: Sink, error: Exception) -> None:
        self._sinks.remove(sink)
        first = str(error).partition("\n")[0] or type(error).__name__
        self._notice(f"{type(sink).__name__} failed, the run goes on without it: {first}")
