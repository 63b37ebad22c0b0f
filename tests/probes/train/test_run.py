"""A run of probes keeps everything it found, and goes on however it was stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import PATIENCE
from cutaway.base import display
from cutaway.base.errors import Interrupted, RunFailed, UserError
from cutaway.nets.reference import open_model
from cutaway.probes.data.examples import ProbeData
from cutaway.probes.data.request import Asked
from cutaway.probes.fitting.layers import probe_layers
from cutaway.probes.states import collecting as states_module
from cutaway.probes.states import inputs as inputs_module
from cutaway.probes.states.inputs import inputs_of
from cutaway.probes.states.probe import Probe
from cutaway.probes.train import run as module
from cutaway.probes.train.config import ProbeConfig
from cutaway.probes.train.run import train_probes
from cutaway.probes.view.reading import open_probes
from cutaway.runs.folder import Run
from cutaway.runs.store import RunStore
from cutaway.studies.settings import resolve
from cutaway.studies.train import train, train_by_steps

FEW = {"layers": "embed,0", "controls": "shuffled,mass_mean,model", "device": "cpu"}
STEPS = {"method": "minibatch", "max_steps": 300, "learning_rate": 0.03}
TABLES = ("layers", "controls", "reliability", "confusion")


@pytest.fixture(scope="module")
def named(gpt2_run: Path, probe_data: Path) -> dict[str, Any]:
    return {"model": str(gpt2_run), "data": str(probe_data), **FEW}


@pytest.fixture(scope="module")
def done(named: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of exact probes; tests only read it."""
    out = tmp_path_factory.mktemp("store") / "exact"
    train_probes(named, out)
    return out


def tables_of(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Every judged table."""
    return {name: Run.open(out).read(name).to_pylist() for name in TABLES}


def tables_of_layers(out: Path) -> list[dict[str, Any]]:
    return Run.open(out).read("layers").to_pylist()


# -- what a run keeps ------------------------------------------------------------------------------


def test_its_tables_hold_what_probing_finds(done: Path, gpt2_run: Path, probe_data: Path) -> None:
    model = open_model(gpt2_run, device="cpu")
    data = ProbeData.load(probe_data).reading()
    config = Run.open(done).record.config
    asked = Asked(strengths=config["strengths"], controls=("shuffled", "mass_mean", "model"))
    found = probe_layers(inputs_of(data, model, "embed,0"), asked)
    kept = tables_of(done)
    assert [row["site"] for row in kept["layers"]] == ["embed", "residual.0"]
    for name in TABLES:
        for row, expected in zip(kept[name], found.tables[name], strict=True):
            for column, value in row.items():
                told = display.finite(expected[column])
                assert value == pytest.approx(told, abs=1e-5), (name, column)


def test_its_probe_files_score_what_the_tables_say(done: Path, gpt2_run, probe_data) -> None:
    model = open_model(gpt2_run, device="cpu")
    inputs = inputs_of(ProbeData.load(probe_data).reading(), model, "embed,0")
    states, examples = inputs.states("test")
    probes = open_probes(done)
    for probe, values, row in zip(probes, states.values, tables_of(done)["layers"], strict=True):
        right = probe.even(values).argmax(-1) == examples.label
        recalls = [float(right[examples.label == one].double().mean()) for one in (0, 1)]
        assert sum(recalls) / 2 == pytest.approx(row["balanced_accuracy"])
        assert probe.about.scores["auroc"] == pytest.approx(row["auroc"])
    assert Probe.load(done / "probes" / "residual.0").about == probes[1].about


def test_its_pictures_are_drawn(done: Path) -> None:
    drawn = sorted((done / "figures").glob("*.png"))
    assert len(drawn) >= 3
    assert all(one.read_bytes().startswith(b"\x89PNG") for one in drawn)


def test_its_record_says_what_it_was_made_of_and_what_came_out(done: Path, gpt2_run) -> None:
    opened = Run.open(done)
    record = opened.record
    assert (opened.status, record.study, record.steps_done) == ("done", "probe", 2)
    model = open_model(gpt2_run, device="cpu")
    shas = {one["kind"]: one["sha256"] for one in record.parents}
    data = ProbeData.load(record.config["data"])
    assert shas == {"run": model.reference.weights_sha256, "probe data": data.sha256()}
    resolved = record.resolved
    assert (resolved["task"], resolved["target"], resolved["dtype"]) == ("next", " the", "float32")
    assert resolved["sites"] == ["embed", "residual.0"]
    assert resolved["counts"] == data.counts
    rows = tables_of(done)
    best = max(rows["layers"], key=lambda row: row["validation_balanced_accuracy"])
    assert record.metrics["best_layer"] == best["layer"]
    assert record.metrics["balanced_accuracy"] == pytest.approx(best["balanced_accuracy"])
    shuffled = next(
        row
        for row in rows["controls"]
        if (row["control"], row["site"]) == ("shuffled", best["site"])
    )
    assert record.metrics["shuffled_balanced_accuracy"] == shuffled["balanced_accuracy"]


def test_sql_reads_its_tables(done: Path) -> None:
    store = RunStore(done.parent)
    rows = store.sql("SELECT run, site, layer, balanced_accuracy FROM layers ORDER BY layer")
    assert rows.to_pylist() == [
        {"run": "exact", **{name: row[name] for name in ("site", "layer", "balanced_accuracy")}}
        for row in tables_of(done)["layers"]
    ]
    (found,) = store.sql("SELECT count(*) AS n, count(site) AS with_site FROM controls").to_pylist()
    assert found == {"n": 5, "with_site": 4}


def test_mass_means_are_a_method_too(named, tmp_path: Path) -> None:
    run = train_probes({**named, "method": "mass_mean", "controls": "none"}, tmp_path / "run")
    probes = open_probes(run.path)
    assert [probe.about.method for probe in probes] == ["mass_mean"] * 2
    assert probes[0].about.strength is None
    assert run.read("controls") is None
    assert run.read("layers").to_pylist()[1]["balanced_accuracy"] > 0.7


def test_a_model_reads_as_many_tokens_at_once_as_asked_for(named, tmp_path, monkeypatch) -> None:
    read: list[int] = []
    capture = states_module.capture

    def noted(model, tokens, *rest):
        read.append(tokens.numel())
        return capture(model, tokens, *rest)

    monkeypatch.setattr(states_module, "capture", noted)
    settings = {**named, "controls": "none", "forward_tokens": 60, "layers": "embed"}
    train_probes(settings, tmp_path / "run")
    assert max(read) == 60


# -- going on --------------------------------------------------------------------------------------


def child(code: str, *arguments: object) -> int:
    """Run Python code as a process of its own; its exit code, negative for a signal."""
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "Traceback" not in process.stderr, process.stderr
    return process.returncode


KILLED_AT = """
import json, os, signal, sys
from importlib import import_module
settings, out, place, after = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
module, _, name = place.partition(":")
module = import_module(module)
whole, calls = getattr(module, name), []
def killed(*args, **kwargs):
    calls.append(1)
    if len(calls) > after:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*args, **kwargs)
