"""`training_log.json`: losses and top words in one small file that other programs read too.

    {"iterations": [0, 100], "train_loss": [4.5, 3.2], "val_loss": [4.6, 3.3],
     "top_activating_words": [{"iteration": 100, "words": [
         {"token_id": 123, "word": "hello", "activation": 0.85}]}]}

It never grows past a set number of points; the Parquet history keeps all of them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cutaway.base import files
from cutaway.base.errors import UserError
from cutaway.base.files import as_path

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.runs.folder import Run
    from cutaway.runs.record import RunRecord

FILE = "training_log.json"
LOSSES = ("train_loss", "val_loss")
WORDS = "words"

T = TypeVar("T")


@dataclass
class TrainingLogData:
    """The content of a `training_log.json`; every loss and activation is finite."""

    iterations: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    top_activating_words: list[dict[str, Any]] = field(default_factory=list)


class TrainingLog:
    """A sink that keeps the file up to date: at every evaluation and every reading of words.

    An evaluation is a history row with both losses finite. A reading is what the table `words`
    gets at one step; a word's activation is its largest over senses, and the `max_words` largest
    are kept. Above `max_points` evaluations (or readings) they are thinned to every second,
    fourth, ... one, with the first and the last; the thinning is announced once.
    """

    def __init__(self, max_points: int = 1000, max_words: int = 50):
        self.max_points, self.max_words = max_points, max_words

    def start(self, run: Run) -> None:
        self._run = run
        self._losses: _Thinned[tuple[int, float, float]] | None = None

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        if values.get("val_loss") is None:
            return
        if self._losses is None:
            self._rebuild()
        else:
            self._evaluation(step, values)
        self._write()

    def table(self, name: str, table: pa.Table) -> None:
        if name != WORDS:
            return
        if self._losses is None:
            self._rebuild()
        else:
            self._readings(table)
        self._write()

    def finish(self, record: RunRecord) -> None:
        if self._losses is None:
            self._rebuild()
            self._write()

    def _rebuild(self) -> None:
        """Take everything from the run's tables, which hold what the sink was just told too."""
        self._losses = _Thinned(self.max_points)
        self._words: _Thinned[str] = _Thinned(self.max_points)
        history, words = self._run.read(), self._run.read(WORDS)
        if history is not None and {*LOSSES} <= {*history.column_names}:
            for row in history.select(["step", *LOSSES]).to_pylist():
                self._evaluation(row["step"], row)
        if words is not None:
            self._readings(words)

    def _evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        losses = [values.get(name) for name in LOSSES]
        if all(loss is not None and math.isfinite(loss) for loss in losses):
            self._losses.add((step, float(losses[0]), float(losses[1])))

    def _readings(self, table: pa.Table) -> None:
        for step, words in top_words(table, self.max_words):
            self._words.add(json.dumps({"iteration": step, "words": words}, ensure_ascii=False))

    def _write(self) -> None:
        points = self._losses.points()
        columns = dict(zip(("iterations", *LOSSES), zip(*points))) if points else {}
        lines = [f'"{key}": {json.dumps(columns.get(key, ()))}' for key in ("iterations", *LOSSES)]
        readings = ",\n".join(self._words.points())
        lines.append(f'"top_activating_words": [\n{readings}\n]')
        files.write_text(self._run.path / FILE, "{\n" + ",\n".join(lines) + "\n}\n")
        if self._losses.stride > 1 or self._words.stride > 1:
            self._run.notice(
                f"{FILE} keeps at most {self.max_points} points, thinned evenly; "
                "history.parquet keeps all"
            )


class _Thinned(Generic[T]):
    """At most `limit` of the items added: every `stride`-th from the first, and the last."""

    def __init__(self, limit: int):
        self.limit, self.stride = max(limit, 2), 1
        self._count = 0
        self._kept: list[T] = []
        self._last: list[T] = []

    def add(self, item: T) -> None:
        self._last = [item]
        if self._count % self.stride == 0:
            if len(self._kept) == self.limit - 1:
                self.stride *= 2
                self._kept = self._kept[::2]
            if self._count % self.stride == 0:
                self._kept.append(item)
                self._last = []
        self._count += 1

    def points(self) -> list[T]:
        return self._kept + self._last


