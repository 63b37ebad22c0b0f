"""Where a run's figures also go while it trains: Weights & Biases, TensorBoard.

Both packages are extras, imported when a sink is made. A sink that fails is dropped by the run
with one notice; training never stops for it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cutaway.base import files
from cutaway.base.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.runs.record import RunRecord


# text in quotes, or all up to a comment; an empty one is neither
_VALUE = re.compile(
    r"""(?P<quote>["'])(?P<quoted>.*?)(?P=quote)\s*(?:#.*)?$|(?P<bare>.*?)(?:(?:^|\s+)#.*)?$"""
)


class Recording(Protocol):
    """What a sink needs of the run that it is told of (`folder.Run` has it)."""

    path: Path
    record: RunRecord

    @property
    def name(self) -> str:
        """The run's name."""
        ...


class Sink(Protocol):
    """Told of everything a run records, in order."""

    def start(self, run: Recording) -> None:
        """The run begins or goes on; its folder and record are there.

        When a run goes on, its tables may still hold rows that the next `log` replaces.
        """

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """A row was added to the history."""

    def table(self, name: str, table: pa.Table) -> None:
        """Rows were added to an instrument's table."""

    def finish(self, record: RunRecord) -> None:
        """The run ended, well or not: `record.status` says how."""


class WandbSink:
    """Weights & Biases. A resumed run goes on under the same id, which its folder remembers.

    The key is that of `wandb login` or the environment; where the environment has none, that of a
    file `.env` in the working directory, for this run only: it is written nowhere.
    """

    def __init__(
        self,
        project: str = "cutaway",
        group: str | None = None,
        mode: Literal["online", "offline"] = "online",
    ):
        _require("wandb", "wandb")
        self.project, self.group, self.mode = project, group, mode

    def start(self, run: Recording) -> None:
        import wandb

        folder = run.path / "wandb"
        folder.mkdir(exist_ok=True)
        remembered = folder / "id"
        known = remembered.exists()
        if not known:
            files.write_text(remembered, secrets.token_hex(4) + "\n")
        try:
            self._run = wandb.init(
                project=self.project,
                group=self.group,
                mode=self.mode,
                dir=run.path,
                id=remembered.read_text().strip(),
                resume="allow" if known and self.mode == "online" else None,
                name=run.name,
                job_type=run.record.study,
                config=run.record.config | {"cutaway": run.record.versions.get("cutaway")},
                reinit="create_new",
                settings=wandb.Settings(
                    console="off", silent=True, disable_code=True, api_key=self._key()
                ),
            )
        except wandb.errors.UsageError as error:  # most often: no key on this machine
            raise UserError(f"Weights & Biases: {error}") from None

    def _key(self) -> str | None:
        """The key to hand over; None where Weights & Biases is to look for it itself."""
        name = "WANDB_API_KEY"
        if self.mode != "online" or os.environ.get(name):
            return None
        return _dotenv(Path(".env")).get(name)

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        self._run.log({key: value for key, value in values.items() if value is not None}, step=step)

    def table(self, name: str, table: pa.Table) -> None:
        import wandb

        rows = [list(row.values()) for row in table.to_pylist()]
        # W&B takes steps in rising order only, and the history may be ahead of the instrument.
        step = max([self._run.step, *table["step"].to_pylist()])
        self._run.log({name: wandb.Table(columns=table.column_names, data=rows)}, step=step)

    def finish(self, record: RunRecord) -> None:
        self._run.summary.update({**record.metrics, "status": record.status})
        self._run.finish(exit_code=0 if record.status == "done" else 1)


class TensorBoardSink:
    """TensorBoard events in the run's folder `tensorboard/`. It has no place for tables."""

    def __init__(self) -> None:
        _require("tensorboard", "tensorboard")
        self._writer: Any = None

    def start(self, run: Recording) -> None:
        self._folder = run.path / "tensorboard"

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # Events of steps that are trained again are withdrawn.
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def table(self, name: str, table: pa.Table) -> None:
        return

    def finish(self, record: RunRecord) -> None:
        if self._writer is not None:
            self._writer.close()


def _dotenv(path: Path) -> dict[str, str]:
    """The `KEY=VALUE` lines of a file (also `export KEY=VALUE`) without quotes and comments; empty
    without it."""
    try:
        lines = files.read_text(path).splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    found = {}
    for line in lines:
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        bare, quoted = _VALUE.match(value.strip()).group("bare", "quoted")
        value = quoted if bare is None else bare
        if equals and value and not name.startswith("#"):
            found[name.strip()] = value
    return found


def _require(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{package} is not installed: pip install 'cutaway[{extra}]'")