setattr(module, name, killed)
from cutaway.probes.train.run import train_probes
train_probes(settings, out)
"""


def killed_at(place: str, after: int, settings: dict[str, Any], out: Path) -> None:
    code = child(KILLED_AT, json.dumps(settings), out, place, after)
    assert code == -signal.SIGKILL
    assert Run.open(out).status == "interrupted"


@pytest.mark.parametrize(
    ("place", "after"),
    [("cutaway.probes.states.collecting:_read", 1), ("cutaway.probes.train.run:draw", 0)],
)
def test_a_run_killed_by_force_starts_again_and_finds_the_same(
    named, done: Path, tmp_path: Path, place: str, after: int
) -> None:
    """While it reads states; when its tables are written, but not its pictures."""
    out = tmp_path / "run"
    killed_at(place, after, named, out)
    assert (Run.open(out).read("layers") is None) == (place.endswith("_read"))
    run = train_probes(named, out, resume=True)
    assert run.status == "done"
    assert tables_of(out) == tables_of(done)
    assert len(open_probes(out)) == 2


def test_a_done_run_is_left_as_it_is(named, done: Path, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}
    run = train_probes(named, done, resume=True)
    assert run.status == "done"
    assert "already done" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()} == before


def test_other_settings_are_refused_and_other_controls_are_not(named, done: Path) -> None:
    with pytest.raises(UserError, match=r"layers = '0': .* was trained with 'embed,0'"):
        train_probes({**named, "layers": "0"}, done, resume=True)
    assert train_probes({**named, "controls": "none"}, done, resume=True).status == "done"


def test_a_folder_that_holds_a_run_is_refused(named, done: Path) -> None:
    with pytest.raises(UserError, match="exact"):
        train_probes(named, done)


def test_data_that_changed_meanwhile_are_refused(named, probe_data, tmp_path, monkeypatch) -> None:
    data = ProbeData.load(probe_data)
    folder = data.save(tmp_path / "data")
    settings, out = {**named, "data": str(folder)}, tmp_path / "run"

    def stopped(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "probe_layers", stopped)
        with pytest.raises(Interrupted, match="--resume goes on"):
            train_probes(settings, out)
    assert Run.open(out).status == "interrupted"
    part = data.parts["train"]
    fewer = part.chosen(torch.arange(len(part) - 40))
    for file in sorted(folder.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    replace(data, parts={**data.parts, "train": fewer}).save(folder)
    with pytest.raises(UserError, match="has changed since this run began"):
        train_probes(settings, out, resume=True)
    assert Run.open(out).status == "interrupted"


# -- trained by steps ------------------------------------------------------------------------------


def test_probes_trained_by_steps_are_judged_like_the_others(named, done, tmp_path: Path) -> None:
    run = train_probes({**named, **STEPS}, tmp_path / "run")
    assert run.status == "done"
    found, exact = tables_of(tmp_path / "run"), tables_of(done)
    for row, best in zip(found["layers"], exact["layers"], strict=True):
        assert (row["method"], row["strength"]) == ("minibatch", None)
        assert row["balanced_accuracy"] == pytest.approx(best["balanced_accuracy"], abs=0.06)
        history = run.read("history").to_pylist()
        (at_best,) = [one for one in history if one["step"] == run.checkpoints.best()]
        assert row["validation_balanced_accuracy"] == pytest.approx(
            at_best[f"val_balanced_accuracy.{row['site']}"], abs=1e-5
        )
    # random labels are solved, which is not how these probes were trained
    same = [row for row in exact["controls"] if row["control"] != "shuffled"]
    assert found["controls"] == same
    assert run.record.metrics["best_layer"] in (-1, 0)
    assert run.record.metrics["val_loss"] > 0
    assert [one.about.method for one in open_probes(run.path)] == ["minibatch"] * 2


def test_a_run_stopped_between_training_and_judging_is_judged(named, tmp_path: Path) -> None:
    settings = {**named, **STEPS}
    whole = train_probes(settings, tmp_path / "whole")
    config = resolve(ProbeConfig, settings)
    trained = train_by_steps("probe", config, tmp_path / "run")
    assert trained.status == "done"
    assert trained.read("layers") is None
    run = train_probes(settings, tmp_path / "run", resume=True)
    assert run.status == "done"
    assert tables_of(tmp_path / "run") == tables_of(tmp_path / "whole")
    found, expected = (
        {name: value for name, value in one.record.metrics.items() if "balanced_accuracy" in name}
        for one in (run, whole)
    )
    assert found == pytest.approx(expected)
    assert {"balanced_accuracy", "val_balanced_accuracy", "model_balanced_accuracy"} <= set(found)


@pytest.mark.parametrize("how", [{}, STEPS])
def test_trained_from_its_record_a_run_leaves_the_same(named, tmp_path: Path, how) -> None:
    """By `studies.train.train`, which is `cutaway train` and a sweep's worker."""
    whole = train_probes({**named, **how}, tmp_path / "whole")
    again = train("probe", whole.record.config, tmp_path / "again")
    assert again.status == "done"
    assert tables_of(tmp_path / "again") == tables_of(tmp_path / "whole")
    assert set(again.tables()) == set(whole.tables())
    for one, other in zip(open_probes(again.path), open_probes(whole.path), strict=True):
        assert one.about == other.about
        assert torch.equal(one.weight, other.weight)
    told = {"best_layer", *(name for name in whole.record.metrics if "accuracy" in name)}
    assert {"balanced_accuracy", "best_layer"} <= told
    for name in told:
        assert again.record.metrics[name] == whole.record.metrics[name], name


