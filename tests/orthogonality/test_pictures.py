from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from cutaway.base.errors import UserError
from cutaway.dictionaries.pictures.runs import PICTURES
from cutaway.dictionaries.pictures.training import training_comparison
from cutaway.figures import look
from cutaway.figures.look import save
from cutaway.orthogonality import experiment as orthogonality
from cutaway.orthogonality.comparison import Comparison
from cutaway.orthogonality.forest import Row, side_by_side
from cutaway.orthogonality.pair_pictures import pair_cosines, pair_stability
from cutaway.orthogonality.pictures import (
    absorption_against_variance,
    differences,
    efficiency,
    study_figures,
)
from cutaway.runs.folder import Run
from cutaway.runs.foreign import open_log
from cutaway.sweeps.definition import write_definition
from cutaway.sweeps.grid import expand

STEPS = np.arange(0, 101, 5)
FEATURES = 10
GREY = "#a8a8a8"


@dataclass
class Log:
    name: str
    history: pa.Table
    path: Path = field(default=Path("nowhere"))


def columns(**changes) -> dict:
    fall = np.exp(-STEPS / 40)
    made = {
        "train_loss": 2 + 30 * fall,
        "tau": 0.1 + 0.2 * fall,
        "pair_cosine_mean": 0.2 + 0.1 * fall,
        "pair_cosine_std": 0.05 + 0 * fall,
        "pair_overlap": np.r_[np.nan, 0.5 + 0 * fall[1:]],
        "pair_half_life": np.r_[[np.nan] * 10, [30.0] * 11],
    }
    return {name: list(values) for name, values in (made | changes).items() if values is not None}


PLAIN = dict.fromkeys(
    ("tau", "pair_cosine_mean", "pair_cosine_std", "pair_overlap", "pair_half_life")
)


def made_run(
    folder: Path, pairs: dict | None = None, failed_at: int | None = None, **changes
) -> Path:
    """A run of 100 steps written by hand, or one that failed at a step; `pairs`: step → pairs."""
    run = Run.create(
        folder,
        study="dictionary",
        config={},
        steps_planned=100,
        resolved={"settings": {"d_hidden": FEATURES}},
    )
    with run:
        values = columns(**changes)
        last = 101 if failed_at is None else failed_at
        rows = [
            {"step": int(step), **{name: float(column[n]) for name, column in values.items()}}
            for n, step in enumerate(STEPS)
            if step < last
        ]
        if rows:
            run.append(rows)
        for step, chosen in (pairs or {}).items():
            i, j, cosine = (np.array(part) for part in zip(*chosen))
            table = {"step": np.full(len(i), step), "i": i, "j": j, "cosine": cosine}
            run.append_table("pairs", pa.table(table))
        done = 100 if failed_at is None else failed_at
        run.record.steps_attempted = run.record.steps_done = done
        if failed_at is None:
            run.finish({})
        else:
            run.fail("not finite", failed_at)
    return folder


def by_label(figure: Figure, text: str) -> Axes:
    return next(axes for axes in figure.axes if text in axes.get_ylabel())


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    legends = [text for box in figure.legends for text in box.get_texts()]
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [
        text.get_text() for text in legends
    ]


def test_no_picture_without_the_penalty(tmp_path: Path) -> None:
    plain = open_log(made_run(tmp_path / "plain", **PLAIN))
    for name in ("training_comparison", "pair_cosines", "pair_stability"):
        assert PICTURES[name](plain) is None


def test_the_four_panels_show_what_was_recorded(tmp_path: Path) -> None:
    figure = training_comparison([open_log(made_run(tmp_path / "one"))])
    assert figure is not None
    assert len(figure.axes) == 4
    known = columns()
    tau = by_label(figure, "looser")
    np.testing.assert_allclose(tau.lines[0].get_ydata(), known["tau"])
    cosine = by_label(figure, "cosine")
    np.testing.assert_allclose(cosine.lines[0].get_ydata(), known["pair_cosine_mean"])
    band = cosine.collections[0].get_paths()[0].vertices
    first = band[band[:, 0] == 0][:, 1]
    np.testing.assert_allclose([first.min(), first.max()], [0.3 - 0.05, 0.3 + 0.05])
    loss = by_label(figure, "loss")
    assert loss.get_yscale() == "log"
    np.testing.assert_allclose(loss.lines[0].get_ydata(), known["train_loss"])
    steps = by_label(figure, "successful")
    assert steps.lines[0].get_xydata()[-1].tolist() == [100, 100]
    assert "100 of 100" in texts(figure)


