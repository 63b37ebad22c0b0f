"""What a room offers to train: how a config becomes a task with its instruments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cutaway.studies.settings import StudyConfig

if TYPE_CHECKING:
    from cutaway.runs.folder import Run
    from cutaway.runs.sinks import Sink
    from cutaway.training.config import LoopConfig
    from cutaway.training.instruments import Instrument
    from cutaway.training.task import Task

C = TypeVar("C", bound=StudyConfig)


@dataclass
class Prepared:
    """Everything a training needs, made and checked before anything is written.

    `loop` are the loop's settings where they hang on the data; else the config's are taken.
    `parents` says what the run is made from (data, models) with content hashes; `write` puts
    what belongs beside the weights (a tokenizer) into the new run's folder.
    """

    task: Task
    loop: LoopConfig | None = None
    instruments: Sequence[Instrument] = ()
    sinks: Sequence[Sink] = ()
    parents: Sequence[dict[str, Any]] = ()
    resolved: dict[str, Any] = field(default_factory=dict)
    notices: Sequence[str] = ()
    write: Callable[[Path], None] = lambda folder: None


class Study(Generic[C]):
    """A kind of training. `name` is its key in the registry, `headline` the final figures told
    when a run ends, `remarks` what is told behind one of them: of which decision it is."""

    name: str
    headline: Sequence[str] = ()
    remarks: Mapping[str, str] = {}

    def prepare(self, config: C) -> Prepared:
        """Read, check and build everything; raises UserError for what cannot work."""
        raise TypeError(f"{type(self).__name__} does not say how to prepare")

    def architecture(self, config: C) -> dict[str, Any]:
        """What `nets.build` needs to make the network of these settings."""
        raise TypeError(f"{type(self).__name__} does not say what it builds")

    def parameters(self, config: C) -> dict[str, int]:
        """Parameters by component of what these settings would train; nothing is built."""
        from cutaway.nets.parameters import parameters_of

        return parameters_of(self.architecture(config))

    def prepare_together(self, configs: Sequence[C]) -> list[Prepared]:
        """One stacked task for runs of one key, in every Prepared; the rest is each run's own."""
        raise TypeError(f"{type(self).__name__} does not stack runs")

    def advise(self, run: Run, config: C) -> list[str]:
        """What the finished run shows that its owner should know, each with the field to change."""
        return []
