"""Sinks get everything that is recorded, and cannot hurt the run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cutaway.base.errors import UserError
from cutaway.runs import Run, TensorBoardSink, WandbSink


class Notebook:
    """A sink that remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def start(self, run: Run) -> None:
        self.told.append(("start", run.name))

    def log(self, step: int, values: dict) -> None:
        self.told.append(("log", step, values))

    def table(self, name: str, table: pa.Table) -> None:
        self.told.append(("table", name, len(table)))

    def finish(self, record: Any) -> None:
        self.told.append(("finish", record.status, record.metrics))


class Broken(Notebook):
    """A sink whose network has gone."""

    def log(self, step: int, values: dict) -> None:
        raise ConnectionError("no route\nto host")


class Unstartable(Notebook):
    """A sink the user has to set up first."""

    def start(self, run: Run) -> None:
        raise UserError("log in first")


def test_a_sink_is_told_everything_in_order(make: Callable[..., Run]) -> None:
    book = Notebook()
    run = make(sinks=[book])
    run.append([{"step": 0, "loss": 1.0}, {"step": 1, "loss": None}])
    run.append([{"step": 1, "x": 1.0}], "other")
    run.append_table("words", pa.table({"step": [1, 1]}))
    run.finish({"loss": 1.0})
    assert book.told == [
        ("start", "one"),
        ("log", 0, {"loss": 1.0}),
        ("log", 1, {"loss": None}),
        ("table", "words", 2),
        ("finish", "done", {"loss": 1.0}),
    ]


def test_a_sink_that_fails_is_announced_once_and_the_run_goes_on(
    make: Callable[..., Run], capsys: pytest.CaptureFixture
) -> None:
    book = Notebook()
    run = make(sinks=[Broken(), book])
    for step in range(3):
        run.append([{"step": step, "loss": 1.0}])
    run.finish({})
    told = "Broken failed, the run goes on without it: no route"
    assert capsys.readouterr().err == told + "\n"
    assert run.record.notices == [told]
    assert run.status == "done"
    assert len(run.read()) == 3
    assert book.told[-1][0] == "finish"


def test_what_the_user_can_mend_is_refused_at_the_start(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="log in first"):
        make(sinks=[Unstartable()])
    assert not (tmp_path / "runs" / "one").exists()


@pytest.mark.parametrize(
    ("sink", "extra"), [(WandbSink, "wandb"), (TensorBoardSink, "tensorboard")]
)
def test_a_missing_extra_says_what_to_install(
    sink: type, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'cutaway\[{extra}\]'"):
        sink()


def test_tensorboard_events_read_back_also_after_a_resume(make: Callable[..., Run]) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make(sinks=[TensorBoardSink()])
    run.append([{"step": step, "loss": 1.0, "rare": None} for step in range(10)])
    run.interrupt("SIGINT")
    run.close()
    with Run.resume(run.path, sinks=[TensorBoardSink()]) as again:
        again.truncate(6)
        again.append([{"step": step, "loss": 2.0} for step in range(6, 12)])
        again.finish({})
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    points = [(event.step, event.value) for event in events.Scalars("loss")]
    assert points == [(step, 1.0 if step < 6 else 2.0) for step in range(12)]


def test_wandb_offline_writes_into_the_run_and_keeps_its_id_over_a_resume(
    make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = make(sinks=[WandbSink(group="g", mode="offline")])
    run.append([{"step": step, "train_loss": 1.0} for step in range(5)])
    run.append_table("words", pa.table({"step": [2], "word": ["hello"]}))
    run.interrupt("SIGINT")
    run.close()
    with Run.resume(run.path, sinks=[WandbSink(mode="offline")]) as again:
        again.append([{"step": 5, "val_loss": 0.5}])
        again.finish({"val_loss": 0.5})
    assert again.record.notices == []
    written = sorted((run.path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(written) == 2
    identity = (run.path / "wandb" / "id").read_text().strip()
    assert {path.name for path in written} == {f"run-{identity}.wandb"}
    assert b"train_loss" in written[0].read_bytes()
    assert b"val_loss" in written[1].read_bytes()
    assert list((run.path / "wandb").glob("offline-run-*/files/media/table/words*"))


@pytest.fixture
def handed_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str | None]:
    """The key a sink hands to Weights & Biases where `.env` says so much; nothing is sent."""
    wandb = pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)

    def key(dotenv: str | None, mode: str = "online") -> str | None:
        said: dict[str, Any] = {}

        def init(**given: Any) -> None:
            said.update(given)
            raise wandb.errors.UsageError("no network here")

        monkeypatch.setattr(wandb, "init", init)
        if dotenv is not None:
            Path(".env").write_text(dotenv)
        with pytest.raises(UserError, match="Weights & Biases: no network here"):
            Run.create(tmp_path / "run", study="s", config={}, sinks=[WandbSink("p", "g", mode)])
        assert (said["project"], said["group"], said["mode"]) == ("p", "g", mode)
        return said["settings"].api_key

    return key


KEY = "0123456789abcdef" * 3


@pytest.mark.parametrize(
    "dotenv",
    [
        f"WANDB_API_KEY={KEY}",
        f"# a comment\nOTHER=x\n\nexport WANDB_API_KEY = '{KEY}'\n",
        f'WANDB_API_KEY="{KEY}"\r\nLAST=1',
        f"WANDB_API_KEY={KEY} # mine",
        f"WANDB_API_KEY={KEY}\t#mine\nLAST=1",
        f"WANDB_API_KEY='{KEY}' # \"mine\"",
        f'WANDB_API_KEY="{KEY}"# mine',
    ],
)
def test_the_key_is_read_from_a_dotenv_file_and_shown_to_nobody(
    handed_key, dotenv: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert handed_key(dotenv) == KEY
    out, err = capsys.readouterr()
    assert KEY not in out + err
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".env"]
    assert not any(KEY.encode() in path.read_bytes() for path in written)


@pytest.mark.parametrize("value", ['"abc # 123"', "'abc # 123' # mine", '"abc # 123"  ', "abc#123"])
def test_a_hash_in_quotes_or_in_a_word_begins_no_comment(handed_key, value: str) -> None:
    assert handed_key(f"WANDB_API_KEY={value}") == (value if value == "abc#123" else "abc # 123")


def test_a_key_in_the_environment_goes_first(handed_key, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    assert handed_key(f"WANDB_API_KEY={KEY}") is None


@pytest.mark.parametrize(
    "dotenv",
    [
        None,
        "",
        "WANDB_API_KEY=",
        "WANDB_API_KEY= # none",
        "WANDB_API_KEY=''",
        "#WANDB_API_KEY=x",
        "no lines",
    ],
)
def test_without_one_weights_and_biases_looks_for_itself(handed_key, dotenv) -> None:
    assert handed_key(dotenv) is None


def test_offline_needs_no_key(handed_key) -> None:
    assert handed_key(f"WANDB_API_KEY={KEY}", mode="offline") is None


def test_a_studys_settings_name_project_and_group() -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    from cutaway.studies.registry import config_of
    from cutaway.studies.settings import resolve
    from cutaway.studies.train import sinks_of

    given = {"wandb": "offline", "wandb_project": "probes", "wandb_group": "layers"}
    (sink,) = sinks_of(resolve(config_of("probe"), given))
    assert (sink.project, sink.group, sink.mode) == ("probes", "layers", "offline")