def test_a_run_that_failed_has_a_plateau_and_a_cross(tmp_path: Path) -> None:
    logs = [open_log(made_run(tmp_path / name)) for name in ("a", "b")]
    logs.append(open_log(made_run(tmp_path / "broken", failed_at=40)))
    figure = training_comparison(logs)
    steps = by_label(figure, "successful")
    assert "never attempted" in steps.get_xlabel()
    ends = [line.get_xydata()[-1].tolist() for line in steps.lines]
    flat = next(
        line
        for line in steps.lines
        if set(line.get_ydata()) == {40} and line.get_xydata().size == 4
    )
    assert flat.get_xydata().tolist() == [[41, 40], [100, 40]]
    assert flat.get_linestyle() != "-"
    cross = next(line for line in steps.lines if line.get_marker() == "x")
    assert cross.get_xydata().tolist() == [[41, 40]]
    assert ends.count([100, 100]) == 3  # both runs, and the dot with their name
    assert {"2 runs: 100 of 100", "broken: 40 of 100"} <= set(texts(figure))


def test_a_run_being_written_did_not_end_early(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "now", study="dictionary", config={}, steps_planned=100)
    with run:
        run.append([{"step": 0, "pair_cosine_mean": 0.1, "train_loss": 1.0}])
        run.append([{"step": 30, "pair_cosine_mean": 0.1, "train_loss": 1.0}])
        figure = training_comparison([open_log(tmp_path / "now")])
    steps = by_label(figure, "successful")
    assert "30 of 100" in texts(figure)
    assert not [line for line in steps.lines if line.get_marker() == "x"]


def test_a_run_keeps_its_colour_in_every_panel(tmp_path: Path) -> None:
    logs = [open_log(made_run(tmp_path / "none", **PLAIN))]
    logs += [open_log(made_run(tmp_path / name)) for name in ("fixed", "adaptive")]
    figure = training_comparison(logs)
    tau, loss = by_label(figure, "looser"), by_label(figure, "loss")
    colors = [line.get_color() for line in loss.lines]
    assert colors == list(look.PALETTE[:3])
    assert [line.get_color() for line in tau.lines] == colors[1:]


def test_a_history_of_others_has_as_many_steps_as_it_says() -> None:
    figure = training_comparison([Log("theirs", pa.table({"step": STEPS, **columns()}))])
    assert "100 of 100" in texts(figure)


PAIRS = {
    0: [(0, 1, 0.1), (0, 2, -0.1), (3, 4, 0.5), (3, 5, np.nan)],
    50: [(0, 1, 0.1), (0, 2, 0.1), (1, 2, 0.1), (3, 4, 0.9)],
    100: [(0, 1, -0.9), (0, 2, 0.9)],
}


def test_the_map_of_cosines_holds_each_readings_shares(tmp_path: Path) -> None:
    figure = pair_cosines([open_log(made_run(tmp_path / "one", PAIRS))])
    axes = figure.axes[0]
    mesh = next(one for one in axes.collections if isinstance(one, QuadMesh))
    shares = mesh.get_array()
    np.testing.assert_allclose(shares.sum(0), 1)
    edges = np.asarray(mesh.get_coordinates())[:, 0, 1]

    def share(cosine: float) -> np.ndarray:
        return shares[np.searchsorted(edges, cosine, side="right") - 1]

    np.testing.assert_allclose(share(0.1), [2 / 3, 3 / 4, 0])
    np.testing.assert_allclose(share(0.899), [0, 1 / 4, 1])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), columns()["tau"])
    assert any("τ" in text for text in texts(figure))


def test_a_map_for_each_run_that_selected_pairs(tmp_path: Path) -> None:
    logs = [open_log(made_run(tmp_path / "none", **PLAIN))]
    logs += [open_log(made_run(tmp_path / name, PAIRS)) for name in ("fixed", "adaptive")]
    figure = pair_cosines(logs)
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["fixed", "adaptive"]
    assert not any("none" in axes.get_title(loc="left") for axes in figure.axes)


