"""A grok that is lost: where, by what rule, and that nothing counts it as one that was kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cutaway.grokking.advice import sweep_advice
from cutaway.grokking.analysis import group_by, has_grokked, sweep_summary
from cutaway.grokking.phases import EVALUATIONS, phases, window
from cutaway.grokking.pictures import phase_spans
from cutaway.grokking.sweep_pictures import sweep_grid, sweep_pictures
from cutaway.runs.foreign import Log
from grokking.test_phases import KNOWN, RECORDED, history, needs_recorded

UP, DOWN = [0.987] * 6, [0.08] * 6


def lost(test: list[float], **how: Any) -> int | None:
    return phases(history(test, every=50), **how).lost


@pytest.mark.parametrize(
    ("test", "step"),
    [
        ([0.1, *UP, *DOWN], 350),  # fell and stayed down
        ([0.1, *UP], None),  # kept
        ([0.1, *UP, 0.5, *UP], None),  # a dip it came back from
        ([0.1, *UP, *DOWN, *UP], None),  # lost and found again
        ([0.1, *UP, *DOWN, *UP, *DOWN], 950),  # and lost again
        ([0.1, *UP, *[0.1, 0.99] * 8], 350),  # up and down from there on
        ([0.1, *UP, 0.94], None),  # ends a little below, and for too short a time
        ([0.1, *UP, 0.8], 350),  # ends far below
        ([0.1, *UP, *[0.94] * 6], 350),  # a little below, for a window
        ([0.1, *UP, *[0.08, 0.96, 0.1] * 4], 350),  # up for single evaluations only
        ([0.1, *UP, *[0.96, 0.96, 0.90] * 4, 0.96], None),  # mostly up
        ([0.1, *DOWN], None),  # nothing to lose
        ([0.1, 0.99, *DOWN], None),  # a slingshot is no grok
    ],
)
def test_where_a_grok_is_lost(test: list[float], step: int | None) -> None:
    assert lost(test) == step
    found = phases(history(test, every=50))
    assert found.stayed is (found.grokked is not None and step is None)
    assert has_grokked(history(test, every=50)) is found.stayed
    # in percent, in another order and with gaps it is the same
    rows = history([100 * one for one in test], [100.0] * len(test), every=50)
    assert phases(rows.take(np.argsort([n * 7 % len(test) for n in range(len(test))]))).lost == step


def test_the_plateau_is_of_what_it_had_and_not_of_what_it_fell_to() -> None:
    found = phases(history([0.1, *UP, *DOWN, *DOWN], every=50))
    assert (found.grokked, found.plateau, found.lost) == (50, 50, 350)


def test_where_no_window_is_asked_for_the_last_evaluation_decides() -> None:
    assert lost([0.1, 0.99, 0.94], sustain=0) == 100
    assert lost([0.1, 0.99, 0.94, 0.96], sustain=0) is None


@pytest.mark.parametrize("every", [1, 10, 50, 100, 500, 5000])
def test_the_window_holds_three_evaluations_however_seldom_they_are(every: int) -> None:
    before = [0.1] * 5
    two, three = ([*before, *[0.99] * n, *[0.1] * 300] for n in (2, 3))
    assert phases(history(two, every=every)).grokked is None
    found = phases(history(three, every=every))
    assert found.grokked == (5 * every if 2 * every >= 100 else None)
    assert (found.sustain, found.evaluations) == (100, EVALUATIONS)
    assert window(found) == "100 steps and 3 evaluations"
    # a number of steps that is given counts steps only, unless evaluations are given too
    assert phases(history(two, every=every), sustain=every).grokked == 5 * every
    assert phases(history(two, every=every), sustain=every, evaluations=3).grokked is None


@needs_recorded
def test_no_recorded_run_lost_it_until_it_is_cut_in_a_fall_or_spoilt() -> None:
    for name in KNOWN:
        found = phases(RECORDED / f"{name}.jsonl")
        assert found.lost is None, name


def sweep() -> list[Log]:
    """Two decays, two seeds each: of the first one run lost it, of the second none grokked."""
    kept, gone, never = ([0.1, *UP, *tail] for tail in (UP, DOWN, UP))
    never = [0.1] * 13
    of = {(0.5, 0): kept, (0.5, 1): gone, (1.0, 0): never, (1.0, 1): gone}
    return [
        Log(
            *(
                f"wd{decay}_s{seed}",
                Path(f"wd{decay}_s{seed}.jsonl"),
                history(test, every=50),
                None,
            ),
            {"weight_decay": decay, "seed": seed},
        )
        for (decay, seed), test in of.items()
    ]


def test_summaries_count_it_apart_and_no_median_has_it() -> None:
    first, second = sweep_summary(sweep(), ["weight_decay"]).to_pylist()
    keys = ("grokked", "grokked_lost", "not_reached", "grokked_step_median", "grokked_step_max")
    assert [first[key] for key in keys] == [1, 1, 0, None, 50]
    assert [second[key] for key in keys] == [0, 1, 1, None, None]
    assert group_by(sweep(), "weight_decay", "grokked")["missing"].to_pylist() == [1, 2]
    assert group_by(sweep(), "weight_decay", "lost")["mean"].to_pylist() == [350, 350]


def test_maps_write_it_into_their_cells() -> None:
    rows = [
        {"lr": lr, "decay": decay, "grokked": step, "grokked_lost": gone}
        for lr, decay, step, gone in ((1, 1, 50, False), (1, 2, None, True), (2, 1, None, False))
    ]
    figure = sweep_grid([*rows, rows[0] | {"lr": 2, "decay": 2}], "lr", "decay", "grokked")
    written = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "lost" in written
    many = sweep_grid(sweep_summary(sweep(), ["weight_decay", "seed"]), "weight_decay", "seed")
    assert [text.get_text() for text in many.axes[0].texts].count("lost") == 2
    assert sweep_pictures(sweep(), ["a", "a", "b", "b"])


def test_the_shading_ends_where_it_was_lost() -> None:
    spans = phase_spans(history([0.1, *UP, *DOWN], every=50))
    assert [(one.label, one.start, one.end) for one in spans[-2:]] == [
        ("grokked from 50", 50, 350),
        ("lost from 350", 350, None),
    ]
    assert spans[-1].color != spans[-2].color


def test_the_command_says_it(cutaway: Callable, tmp_path: Path) -> None:
    for name, test in {"gone": [0.1, *UP, *DOWN], "kept": [0.1, *UP, *UP]}.items():
        lines = [f"{50 * row},1.0,{value}" for row, value in enumerate(test)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["step,train_acc,test_acc", *lines]) + "\n")
    code, out, err = cutaway("runs", "phases", "gone.csv", "kept.csv", "--json")
    assert code == 0
    assert [row["lost"] for row in json.loads(out)] == [350, None]
    assert [row["grokked"] for row in json.loads(out)] == [50, 50]
    assert "gone: grokked at step 50 and lost it: below 0.95 from step 350 on" in err
    assert cutaway("runs", "phases", "gone.csv", "--csv")[1].startswith(
        "run,status,memorised,grokked,plateau,delay,kept,final_test_acc,lost\n"
    )
    assert "lost" not in cutaway("runs", "phases", "kept.csv")[1]


def test_a_run_never_tested_is_no_failure_to_grok(cutaway: Callable, tmp_path: Path) -> None:
    untested = history([float("nan")] * 20, every=50)
    names = ("seen/a_s0", "seen/a_s1", "seen/a_s2")
    tables = (history([0.1, *UP, *UP], every=50), history([0.1] * 13, every=50), untested)
    logs = [Log(name, Path(name), table, None, {"lr": 0.1}) for name, table in zip(names, tables)]
    (row,) = sweep_summary(logs, ["lr"]).to_pylist()
    counted = [row[key] for key in ("grokked", "not_reached", "grokked_unknown")]
    assert counted == [1, 1, 1]
    assert sweep_advice(logs, ["a"] * 3)[0].startswith("1 of 2 runs grokked")
    assert [one.label for one in phase_spans(untested)] == ["memorising to 0", "memorised"]
    pq.write_table(untested, tmp_path / "untested.parquet")
    pq.write_table(history([0.1, *UP, *[0.1, 0.99] * 8], every=50), tmp_path / "returning.parquet")
    code, out, err = cutaway("runs", "phases", "untested.parquet", "returning.parquet")
    assert code == 0
    assert out.count("not evaluated") == 2
    assert "below 0.95 from step 350 on, but for returns of less than 100 steps and 3 eval" in err
