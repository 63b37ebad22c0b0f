"""Phases of grokking: recorded runs with known answers, and made-up ones that try the rules."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cutaway.base.errors import UserError
from cutaway.grokking.phases import SUSTAIN, Phases, phases
from cutaway.runs import Run, open_log

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "grokking-histories"
needs_recorded = pytest.mark.skipif(
    not RECORDED.is_dir(), reason="the recorded grokking histories are not there"
)
# thresholds 0.99 and 0.95, no window: as their own authors found them
KNOWN = {
    "adamw_sc1.0_wd0.0_s0": (75, 2225),
    "adamw_sc1.0_wd1.0_s0": (100, 375),
    "adamw_sc1.0_wd1.0_s1": (100, 500),
    "adamw_sc3.0_wd0.01_s0": (75, None),
    "adamw_sc3.0_wd1.0_s0": (75, 1425),
    "s5_adamw_sc1.0_wd0.01_s0": (100, None),
}


def history(test: Sequence[float | None], train: Sequence[float | None] | None = None, every=10):
    """One row every `every` steps, from step 0; the training set is known from the first row."""
    train = [1.0] * len(test) if train is None else train
    steps = [every * row for row in range(len(test))]
    return pa.table(
        {
            "step": steps,
            "train_acc": pa.array(train, pa.float64()),
            "test_acc": pa.array(test, pa.float64()),
        }
    )


@needs_recorded
@pytest.mark.parametrize("name", KNOWN)
def test_recorded_runs_memorise_and_grok_where_their_authors_say(name: str) -> None:
    log = open_log(RECORDED / f"{name}.jsonl")
    found = phases(log, train_threshold=0.99, test_threshold=0.95, sustain=0)
    assert (found.memorised, found.grokked) == KNOWN[name]
    lines = (RECORDED / f"{name}.jsonl").read_text().splitlines()
    summary = json.loads(lines[-1])["_summary"]
    assert (found.memorised, found.grokked) == (summary["memorize_step"], summary["grok_step"])


@needs_recorded
def test_the_window_passes_over_the_slingshot_among_the_recorded_runs() -> None:
    found = {name: phases(RECORDED / f"{name}.jsonl") for name in KNOWN}
    assert [one.grokked for one in found.values()] == [2225, 375, 575, None, 1425, None]
    for name, one in found.items():
        table = open_log(RECORDED / f"{name}.jsonl").history
        if one.grokked is None:
            assert (one.plateau, one.delay, one.share_kept) == (None, None, None)
            continue
        window = [
            accuracy
            for step, accuracy in zip(table["step"].to_pylist(), table["test_acc"].to_pylist())
            if one.grokked <= step <= one.grokked + one.sustain
        ]
        assert min(window) >= 0.95
        assert one.grokked <= one.plateau
        assert one.delay == one.grokked - one.memorised
        assert 0.9 <= one.share_kept <= 1


def test_grokked_needs_a_sustained_crossing() -> None:
    table = history([0, 0.96, 0.1, 0.96, 0.97, 0.2, 0.96, 0.97, 0.98, 0.99])
    assert phases(table, sustain=0).grokked == 10
    assert phases(table, sustain=10).grokked == 30
    assert phases(table, sustain=11).grokked == 60
    assert phases(table, sustain=30).grokked == 60


def test_the_window_is_in_steps_whatever_the_distance_of_evaluations() -> None:
    steps = np.arange(601)
    up = ((steps >= 100) & (steps <= 200)) | (steps >= 400)
    often = pa.table(
        {"step": steps, "train_acc": np.ones(601), "test_acc": np.where(up, 0.96, 0.1)}
    )
    seldom = often.take(np.arange(0, 601, 100))
    for sustain, grokked in ((0, 100), (100, 100), (101, 400), (200, 400), (201, None)):
        assert phases(often, sustain=sustain).grokked == grokked
        assert phases(seldom, sustain=sustain).grokked == grokked


def test_a_crossing_the_history_ends_too_soon_for_is_told_but_not_counted() -> None:
    found = phases(history([0, 0, 0.99, 0.99]), sustain=20)
    assert (found.grokked, found.unconfirmed) == (None, 20)
    assert phases(history([0, 0, 0.99, 0.99]), sustain=10).unconfirmed is None
    assert phases(history([0, 0.99, 0.1, 0.2]), sustain=20).unconfirmed is None


def test_memorised_is_the_first_step_at_the_threshold_even_if_it_is_lost() -> None:
    found = phases(history([0] * 5, train=[0, 0.98, 0.5, 1, 1]))
    assert (found.memorised, found.grokked, found.delay) == (10, None, None)
    assert phases(history([0] * 5, train=[0, 0.97, 0.5, 0.6, 0.7])).memorised is None


def test_the_plateau_begins_where_the_level_reached_is_held() -> None:
    rise = [0, 0.95, 0.96, 0.97, 0.98, 0.987]
    found = phases(history([*rise, 0.995, 0.7, *[0.995] * 12]), sustain=30)
    assert found.grokked == 10
    assert found.plateau == 80
    assert phases(history([*rise, *[0.995] * 12]), sustain=30).plateau == 50
    assert phases(history([*rise, *[0.9, 1.0] * 6]), sustain=30).plateau is None


def test_what_is_kept_is_counted_over_later_evaluations_of_both() -> None:
    test = [0, 0.96, 0.97, 0.5, 0.99, None, 0.99]
    train = [1, 1, 1, 1, 0.9, 1, None]
    found = phases(history(test, train), sustain=0)
    assert found.share_kept == pytest.approx(1 / 3)  # of steps 20, 30, 40
    assert found.variance_after == pytest.approx(np.var([0.97, 0.5, 0.99, 0.99]))
    last = phases(history([0, 0.96]), sustain=0)
    assert (last.grokked, last.share_kept, last.variance_after) == (10, None, None)


def test_nulls_and_nans_are_no_evaluations() -> None:
    dense = history([0, 0.96, None, 0.97, float("nan"), 0.98, 0.99])
    assert phases(dense, sustain=50).grokked == 10
    assert phases(history([None] * 3 + [float("nan")]), sustain=0).grokked is None


def test_unordered_and_repeated_steps_and_percentages_give_the_same_phases(
    capsys: pytest.CaptureFixture,
) -> None:
    table = history([0, 0.1, 0.96, 0.3, 0.97, 0.98, 0.99], train=[0, 1, 1, 1, 1, 1, 1])
    expected = phases(table, sustain=20)
    assert expected.grokked == 40
    assert capsys.readouterr().err == ""
    shuffled = table.take([3, 0, 6, 2, 5, 1, 4])
    assert phases(shuffled, sustain=20) == expected
    assert "out of order" in capsys.readouterr().err
    restarted = pa.concat_tables([history([0, 0, 0, 0.99, 0.99]), table.slice(2)])
    assert phases(restarted, sustain=20).grokked == 40
    assert "steps that repeat" in capsys.readouterr().err
    percent = table.set_column(1, "train_acc", pa.array([0.0, *[100.0] * 6]))
    percent = percent.set_column(2, "test_acc", pa.array([0, 10, 96, 30, 97, 98, 99.0]))
    assert phases(percent, sustain=20) == Phases(
        **{
            **{name: getattr(expected, name) for name in Phases.__dataclass_fields__},
            "variance_after": pytest.approx(expected.variance_after),
        }
    )
    assert "percentages" in capsys.readouterr().err


def test_epochs_iterations_and_row_numbers_serve_as_steps(capsys: pytest.CaptureFixture) -> None:
    table = history([0, 0.96, 0.97])
    for name in ("epoch", "iteration", "Iter", "_step", "global_step"):
        assert (
            phases(table.rename_columns([name, "train_acc", "test_acc"]), sustain=10).grokked == 10
        )
    assert capsys.readouterr().err == ""
    assert phases(table.drop_columns(["step"]), sustain=1).grokked == 1
    assert "row's number" in capsys.readouterr().err


def test_validation_stands_in_for_a_test_split() -> None:
    table = history([0, 0.96, 0.97]).rename_columns(["step", "accuracy", "val_accuracy"])
    assert phases(table, sustain=10).grokked == 10


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"train_threshold": 98}, "train_threshold = 98: expected a share"),
        ({"test_threshold": 0}, "test_threshold = 0: expected a share"),
        ({"test_threshold": float("nan")}, "test_threshold = nan"),
        ({"sustain": -1}, "sustain = -1: expected a number of steps"),
        ({"plateau_width": 1.5}, "plateau_width = 1.5"),
    ],
)
def test_thresholds_that_are_no_shares_are_refused(arguments: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        phases(history([0, 1]), **arguments)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"step": [0], "train_acc": [0.5]}, "has no test_acc"),
        ({"step": [0], "test_acc": [0.5]}, "has no train_acc"),
        ({"step": [0], "train_acc": [0.5], "test_acc": [101.0]}, "test_acc = 101"),
        ({"step": [0], "train_acc": [-0.5], "test_acc": [1.0]}, "train_acc = -0.5"),
        ({"step": [0], "train_acc": ["high"], "test_acc": [1.0]}, "the text 'high'"),
        ({"step": [], "train_acc": [], "test_acc": []}, "holds no rows"),
        ({"step": [None], "train_acc": [0.5], "test_acc": [1.0]}, "no row has a step"),
    ],
)
def test_histories_that_say_nothing_of_phases_are_refused(columns: dict, told: str) -> None:
    with pytest.raises(UserError, match=told) as refused:
        phases(pa.table(columns))
    assert "\n" not in str(refused.value)


def _record(folder: Path, table: pa.Table) -> None:
    with Run.create(folder, study="grokking", config={}) as run:
        run.append(table.to_pylist())
        run.finish({})


@needs_recorded
def test_the_command_answers_for_a_folder_of_histories(cutaway: Callable) -> None:
    code, out, _ = cutaway(
        *("runs", "phases", RECORDED, "--train-threshold", 0.99, "--sustain", 0, "--json")
    )
    assert code == 0
    rows = {row["run"]: (row["memorised"], row["grokked"]) for row in json.loads(out)}
    assert rows == KNOWN
    assert list(rows) == list(KNOWN)
    assert cutaway("runs", "phases", RECORDED)[1].count("not reached") == 4


def test_the_command_takes_all_runs_that_have_accuracies(cutaway: Callable, tmp_path: Path) -> None:
    rise = history([0, 0.5, *[0.99] * 12])
    _record(tmp_path / "runs" / "sweep" / "a", rise)
    _record(tmp_path / "runs" / "b", history([0, 0.5, 0.6]))
    _record(tmp_path / "runs" / "language", pa.table({"step": [0, 1], "train_loss": [2.0, 1.0]}))
    code, out, err = cutaway("runs", "phases", "--json")
    assert code == 0
    assert [(row["run"], row["grokked"]) for row in json.loads(out)] == [
        ("b", None),
        ("sweep/a", 20),
    ]
    assert err == "1 run has no accuracies: language\n"
    for reference in ("sweep/a", tmp_path / "runs" / "sweep" / "a", tmp_path / "runs" / "sweep"):
        assert json.loads(cutaway("runs", "phases", reference, "--json")[1])[0]["grokked"] == 20
    table = cutaway("runs", "phases", "b", "--csv")[1]
    assert table.splitlines() == [
        "run,status,memorised,grokked,plateau,delay,kept,final_test_acc",
        "b,done,0,not reached,not reached,,,0.6",
    ]
    code, _, err = cutaway("runs", "phases", "sweep/a", "--sustain", 1000)
    assert code == 0
    assert "above 0.95 from step 20" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "runs: no such folder"),
        (["nothing"], "no run of this name or path"),
        (["empty"], "no run and no history with accuracies there"),
        (["losses.csv"], "has no train_acc"),
        (["losses.csv", "--test-threshold", "95"], "test_threshold = 95"),
        (["losses.csv", "--json", "--csv"], "choose one"),
    ],
)
def test_a_wrong_request_ends_with_2_and_one_line(
    cutaway: Callable, tmp_path: Path, arguments: list[str], told: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "losses.csv").write_text("step,train_loss\n0,1.0\n")
    code, out, err = cutaway("runs", "phases", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


def test_the_command_and_the_function_have_the_same_defaults() -> None:
    from cutaway.cli.runs_phases import phases as command

    mine, theirs = (inspect.signature(one).parameters for one in (phases, command))
    for name in ("train_threshold", "test_threshold", "sustain"):
        assert mine[name].default == theirs[name].default
    assert mine["sustain"].default is None
    assert phases(history([0, *[1.0] * 20])).sustain == SUSTAIN


def test_a_frame_whose_index_is_the_step_is_read_by_it() -> None:
    pytest.importorskip("pandas")
    frame = history([0.1, *[1.0] * 5], every=50).to_pandas()
    assert phases(frame.set_index("step")) == phases(frame)
    assert phases(frame).grokked == 50