def test_overlap_against_lag_is_that_of_the_recorded_pairs(tmp_path: Path) -> None:
    pairs = {step: [(i, j, 0.1) for i, j, _ in chosen] for step, chosen in PAIRS.items()}
    figure = pair_stability([open_log(made_run(tmp_path / "one", pairs))])
    overlap, life, lag = figure.axes
    np.testing.assert_allclose(overlap.lines[0].get_ydata()[1:], 0.5)
    np.testing.assert_allclose(np.unique(life.lines[0].get_ydata()[10:]), 30)
    # {01, 02, 34, 35}, {01, 02, 12, 34}, {01, 02}: 3/5 and 2/4 fifty steps apart, 2/4 a hundred
    np.testing.assert_allclose(
        lag.lines[0].get_xydata(), [[1, 0.5], [50, (3 / 5 + 2 / 4) / 2], [100, 2 / 4]]
    )


def arm(name: str, target: float, **values: float) -> dict:
    """A row of the comparison; a measure is its mean, or mean, low and high."""
    row = {"arm": name, "target_l0": target, "seeds": 3}
    for key, value in values.items():
        mean, low, high = value if isinstance(value, tuple) else (value, np.nan, np.nan)
        row |= {key: mean, f"{key}_low": low, f"{key}_high": high}
        if key.endswith("_change"):
            row[key.replace("_change", "_within_noise")] = not (low > 0 or high < 0)
    return row


def comparison(*arms: dict, seconds: float = 2.0) -> Comparison:
    runs = [
        {
            "arm": one["arm"],
            "target_l0": one["target_l0"],
            "matched": True,
            "steps": 1000,
            "ms_per_step": seconds,
        }
        for one in arms
    ]
    runs.append({**runs[0], "matched": False, "ms_per_step": 1e6})
    return Comparison(runs, list(arms))


def two_arms(target: float = 2.0) -> list[dict]:
    return [
        arm("none", target, absorption=(0.3, 0.28, 0.32), explained_variance=(0.9, 0.89, 0.91)),
        arm(
            "tau-0.1",
            target,
            absorption=(0.1, 0.05, 0.15),
            explained_variance=(0.88, 0.87, 0.89),
            orthogonality_loss=0.5,
            absorption_change=(-0.2, -0.3, -0.1),
            explained_variance_change=(-0.02, -0.04, 0.01),
            mmcs_change=(-0.1, -0.2, -0.05),
            decoder_max_cosine_change=(-0.1, np.nan, np.nan),
        ),
    ]


def test_absorption_stands_against_variance_with_its_intervals() -> None:
    figure = absorption_against_variance(comparison(*two_arms(2.0), *two_arms(3.0)))
    axes = figure.axes[0]
    assert "absorption" in axes.get_ylabel()
    assert "variance" in axes.get_xlabel()
    marks = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    points = {tuple(line.get_xydata()[0]): line.get_marker() for line in marks}
    assert set(points) == {(0.9, 0.3), (0.88, 0.1)}
    assert len(marks) == 4
    assert {line.get_marker() for line in marks} == {"o", "s"}  # one for each L0
    reach = [path.vertices for bar in axes.collections for path in bar.get_paths()]
    assert any(np.allclose(one, [[0.88, 0.05], [0.88, 0.15]]) for one in reach)
    assert any(np.allclose(one, [[0.87, 0.1], [0.89, 0.1]]) for one in reach)
    assert {"none", "tau-0.1", "target L0 2", "target L0 3"} <= set(texts(figure))


def test_without_absorption_the_decoders_cosines_stand_in_its_place() -> None:
    arms = [arm("none", 8, explained_variance=0.9, decoder_max_cosine=0.4, probing_1=0.7)]
    figure = absorption_against_variance(comparison(*arms))
    assert "decoder rows (lower is better)" in figure.axes[0].get_ylabel()
    assert absorption_against_variance(comparison(arm("none", 8))) is None


def test_an_interval_far_wider_than_the_means_runs_out_of_the_chart() -> None:
    wide = [
        arm(name, 2, absorption=(value, value - 9, value + 9), explained_variance=0.9)
        for name, value in (("none", 0.3), ("tau-0.1", 0.2))
    ]
    low, high = absorption_against_variance(comparison(*wide)).axes[0].get_ylim()
    assert 0.0 < low < 0.2
    assert 0.3 < high < 0.5


def test_absorption_removed_is_divided_by_the_penalty_and_by_the_time() -> None:
    figure = efficiency(comparison(*two_arms(), seconds=2.0))  # 1,000 steps of 2 ms
    bars = [axes.patches[0].get_width() for axes in figure.axes]
    np.testing.assert_allclose(bars, [0.2, 0.2 / 0.5, 0.2 / 2.0])
    spans = [sorted(axes.lines[0].get_xdata()) for axes in figure.axes]
    np.testing.assert_allclose(spans, [[0.1, 0.3], [0.2, 0.6], [0.05, 0.15]])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["tau-0.1"]