def test_more_steps_are_judged_anew(named, tmp_path: Path) -> None:
    few = {**named, **STEPS, "max_steps": 40, "decay_steps": 40}
    train("probe", few, tmp_path / "run")
    before = tables_of(tmp_path / "run")
    run = train("probe", few, tmp_path / "run", extra_steps=60)
    assert (run.record.steps_done, run.status) == (100, "done")
    train("probe", {**few, "max_steps": 100}, tmp_path / "long")
    assert tables_of(tmp_path / "run") == tables_of(tmp_path / "long") != before


def test_more_steps_without_their_judging_are_not_taken_for_judged(
    named, tmp_path: Path, monkeypatch
) -> None:
    few = {**named, **STEPS, "max_steps": 40, "controls": "none"}
    train_probes(few, tmp_path / "run")
    before = tables_of_layers(tmp_path / "run")

    def stopped(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(module, "open_inputs", stopped)
        with pytest.raises(RuntimeError, match="stopped"):
            train_probes(few, tmp_path / "run", extra_steps=200)
    assert Run.open(tmp_path / "run").status == "done"
    train_probes(few, tmp_path / "run", resume=True)
    assert tables_of_layers(tmp_path / "run") != before


def test_more_steps_of_what_is_solved_are_refused(named, done: Path) -> None:
    with pytest.raises(UserError, match=r"^extra_steps = 5: method 'exact' is solved"):
        train("probe", named, done, extra_steps=5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"eval_every": 5}, "eval_every = 5: method 'exact' is solved"),
        ({"log_every": 5}, "log_every = 5: method 'exact' is solved"),
        ({"decay_steps": 5}, "decay_steps = 5: method 'exact' is solved"),
        ({"checkpoint_every": 5}, "checkpoint_every = 5: method 'exact' is solved"),
        (
            {"method": "mass_mean", "keep_checkpoints": None},
            "keep_checkpoints = None: method 'mass",
        ),
        ({"epochs": 3}, "epochs = 3.0: method 'exact' is solved"),
        ({"method": "minibatch", "mlp_width": 4}, "mlp_width = 4: goes with method mlp"),
    ],
)
def test_settings_that_would_change_nothing_are_refused(named, tmp_path, settings, said) -> None:
    with pytest.raises(UserError, match=said):
        train("probe", {**named, **settings}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["probe_layers", "draw"])
