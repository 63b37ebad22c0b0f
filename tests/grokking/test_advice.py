"""Advice after a grokking run or sweep: each line from what was measured, on histories made for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cutaway.grokking.advice import advice, sweep_advice
from cutaway.grokking.config import GrokkingConfig
from cutaway.studies.train import train

STEADY = {"warmup_epochs": 500, "beta2": 0.98}  # nothing to say about steadiness
STEPS = np.arange(0, 2001, 50)


def history(
    memorised: int | None = 100, grokked: int | None = 600, dips: tuple[int, ...] = ()
) -> pa.Table:
    """Accuracies that jump at a step each, and fall back for one evaluation at each dip."""
    train = np.where((10**9 if memorised is None else memorised) <= STEPS, 1.0, 0.4)
    test = np.where((10**9 if grokked is None else grokked) <= STEPS, 1.0, 0.1)
    train[np.isin(STEPS, dips)] = 0.7
    return pa.table({"step": STEPS, "train_acc": train, "test_acc": test})


def told(table: pa.Table, **settings: Any) -> list[str]:
    return advice(table, GrokkingConfig(**{**STEADY, **settings}))


def test_nothing_is_said_of_a_run_that_grokked() -> None:
    assert told(history()) == []


def test_a_crossing_too_late_to_be_confirmed_is_to_train_on() -> None:
    [line] = told(history(grokked=1950))
    assert "above 95% from step 1,950 until the run ended, for less than 100 steps" in line
    assert "--extra-epochs" in line
    assert "no grokking" not in line
    assert told(history(grokked=1900)) == []  # 100 steps are enough


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weight_decay": 0.1}, "raise weight_decay to 1.0-2.0 (it is 0.1)"),
        ({"train_frac": 0.2}, "raise train_frac to 0.3-0.5 (it is 0.2)"),
        ({"train_frac": 0.8}, "lower train_frac to 0.3-0.5 (it is 0.8)"),
        ({"warmup_epochs": 0}, "set warmup_epochs to steady the start (it is 0)"),
    ],
)
def test_no_grokking_names_the_fields_that_usually_bring_it(settings, said) -> None:
    # a width of its own: of a preset's settings cut short more epochs are asked for first
    [line] = told(history(grokked=None), hidden_dim=60, **settings)
    assert "memorised, but the test accuracy is 10.0% after 2,000 epochs" in line
    assert said in line


def test_settings_that_are_as_advised_are_not_advised() -> None:
    [line] = told(history(grokked=None), weight_decay=1.0, train_frac=0.4)
    assert not any(name in line for name in ("weight_decay", "train_frac", "warmup_epochs"))
    [line] = told(history(grokked=None), weight_decay=0.0, optimizer="orthograd_adamw")
    assert "weight_decay" not in line  # it needs none
    assert "train longer" in line


def test_a_test_accuracy_still_rising_is_to_train_on() -> None:
    table = history(grokked=None)
    rising = np.clip((STEPS - 1000) / 2000, 0.1, None)
    table = table.set_column(2, "test_acc", pa.array(rising))
    [line] = told(table, weight_decay=0.1)
    assert "still rising (50.0%)" in line
    assert "--extra-epochs" in line


@pytest.mark.parametrize("end", [[0.896, 0.915, 0.939], [0.70, 0.72, 0.71, 0.74, 0.75]])
def test_a_rise_over_the_last_evaluations_calls_for_more_epochs(end) -> None:
    test = np.concatenate([np.linspace(0.0, end[0], len(STEPS) - len(end) + 1), end[1:]])
    table = history(grokked=None).set_column(2, "test_acc", pa.array(test))
    [line] = told(table, warmup_epochs=0, hidden_dim=60)
    assert f"still rising ({end[-1]:.1%}): more epochs" in line
    assert "warmup_epochs" not in line


def test_scatter_about_a_level_is_no_rise() -> None:
    test = np.where(np.arange(len(STEPS)) % 2, 0.30, 0.34)
    table = history(grokked=None).set_column(2, "test_acc", pa.array(test))
    assert "still rising" not in told(table, hidden_dim=60)[0]


def test_a_preset_cut_short_asks_for_its_epochs_and_no_other_setting() -> None:
    preset = {
        "p": 17,
        "train_frac": 0.8,
        "model_type": "baseline",
        "hidden_dim": 256,
        "weight_decay": 2.0,
        "warmup_epochs": 500,
    }
    cut = history(grokked=None).slice(0, 13)  # to step 600
    for p in (17, 23):
        [line] = told(cut, **{**preset, "p": p}, epochs=600)
        assert "the preset validate asks for 10,000: more epochs first" in line
        assert "train_frac" not in line


def test_soon_after_memorising_more_epochs_come_first() -> None:
    [line] = told(history(memorised=400, grokked=None), hidden_dim=60, train_frac=0.8)
    assert "memorised at 400, and grokking often takes 10 times as long: more epochs first" in line
    assert "train_frac" not in line


def test_small_moduli_are_not_told_to_train_on_fewer_pairs() -> None:
    [line] = told(history(grokked=None), hidden_dim=60, p=23, train_frac=0.8)
    assert "train_frac" not in line


def test_a_warm_up_that_never_ended_is_said_first() -> None:
    first, _ = told(history(grokked=None), warmup_epochs=2000, hidden_dim=60)
    assert first.startswith("the warm-up never ended: warmup_epochs is 2,000 of 2,000 epochs")
    assert not any("warm-up" in line for line in told(history(), warmup_epochs=2000))


def test_a_run_of_one_evaluation_had_no_warm_up() -> None:
    assert not any("warm-up" in line for line in told(history()[:1], warmup_epochs=0))


def test_what_was_not_memorised_says_how_far_it_came() -> None:
    [line] = told(history(memorised=None, grokked=None), hidden_dim=32, epochs=2000)
    assert "not memorised (train accuracy 40.0% after 2,000 epochs)" in line
    assert "train on with --extra-epochs, or raise hidden_dim (it is 32)" in line


def test_a_run_trained_on_is_advised_by_what_it_trained_in_all(tmp_path) -> None:
    settings = {"p": 11, "model_type": "baseline", "hidden_dim": 16, "epochs": 20, "log_every": 10}
    train("grokking", settings, tmp_path / "run")
    run = train("grokking", settings, tmp_path / "run", extra_steps=15)
    [line] = [line for line in run.record.notices if "not memorised" in line]
    assert "after 35 epochs): train on with --extra-epochs" in line


def test_blips_are_counted_and_name_warm_up_and_beta2() -> None:
    three = history(dips=(800, 1000, 1200))
    [line] = told(three, warmup_epochs=10, beta2=0.999)
    assert "fell back 3 times" in line
    assert "set warmup_epochs: 500 (it is 10), set beta2: 0.98 (it is 0.999)" in line
    [line] = told(three)
    assert "warmup_epochs" not in line
    assert "beta2" not in line
    assert told(history(dips=(800, 1000))) == []  # two are no pattern


def test_what_wavers_on_its_way_up_has_not_fallen_back() -> None:
    wavering = np.where(np.arange(len(STEPS)) % 2, 0.35, 0.2)
    late = STEPS >= 1500
    train_acc, test_acc = np.where(late, 1.0, wavering), np.where(late, 1.0, wavering / 2)
    table = pa.table({"step": STEPS, "train_acc": train_acc, "test_acc": test_acc})
    assert told(table) == []
    early = table.set_column(1, "train_acc", pa.array(np.ones(len(STEPS))))
    assert told(early) == []  # memorised from the start: the test accuracy was not there yet
    test_acc[[32, 34, 36]] = 0.5
    [line] = told(early.set_column(2, "test_acc", pa.array(test_acc)))
    assert "fell back 3 times" in line


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"step": [0, 1], "train_loss": [1.0, 0.5]}),
        pa.table({"step": [0], "train_acc": [0.1], "test_acc": pa.array([None], pa.float64())}),
        pa.table({"step": [0], "train_acc": [0.1], "test_acc": [float("nan")]}),
    ],
)
def test_where_nothing_was_measured_nothing_is_said(table) -> None:
    assert told(table) == []


# -- sweeps --------------------------------------------------------------------------------


@dataclass
class Log:
    name: str
    history: pa.Table
    config: dict[str, Any] = field(default_factory=dict)
    path: Path = Path("nowhere.jsonl")


def logs(steps: dict[str, list[int | None]], **config: Any) -> tuple[list[Log], list[str]]:
    """Runs by group, each by the step where it grokked."""
    runs = [
        Log(f"{group}_s{seed}", history(grokked=step), {**config, "weight_decay": index})
        for index, (group, members) in enumerate(steps.items())
        for seed, step in enumerate(members)
    ]
    return runs, [group for group, members in steps.items() for _ in members]


def test_the_setting_that_grokked_soonest_counts_its_seeds() -> None:
    sweep = logs({"wd0": [300, None, None], "wd1": [700, 900, None], "wd2": [1000, 1000, 1000]})
    assert sweep_advice(*sweep) == [
        "6 of 9 runs grokked; soonest with wd1: at step 900 (median of 3)"
    ]


def test_seeds_alone_have_no_best_setting() -> None:
    assert sweep_advice(*logs({"trial": [300, None]})) == ["1 of 2 runs grokked"]


def test_where_none_grokked_it_says_what_all_had_in_common() -> None:
    sweep = logs({"wd0": [None], "wd1": [None]}, train_frac=0.2, warmup_epochs=0)
    assert sweep_advice(*sweep) == [
        "none of 2 runs grokked; all had train_frac 0.2, warmup_epochs 0"
    ]


def test_runs_that_ended_above_the_threshold_are_to_train_on() -> None:
    first, second = sweep_advice(*logs({"wd0": [None], "wd1": [1950]}))
    assert first.startswith("none of 2 runs grokked")
    assert second.startswith("1 run was above the threshold when training ended")
    assert second.endswith("train on with --extra-epochs")


def test_one_run_is_no_sweep_and_runs_without_accuracies_are_not_counted() -> None:
    runs, groups = logs({"wd0": [300]})
    other = Log("x", pa.table({"step": [0, 1], "train_loss": [1.0, 0.5]}))
    assert sweep_advice([*runs, other], [*groups, "x"]) == []


# -- the likeliest remedy first ------------------------------------------------------------------


def guessing(p: int, accuracy: float = 0.01) -> pa.Table:
    """A run whose training loss stays at ln p, that of guessing."""
    level = np.full(len(STEPS), accuracy)
    loss = np.full(len(STEPS), np.log(p))
    return pa.table({"step": STEPS, "train_acc": level, "test_acc": level, "train_loss": loss})


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"weight_decay": 20.0, "lr": 1e-3}, "lower weight_decay (it is 20)"),
        ({"weight_decay": 1.0, "lr": 1e-3}, "lower weight_decay (it is 1)"),
        ({"weight_decay": 1.0, "lr": 1e-6}, "raise lr (it is 1e-06)"),
        ({"weight_decay": 0.0, "lr": 1e-6}, "raise lr (it is 1e-06)"),
        ({"weight_decay": 0.0, "lr": 1.0}, "lower lr (it is 1)"),
        ({"weight_decay": 1e-4, "lr": 0.5}, "lower lr (it is 0.5)"),
    ],
)
@pytest.mark.parametrize("p", [17, 97, 113])
def test_a_loss_stuck_at_guessing_is_put_down_to_what_holds_it_there(
    settings: dict[str, float], first: str, p: int
) -> None:
    [line] = told(guessing(p), p=p, hidden_dim=60, **settings)
    assert line.partition(" epochs): ")[2].startswith(first), line
    assert (
        f"the training loss, {np.log(p):.2f}, is that of guessing (ln(p) = {np.log(p):.2f})" in line
    )
    if not settings["weight_decay"]:
        assert "weight_decay" not in line


def test_a_strong_decay_is_lowered_before_more_is_trained_and_a_usual_one_after() -> None:
    stuck = history(memorised=None, grokked=None)
    for decay, first in ((5.0, "lower weight_decay (it is 5)"), (1.0, "train on with")):
        [line] = told(stuck, weight_decay=decay, hidden_dim=60)
        assert line.partition(" epochs): ")[2].startswith(first)
    rising = stuck.set_column(1, "train_acc", pa.array(np.linspace(0.0, 0.9, len(STEPS))))
    [line] = told(rising, weight_decay=5.0, hidden_dim=60)
    assert line.partition(" epochs): ")[2].startswith("train on with --extra-epochs")


def test_a_run_that_lost_what_it_had_is_told_so() -> None:
    test = np.where(STEPS < 600, 0.1, np.where(STEPS < 1200, 0.987, 0.08))
    gone = history().set_column(2, "test_acc", pa.array(test))
    line, *_ = told(gone, lr=1e-3)
    assert "grokked at step 600 and lost it: the test accuracy is below 95% from step 1,200" in line
    assert "8.0% at the end, with the training pairs still known: lower lr (it is 0.001)" in line
    both = gone.set_column(1, "train_acc", pa.array(np.where(STEPS < 1200, 1.0, 0.3)))
    line, *_ = told(both, weight_decay=5.0)
    assert "(train accuracy 30.0%): lower weight_decay (it is 5)" in line
    back = test.copy()
    back[-2:] = 1.0  # high again at the end, too shortly to count
    line, *_ = told(history().set_column(2, "test_acc", pa.array(back)), lr=1e-3)
    assert "lost it at step 1,200: since then the test accuracy was mostly below 95%; it is" in line
    assert "100.0% at the end, for less than 100 steps and 3 evaluations: train on with" in line
    trained = np.where(STEPS < 1200, 1.0, 0.3)
    forgot = history(grokked=None).set_column(1, "train_acc", pa.array(trained))
    line, *_ = told(forgot, weight_decay=0.0)
    assert "memorised at step 0 and lost again (train accuracy 30.0%" in line
    assert "weight_decay" not in line


# -- a sweep in which some lost it ---------------------------------------------------------------


def losing(soon: int) -> pa.Table:
    test = np.where(soon > STEPS, 0.1, np.where(soon + 400 > STEPS, 0.987, 0.08))
    return history(grokked=soon).set_column(2, "test_acc", pa.array(test))


def test_a_grok_that_is_lost_wins_no_sweep() -> None:
    runs = [Log(f"wd{i}_s0", history(grokked=step)) for i, step in enumerate((800, 900, None))]
    runs.append(Log("wd3_s0", losing(300)))
    first, second = sweep_advice(runs, [run.name[:3] for run in runs])
    assert first == "2 of 4 runs grokked; soonest with wd0: at step 800"
    assert second.startswith("1 of 4 runs grokked and lost it again, and is not among those")


def test_a_sweep_in_which_every_grok_was_lost_has_none() -> None:
    runs = [Log(f"wd{i}_s0", losing(300 + 100 * i), {"lr": 0.1}) for i in range(3)]
    first, second = sweep_advice(runs, ["a", "b", "c"])
    assert first == "none of 3 runs grokked and kept it; all had lr 0.1"
    assert second.startswith("3 of 3 runs grokked and lost it again, and are not among those")