def test_an_arm_that_pays_nothing_has_no_bar_per_penalty() -> None:
    free = arm("free", 2, orthogonality_loss=1e-6, absorption_change=(-0.1, -0.2, 0.1))
    figure = efficiency(comparison(*two_arms(), free))
    assert [len(axes.patches) for axes in figure.axes] == [2, 1, 2]
    assert len(efficiency(comparison(free)).axes) == 2  # and nobody pays: no such chart


def test_changes_within_noise_are_grey_and_others_say_which_way() -> None:
    figure = differences(comparison(*two_arms()))
    marks = [axes.lines[0] for axes in figure.axes]
    assert [line.get_xdata()[0] for line in marks] == [-0.2, -0.02, -0.1, -0.1]
    colors = [to_hex(line.get_color()) for line in marks]
    better, worse = look.PALETTE[0], look.PALETTE[1]
    assert colors == [better, GREY, worse, GREY]  # the last has no interval
    assert texts(figure) == ["better than the baseline", "worse than the baseline", "within noise"]


def test_arms_stand_under_their_target_l0() -> None:
    figure = differences(comparison(*two_arms(2.0), *two_arms(3.0)))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["L0 2", "tau-0.1", "L0 3", "tau-0.1"]


def test_nothing_compared_draws_nothing() -> None:
    alone = comparison(arm("none", 2, absorption=0.1))
    assert efficiency(alone) is None
    assert differences(alone) is None
    with pytest.raises(UserError, match="nothing to draw"):
        side_by_side([Row("a", 2, [None], [True])], ["x"], [1], bars=True, title="")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study whose runs were written by hand: two L0s, two seeds, an arm that failed at once."""
    values = {
        "synthetic": "hierarchy",
        "runs": [
            {"name": "none", "orthogonality": None},
            {"name": "tau-0.1", "orthogonality": "top_k", "tau": 0.1},
            {"name": "adaptive", "orthogonality": "top_k", "tau_adaptive": True},
            {"name": "random", "orthogonality": "random"},
        ],
        "sweep": {"target_l0": [3.0, 2.0], "seed, data_seed": [[5, 5], [6, 6]]},
    }
    planned = expand(values, "dictionary", "orthogonality")
    write_definition(planned, tmp_path)
    for run in planned.runs:
        if run.name.startswith("none"):
            made_run(tmp_path / run.name, **PLAIN)
        elif run.name.startswith("adaptive"):
            made_run(tmp_path / run.name, failed_at=0)
        elif run.name.startswith("tau"):
            made_run(tmp_path / run.name, PAIRS)
    return tmp_path  # random was not begun


def test_a_study_draws_all_there_is_data_for(study: Path) -> None:
    figures = study_figures(study, comparison(*two_arms()))
    assert list(figures) == [
        *("training_comparison", "absorption_against_variance", "efficiency"),
        *("pair_cosines", "pair_stability", "differences"),
    ]
    few = study_figures(study, comparison(arm("none", 2)))
    assert list(few) == ["training_comparison", "pair_cosines", "pair_stability"]


def test_a_study_shows_one_run_of_each_arm_also_one_without_a_step(study: Path) -> None:
    figure = study_figures(study, comparison(*two_arms()))["training_comparison"]
    assert figure.get_suptitle() == "L0 3, seed 5"
    words = texts(figure)
    assert "2 runs: 100 of 100" in words
    assert "adaptive: 0 of 100" in words
    assert not any("random" in word for word in words)


def test_nine_arms_at_two_l0s_are_named_in_every_format(tmp_path: Path) -> None:
    arms = []
    for target in (2.0, 3.0):
        for n, name in enumerate(orthogonality.ARMS):
            one = two_arms(target)[min(n, 1)] | {"arm": name}
            placed = {"absorption": 0.1 + 0.02 * n, "explained_variance": 0.9 - 0.01 * n}
            bounds = {
                f"{key}_{end}": value + way
                for key, value in placed.items()
                for end, way in (("low", -0.02), ("high", 0.02))
            }
            arms.append(one | placed | bounds)
    figure = absorption_against_variance(comparison(*arms))
    assert set(orthogonality.ARMS) <= set(texts(figure))
    for ending in ("png", "svg", "pdf"):
        assert save(figure, tmp_path / f"a.{ending}").stat().st_size > 3000