def top_words(table: pa.Table, count: int) -> list[tuple[int, list[dict[str, Any]]]]:
    """Per step of a `words` table, its `count` words of largest activation, largest first.

    A word's activation is its largest over senses. Words whose activation is not finite are left
    out. Returns (step, [{token_id, word, activation}]), steps in order.
    """
    steps: dict[int, dict[int, tuple[float, str]]] = {}
    columns = table.select(["step", "token_id", "word", "activation"]).to_pydict().values()
    for step, token, word, activation in zip(*columns):
        best = steps.setdefault(step, {})
        finite = activation is not None and math.isfinite(activation)
        if finite and (token not in best or activation > best[token][0]):
            best[token] = (activation, word)
    return [
        (
            step,
            [
                {"token_id": token, "word": word, "activation": activation}
                for token, (activation, word) in sorted(
                    best.items(), key=lambda item: (-item[1][0], item[0])
                )[:count]
            ],
        )
        for step, best in sorted(steps.items())
    ]


def read_training_log(path: str | os.PathLike[str]) -> TrainingLogData:
    """A `training_log.json`, written by anyone. `UserError` names the key and place of a mistake.

    `top_activating_words` may be missing; the three lists may not, and are equally long.
    """
    try:
        content = files.read_json(as_path(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None
    except ValueError as error:
        what = "is empty" if not Path(path).stat().st_size else f"not JSON: {error}"
        raise UserError(f"{path}: {what}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object with the key 'iterations'")
    lists = {key: _list(content, key, path) for key in ("iterations", *LOSSES)}
    lengths = {key: len(values) for key, values in lists.items()}
    if len({*lengths.values()}) > 1:
        told = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise UserError(f"{path}: lists of uneven length: {told}")
    iterations = [_whole(n, f"{path}: iterations[{i}]") for i, n in enumerate(lists["iterations"])]
    losses = [
        [
            _finite(value, f"{path}: {key}[{i}] (iteration {iterations[i]})")
            for i, value in enumerate(lists[key])
        ]
        for key in LOSSES
    ]
    words = content.get("top_activating_words", [])
    if not isinstance(words, list):
        raise UserError(f"{path}: top_activating_words: expected a list, found {_kind(words)}")
    readings = [_reading(one, f"{path}: top_activating_words[{i}]") for i, one in enumerate(words)]
    return TrainingLogData(iterations, *losses, readings)


def is_other_json(path: Path) -> bool:
    """Whether a .json file is a history of another form: a list, or a trainer's state."""
    if path.suffix.lower() != ".json":
        return False
    try:
        content = files.read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(content, list) or (isinstance(content, dict) and "log_history" in content)


def _list(content: Mapping[str, Any], key: str, path: str | os.PathLike[str]) -> Sequence[Any]:
    if key not in content:
        raise UserError(
            f"{path}: has no {key!r}; a training log has iterations, train_loss, val_loss"
        )
    if not isinstance(content[key], list):
        raise UserError(f"{path}: {key}: expected a list, found {_kind(content[key])}")
    return content[key]


def _reading(one: Any, place: str) -> dict[str, Any]:
    if not isinstance(one, dict) or not {"iteration", "words"} <= one.keys():
        raise UserError(f"{place}: expected an object with iteration and words")
    if not isinstance(one["words"], list):
        raise UserError(f"{place}.words: expected a list, found {_kind(one['words'])}")
    iteration = _whole(one["iteration"], f"{place}.iteration")
    return {
        "iteration": iteration,
        "words": [_word(word, f"{place}.words[{i}]") for i, word in enumerate(one["words"])],
    }


def _word(word: Any, place: str) -> dict[str, Any]:
    if not isinstance(word, dict) or not {"token_id", "word", "activation"} <= word.keys():
        raise UserError(f"{place}: expected an object with token_id, word and activation")
    if not isinstance(word["word"], str):
        raise UserError(f"{place}.word: expected text, found {_kind(word['word'])}")
    return {
        "token_id": _whole(word["token_id"], f"{place}.token_id"),
        "word": word["word"].encode("utf-8", "replace").decode(),  # half characters: \\ud800
        "activation": _finite(word["activation"], f"{place}.activation"),
    }


def _whole(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise UserError(f"{place}: expected a whole number, found {_kind(value)}")
    return int(value)


def _finite(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{place}: expected a number, found {_kind(value)}")
    if not math.isfinite(value):
        raise UserError(f"{place}: is {value}; a log with such a loss cannot be drawn")
    return float(value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: f"the text {value!r}", type(None): "null"}
    return names.get(type(value), str(value))
