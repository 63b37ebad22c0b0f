"""Derived figures and many runs side by side, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cutaway.base.errors import UserError
from cutaway.grokking.analysis import (
    align,
    group_by,
    group_of,
    has_grokked,
    max_epoch,
    sweep_summary,
)
from cutaway.grokking.derived import after_grokking, derived, grokking_quality
from cutaway.grokking.phases import phases
from cutaway.grokking.snapshots import routing_at
from cutaway.runs import Log, Run, open_log

NEVER = [0.0, 0.1, 0.2, 0.1, 0.2, 0.2]
EARLY = [0.0, 0.1, 0.96, 0.97, 0.98, 0.99]
LATE = [0.0, 0.1, 0.2, 0.97, 0.98, 0.99]
WINDOW = {"sustain": 20}


def history(test: Sequence[float], every: int = 10, **more: Sequence[float | None]) -> pa.Table:
    steps = [every * row for row in range(len(test))]
    return pa.table({"step": steps, "train_acc": [1.0] * len(test), "test_acc": test, **more})


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Run]:
    """Record a run with a history and a config; opened for reading."""

    def make(name: str, test: Sequence[float], **config: object) -> Run:
        folder = tmp_path / "runs" / name
        with Run.create(folder, study="grokking", config=config) as run:
            if len(test):
                run.append(history(test).to_pylist())
            run.finish({})
        return Run.open(folder)

    return make


@pytest.fixture
def sweep(record: Callable[..., Run]) -> list[Run]:
    """Three seeds at weight decay 1, one of which does not grok, and two at 0 that do not."""
    return [
        record("wd1.0_s0", EARLY, weight_decay=1.0, seed=0),
        record("wd1.0_s1", LATE, weight_decay=1, seed=1),
        record("wd1.0_s2", NEVER, weight_decay=1.0, seed=2),
        record("wd0.0_s0", NEVER, weight_decay=0.0, seed=0),
        record("wd0.0_s1", [], weight_decay=0.0, seed=1),
    ]


def test_gap_ratio_and_rates_follow_their_formulas() -> None:
    table = pa.table(
        {
            "step": [0, 10, 30],
            "train_acc": [0.1, 0.9, 1.0],
            "test_acc": [0.1, 0.2, 0.6],
            "train_loss": [4.0, 1.0, 0.0],
            "test_loss": [4.0, 6.0, 2.0],
        }
    )
    made = derived(table)
    assert made.column_names[:5] == table.column_names
    assert made["generalisation_gap"].to_pylist() == pytest.approx([0, 0.7, 0.4])
    assert made["loss_ratio"].to_pylist() == [1, 6, math.inf]
    assert made["test_acc_rate"].to_pylist() == [None, pytest.approx(0.01), pytest.approx(0.02)]
    assert made["train_loss_rate"].to_pylist() == [None, pytest.approx(-0.3), pytest.approx(-0.05)]
    assert derived(made).equals(made)


def test_rates_span_rows_that_lack_a_value() -> None:
    table = pa.table({"step": [0, 10, 20, 40], "val_loss": [4.0, None, 3.0, float("nan")]})
    rates = derived(table)["val_loss_rate"].to_pylist()
    assert rates == [None, None, pytest.approx(-0.05), None]


def test_derived_takes_percentages_as_shares(capsys: pytest.CaptureFixture) -> None:
    table = pa.table({"epoch": [0, 1], "train_acc": [50.0, 100.0], "test_acc": [10.0, 40.0]})
    made = derived(table)
    assert made["generalisation_gap"].to_pylist() == pytest.approx([0.4, 0.6])
    assert "percentages" in capsys.readouterr().err


def test_derived_needs_accuracies_or_losses() -> None:
    with pytest.raises(UserError, match="no accuracies and no losses"):
        derived(pa.table({"step": [0], "weight_norm": [1.0]}))


def test_aggregates_are_over_the_rows_after_grokking() -> None:
    table = history([0, 0.96, 0.97, 0.99, 0.98], weight_norm=[9.0, 8.0, 5.0, None, 3.0])
    found = phases(table, sustain=20)
    assert found.grokked == 10
    rows = {row["column"]: row for row in after_grokking(table, found).to_pylist()}
    assert rows["test_acc"]["mean"] == pytest.approx(0.98)
    assert rows["test_acc"]["variance"] == pytest.approx(found.variance_after)
    assert rows["weight_norm"] == {
        "column": "weight_norm",
        "count": 2,
        "mean": 4.0,
        "std": 1.0,
        "variance": 1.0,
        "min": 3.0,
        "max": 5.0,
    }
    nothing = after_grokking(history(NEVER), phases(history(NEVER)))
    assert len(nothing) == 0
    assert nothing.column_names == ["column", "count", "mean", "std", "variance", "min", "max"]


def test_quality_tells_how_sudden_and_how_good() -> None:
    found = grokking_quality(history([0, 0.1, 0.05, 0.5, 0.8, 0.96, 1.0, 0.99, 0.97]), **WINDOW)
    assert (found.sharpness, found.best_test_acc, found.best_step) == (30, 1.0, 60)
    assert (found.final_test_acc, found.share_kept, found.delay) == (0.97, 1.0, 50)
    never = grokking_quality(history(NEVER), **WINDOW)
    assert (never.sharpness, never.delay, never.best_test_acc) == (None, None, 0.2)


def test_align_joins_on_step_and_leaves_gaps_null() -> None:
    table = align(
        {"often": history([0, 0.1, 0.2, 0.3]), "seldom": history([0.5, 0.6], 20)}, "test_acc"
    )
    assert table.to_pydict() == {
        "step": [0, 10, 20, 30],
        "often": [0, 0.1, 0.2, 0.3],
        "seldom": [0.5, None, 0.6, None],
    }


def test_align_takes_runs_logs_and_paths_and_keeps_their_names_apart(
    sweep: list[Run], tmp_path: Path, record: Callable[..., Run]
) -> None:
    log = open_log(sweep[1].path)
    assert isinstance(log, Log)
    mixed = align([sweep[0], log, str(sweep[2].path)], "test_acc")
    assert mixed.column_names == ["step", "wd1.0_s0", "wd1.0_s1", "wd1.0_s2"]
    assert mixed["wd1.0_s1"].to_pylist() == LATE
    same = align([sweep[0], record("again/wd1.0_s0", NEVER)], "test_acc")
    assert same.column_names == ["step", str(sweep[0].path), str(tmp_path / "runs/again/wd1.0_s0")]
    with pytest.raises(UserError, match="did you mean 'test_acc'"):
        align(sweep[:2], "tset_acc")
    with pytest.raises(UserError, match="given twice"):
        align([sweep[0], sweep[0]], "test_acc")
    with pytest.raises(UserError, match="no history yet"):
        align([sweep[4]], "test_acc")


def test_group_by_gives_mean_spread_and_what_is_missing(sweep: list[Run]) -> None:
    rows = group_by(sweep, "weight_decay", "test_acc").to_pylist()
    assert [row["weight_decay"] for row in rows] == [0.0, 1.0]
    assert rows[0] == {"weight_decay": 0, "mean": 0.2, "std": None, "count": 1, "missing": 1}
    assert (rows[1]["count"], rows[1]["missing"]) == (3, 0)
    assert rows[1]["mean"] == pytest.approx(np.mean([0.99, 0.99, 0.2]))
    assert rows[1]["std"] == pytest.approx(np.std([0.99, 0.99, 0.2], ddof=1))
    grokked = group_by(sweep, "weight_decay", "grokked", **WINDOW).to_pylist()
    assert [(row["mean"], row["count"], row["missing"]) for row in grokked] == [
        (None, 0, 2),
        (25, 2, 1),
    ]


def test_group_by_takes_the_last_smallest_largest_or_mean_value(record: Callable[..., Run]) -> None:
    run = record("one", [0.1, 0.7, 0.4], lr=1)
    for how, value in (("final", 0.4), ("min", 0.1), ("max", 0.7), ("mean", 0.4)):
        (row,) = group_by([run], "lr", "test_acc", how=how).to_pylist()
        assert row["mean"] == pytest.approx(value)
    with pytest.raises(UserError, match="how = 'best'"):
        group_by([run], "lr", "test_acc", how="best")


def test_a_run_whose_last_value_is_not_finite_is_missing_not_averaged(
    record: Callable[..., Run],
) -> None:
    runs = [record("a", [0.5, float("nan")], lr=1), record("b", [0.5, 0.7], lr=1)]
    (row,) = group_by(runs, "lr", "test_acc").to_pylist()
    assert (row["mean"], row["count"], row["missing"]) == (0.7, 1, 1)


def test_settings_of_any_kind_group(record: Callable[..., Run]) -> None:
    values = [None, "cosine", True, 1, 1.0, [1, 2], {"a": 1}]
    runs = [record(f"r{n}", EARLY, x=value, deep={"y": n % 2}) for n, value in enumerate(values)]
    rows = group_by(runs, "x", "test_acc").to_pylist()
    assert {row["x"]: row["count"] for row in rows} == {
        "1": 2,
        "true": 1,
        "[1, 2]": 1,
        "cosine": 1,
        '{"a": 1}': 1,
        None: 1,
    }
    nested = group_by(runs, "deep.y", "test_acc").to_pylist()
    assert [(row["deep.y"], row["count"]) for row in nested] == [(0, 4), (1, 3)]


def test_a_sweep_counts_what_was_not_reached(sweep: list[Run]) -> None:
    rows = sweep_summary(sweep, ["weight_decay"], ["test_acc", "delay"], **WINDOW).to_pylist()
    without, with_decay = rows
    assert (with_decay["runs"], with_decay["grokked"], with_decay["not_reached"]) == (3, 2, 1)
    assert with_decay["grokked_step_mean"] == 25
    assert with_decay["grokked_step_std"] == pytest.approx(np.std([20, 30], ddof=1))
    assert (with_decay["grokked_step_min"], with_decay["grokked_step_max"]) == (20, 30)
    assert with_decay["grokked_step_median"] == 30
    assert (with_decay["test_acc_min"], with_decay["test_acc_max"]) == (0.2, 0.99)
    assert with_decay["delay_missing"] == 1
    assert (without["runs"], without["grokked"], without["not_reached"]) == (2, 0, 1)
    assert without["grokked_unknown"] == 1
    assert without["grokked_step_mean"] is None
    assert without["grokked_step_median"] is None


def test_a_sweep_over_two_settings_has_a_row_for_each_pair(sweep: list[Run]) -> None:
    rows = sweep_summary(sweep, ["weight_decay", "seed"], "test_acc").to_pylist()
    assert [(row["weight_decay"], row["seed"], row["runs"]) for row in rows] == [
        *((0.0, seed, 1) for seed in (0, 1)),
        *((1.0, seed, 1) for seed in (0, 1, 2)),
    ]


def test_histories_of_others_group_by_the_settings_in_their_file(tmp_path: Path) -> None:
    for seed, test in enumerate((EARLY, NEVER)):
        lines = [f'{{"_meta": {{"lr": 0.1, "seed": {seed}}}}}']
        lines += [
            f'{{"step": {10 * n}, "train_acc": 1, "test_acc": {value}}}'
            for n, value in enumerate(test)
        ]
        (tmp_path / f"h_s{seed}.jsonl").write_text("\n".join(lines))
    paths = [tmp_path / f"h_s{seed}.jsonl" for seed in (0, 1)]
    (row,) = sweep_summary(paths, "lr", ["test_acc"], **WINDOW).to_pylist()
    assert (row["lr"], row["runs"], row["grokked"], row["not_reached"]) == (0.1, 2, 1, 1)


@pytest.mark.parametrize(
    ("settings", "metrics", "told"),
    [
        ("wieght_decay", "test_acc", "no run has this setting; did you mean 'weight_decay'"),
        ("weight_decay", "test_ac", "no run has this figure; did you mean 'test_acc'"),
    ],
)
def test_misspelt_settings_and_figures_are_refused(
    sweep: list[Run], settings: str, metrics: str, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        sweep_summary(sweep, settings, metrics)
    with pytest.raises(UserError, match=told):
        group_by(sweep, settings, metrics)


def test_nothing_to_group_is_refused() -> None:
    with pytest.raises(UserError, match="no runs given"):
        sweep_summary([], ["lr"])
    with pytest.raises(UserError, match="no settings to group by"):
        group_by([history(EARLY)], "lr", "test_acc")


def test_one_run_says_whether_it_grokked_and_how_far_it_came(sweep: list[Run]) -> None:
    assert has_grokked(sweep[0], **WINDOW)
    assert not has_grokked(sweep[2], **WINDOW)
    assert not has_grokked(sweep[0], sustain=1000)
    assert max_epoch(sweep[0]) == max_epoch(sweep[0].path) == 50


def test_the_routing_snapshot_is_the_nearest_recorded(record: Callable[..., Run]) -> None:
    folder = record("routed", NEVER).path
    with Run.resume(folder) as run:
        for step in (0, 20, 40):
            run.append_table(
                "routing",
                pa.table({"step": [step] * 2, "a": [0, 1], "b": [1, 0], "dominant": [0, step]}),
            )
        run.finish({})
    run = Run.open(folder)  # its history ends at step 50
    for share, step in ((0, 0), (0.2, 0), (0.21, 20), (0.5, 20), (0.7, 40), (1, 40)):
        rows = routing_at(run, share)
        assert rows["step"].to_pylist() == [step] * 2
        assert rows["dominant"].to_pylist() == [0, step]
    assert routing_at(open_log(folder), 1).equals(routing_at(run, 1))
    with pytest.raises(UserError, match="share = 50"):
        routing_at(run, 50)
    with pytest.raises(UserError, match="has no table routing"):
        routing_at(record("plain", NEVER), 0.5)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("p17_lr1e-3_wd1.0_s3", "p17_lr1e-3_wd1.0"),
        ("p17_lr1e-3_wd1.0_seed12", "p17_lr1e-3_wd1.0"),
        ("sweep/p17_lr1e-3/member-03", "sweep/p17_lr1e-3"),
        ("p17_lr1e-3_s3_m2", "p17_lr1e-3"),
        ("p17_lr1e-3_wd1.0", "p17_lr1e-3_wd1.0"),
        ("p17_lr1e-03", "p17_lr1e-03"),
        ("adamw_sc3.0_wd0.01_s0", "adamw_sc3.0_wd0.01"),
        ("s5_adamw_s0", "s5_adamw"),
        ("s3", "s3"),
    ],
)
def test_a_run_belongs_to_the_group_its_name_says(name: str, group: str) -> None:
    assert group_of(name) == group