def test_a_kill_while_judging_leaves_no_row_twice(named, tmp_path: Path, place: str) -> None:
    settings = {**named, **STEPS, "controls": "mass_mean"}
    out = tmp_path / "run"
    killed_at(f"cutaway.probes.train.run:{place}", 0, settings, out)
    assert (Run.open(out).read("layers") is not None) == (place == "draw")
    steps = Run.open(out).read("history")["step"].to_pylist()
    run = train_probes(settings, out, resume=True)
    assert run.status == "done"
    found = tables_of(out)
    assert [row["site"] for row in found["layers"]] == ["embed", "residual.0"]
    assert [row["control"] for row in found["controls"]] == ["mass_mean"] * 2
    assert len(found["confusion"]) == 16
    assert run.read("history")["step"].to_pylist() == steps
    assert len(open_probes(out)) == 2


# -- failing ---------------------------------------------------------------------------------------


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], None]:
    """Let the states of a part come out far off, or as some number."""

    def install(part: str, by: float) -> None:
        whole = inputs_module.states_of

        def read(model, examples, *args: Any, **kwargs: Any):
            found = whole(model, examples, *args, **kwargs)
            if kwargs["label"].startswith(f"reading {part}"):
                found.values[1] += by
            return replace(found, finite=found.values.sum(-1).isfinite().all(0))

        monkeypatch.setattr(inputs_module, "states_of", read)

    return install


def test_a_one_sided_probe_fails_the_run_and_leaves_what_was_found(
    named, tmp_path: Path, moved
) -> None:
    moved("test", 1e4)
    with pytest.raises(RunFailed, match=r"residual\.0: predicts only '"):
        train_probes(named, tmp_path / "store" / "run")
    run = Run.open(tmp_path / "store" / "run")
    assert run.status == "failed"
    assert run.record.reason.startswith("residual.0: predicts only ")
    (row,) = RunStore(tmp_path / "store").sql(
        "SELECT status, balanced_accuracy FROM layers JOIN runs USING (run) WHERE layer = 0"
    ).to_pylist()  # fmt: skip
    assert row == {"status": "failed", "balanced_accuracy": 0.5}
    assert len(open_probes(run.path)) == 2


def test_what_goes_wrong_on_the_way_is_the_run_s_reason(named, tmp_path: Path, moved) -> None:
    moved("validation", float("nan"))
    with pytest.raises(RunFailed, match=r"validation: not one of .* has finite states"):
        train_probes(named, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.status == "failed"
    assert "not one of" in run.record.reason


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"controls": "shufled"}, "controls = 'shufled'"),
        ({"layers": "9"}, "layer = '9'"),
        ({"data": "nowhere"}, "nowhere: no probe data"),
        ({"dtype": "float16"}, "float16 ends at 65504"),
        ({"task": "labels"}, "task"),
    ],
)
def test_where_nothing_can_start_nothing_is_left(named, tmp_path: Path, settings, said) -> None:
    with pytest.raises(UserError, match=said):
        train_probes({**named, **settings}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
