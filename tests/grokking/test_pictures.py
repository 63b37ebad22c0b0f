from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from conftest import DATA
from cutaway.base.errors import UserError
from cutaway.figures.look import save
from cutaway.grokking.inside import power_map, progress_curves, routing_maps
from cutaway.grokking.instruments import routing_table
from cutaway.grokking.pictures import PICTURES, dynamics, phase_spans, training_curves, weight_norms
from cutaway.grokking.sweep_pictures import sweep_curves, sweep_grid
from cutaway.runs import Run
from cutaway.runs.foreign import open_log
from grokking.small_runs import small_run

HISTORIES = sorted((DATA / "grokking-histories").glob("*.jsonl"))


@dataclass
class Log:
    name: str
    history: pa.Table
    path: Path = Path("nowhere.jsonl")


def history(memorised: int | None = 100, grokked: int | None = 600, **columns) -> pa.Table:
    at = np.arange(0, 1001, 50)
    train = np.where(at >= memorised, 1.0, 0.3) if memorised is not None else np.full(at.size, 0.3)
    test = np.where(at >= grokked, 0.99, 0.1) if grokked is not None else np.full(at.size, 0.1)
    losses = {"train_loss": 4 * np.exp(-at / 100), "test_loss": 5 * np.exp(-at / 500)}
    return pa.table({"step": at, "train_acc": train, "test_acc": test, **losses, **columns})


def legend_names(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


# -- from the history -----------------------------------------------------------------------------


def test_curves_shade_the_phases_and_name_their_steps():
    figure = training_curves(history(), title="a run")
    accuracy, loss = figure.axes
    assert texts(accuracy) == [
        *("memorising to 100", "circuit formation to 600", "grokked from 600")
    ]
    assert texts(loss) == []
    edges = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in loss.patches]
    assert [round(right) for _, right in edges[:2]] == [100, 600]
    assert len(accuracy.patches) == len(loss.patches) == 3
    assert legend_names(figure) == ["training", "test"]
    assert loss.get_yscale() == "log"
    assert accuracy.get_yscale() == "linear"


@pytest.mark.parametrize(
    ("memorised", "grokked", "expected"),
    [
        (100, None, ["memorising to 100", "memorised, not grokked"]),
        (None, None, ["not memorised"]),
        (None, 600, ["learning to 600", "grokked from 600"]),
        (600, 600, ["learning to 600", "grokked from 600"]),
        (100, 950, ["memorising to 100", "circuit formation to 950", "high from 950, unconfirmed"]),
    ],
)
def test_phases_that_were_not_reached_are_said_so(memorised, grokked, expected):
    assert [span.label for span in phase_spans(history(memorised, grokked))] == expected


def test_steps_are_logarithmic_without_step_0_or_linear_with_it(capsys):
    log = training_curves(history()).axes[0]
    linear = training_curves(history(), log_x=False).axes[0]
    assert log.get_xscale() == "log"
    assert log.lines[0].get_xdata()[0] == 50
    assert linear.lines[0].get_xdata()[0] == 0
    assert capsys.readouterr().err == ""


def test_a_history_without_accuracies_has_its_losses_only():
    only = history().select(["step", "train_loss"])
    figure = training_curves(only)
    assert len(figure.axes) == 1
    assert len(figure.axes[0].patches) == 0
    with pytest.raises(UserError, match="no accuracy and no loss"):
        training_curves(pa.table({"step": [0, 1], "x": [1.0, 2.0]}))


def test_validation_stands_in_for_a_test_split():
    renamed = history().rename_columns(["step", "train_acc", "val_acc", "train_loss", "val_loss"])
    assert legend_names(training_curves(renamed)) == ["training", "validation"]


def test_norms_are_drawn_by_component_name():
    columns = {f"weight_norm.{name}": np.full(21, i + 1.0) for i, name in enumerate("abc")}
    figure = weight_norms(history(**columns))
    assert texts(figure.axes[0])[:3] == ["a", "b", "c"]
    parts = {
        f"weight_norm.blocks.{b}.{part}": np.full(21, 3.0 + b)
        for b in range(2)
        for part in "uvwxyz"
    }
    grouped = weight_norms(history(**parts, **columns))
    norms = sorted(line.get_ydata()[0] for line in grouped.axes[0].lines)
    assert norms == pytest.approx([1, 2, 3, *[5] * 6])  # √(3² + 4²), one part of both blocks
    with pytest.raises(UserError, match="no weight_norm"):
        weight_norms(history())


def test_dynamics_has_a_chart_for_each_measure_with_its_error_as_a_band():
    values = np.linspace(1, 2, 21)
    columns = {
        "weight_hessian_trace": values,
        "weight_hessian_trace_se": values / 10,
        "spectral_smoothness": values / 4,
        "effective_lr_mean": values,
        "effective_lr_max": 100 * values,
    }
    figure = dynamics(history(**columns))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title.replace("\n", " ") for title in titles] == [
        *("trace of the loss's Hessian", "spectral smoothness", "effective learning rate")
    ]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(2.2)
    assert band[:, 1].min() == pytest.approx(values[1] * 0.9)
    assert not figure.axes[1].collections
    assert len(figure.axes[2].lines) == 2
    assert figure.axes[2].get_yscale() == "log"
    assert {"mean", "max"} == set(texts(figure.axes[2]))
    assert "grokked from 600" in legend_names(figure)


@pytest.mark.skipif(not HISTORIES, reason="the recorded histories are not here")
@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_histories_recorded_by_others_have_curves_and_norms(path, tmp_path):
    log = open_log(path)
    drawn = {name for name, draw in PICTURES.items() if draw(log) is not None}
    assert drawn == {"curves", "norms"}
    assert save(PICTURES["curves"](log), tmp_path / "curves.png").stat().st_size > 10_000


# -- from weights and tables ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(
        tmp_path_factory.mktemp("runs") / "small", operation="multiply", p=13, steps=200
    )


def test_a_run_with_checkpoints_has_its_spectra_and_progress(run):
    from cutaway.grokking.progress import progress_measures

    log = open_log(run)
    drawn = {name: draw(log) for name, draw in PICTURES.items()}
    missing = {name for name, figure in drawn.items() if figure is None}
    assert missing == {"routing", "dynamics"}
    keys = progress_measures(run)["key_frequencies"][0].as_py()
    bars = drawn["embedding_spectrum"].axes[0]
    assert texts(bars) == [str(key) for key in keys]
    assert len(bars.patches) == 6  # k = 1 to 12 // 2: multiplication has 12 places modulo 13
    assert bars.get_xlabel() == "frequency k over the discrete logarithm"
    title = drawn["progress"].axes[0].get_title(loc="left")
    assert title == f"small: key frequencies {', '.join(map(str, keys))}"
    image = drawn["output_spectrum"].axes[0].images[0].get_array()
    assert image.shape == (12, 12)
    assert image.sum() == pytest.approx(1, abs=1e-3)
    assert image.mask.sum() == 1  # the constant, in the middle: row 0 is k = 5, the last k = -6
    assert image.mask[5, 6]


def test_power_lies_on_the_diagonal_of_a_sum_and_the_constant_is_left_out():
    from cutaway.grokking.spectrum import output_power

    at = torch.arange(11, dtype=torch.float64)
    table = torch.cos(2 * torch.pi * 3 / 11 * (at[:, None, None] + at[:, None] - at)) + 50
    power = torch.fft.fftshift(output_power(table)).numpy()
    image = power_map(power).axes[0].images[0].get_array()
    place = {k: (5 - k, k + 5) for k in (3, -3)}  # rows from k_a = 5 down, columns from k_b = -5 up
    for where in place.values():
        assert image[where] == pytest.approx(0.5)
    assert image.mask[5, 5]


def test_a_run_without_a_circle_has_no_progress_but_its_spectra(tmp_path, capsys):
    path = small_run(tmp_path / "fifteen", operation="multiply", p=15, steps=2, every=1)
    log = open_log(path)
    assert PICTURES["progress"](log) is None
    assert "fifteen: no progress measures: p = 15" in capsys.readouterr().err
    assert PICTURES["output_spectrum"](log) is not None
    figure = PICTURES["embedding_spectrum"](log)
    assert figure.axes[0].get_xlabel() == "frequency k"
    assert texts(figure.axes[0]) == []


def test_damaged_checkpoints_cost_the_pictures_of_weights_only(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "damaged")
    for weights in copy.glob("checkpoints/step-*/model.safetensors"):
        weights.write_bytes(b"")
    log = open_log(copy)
    drawn = {name for name, draw in PICTURES.items() if draw(log) is not None}
    assert drawn == {"curves", "norms"}
    assert "no checkpoint left intact" in capsys.readouterr().err


def test_progress_curves_draw_the_four_losses():
    steps = [0, 10, 100]
    names = ("restricted_loss", "excluded_loss", "train_loss", "test_loss")
    table = pa.table(
        {"step": steps, **{n: [4.0, 3.0 - i / 2, 2.0 - i / 2] for i, n in enumerate(names)}}
    ).append_column("key_frequencies", pa.array([[2, 5]] * 3))
    (axes,) = progress_curves(table).axes
    assert axes.get_title(loc="left") == "Key frequencies 2, 5"
    assert [line.get_ydata()[-1] for line in axes.lines] == [2.0, 1.5, 1.0, 0.5]
    assert texts(axes)[0].startswith("restricted")


def test_routing_maps_show_the_dominant_head_of_the_last_step(tmp_path):
    gates = torch.full((9, 2, 3), 0.1)
    gates[..., 2] = 0.8
    late = gates.clone()
    late[:, 0] = torch.tensor([0.2, 0.7, 0.1])  # layer 0: head 1 ...
    late[1 * 3 + 2, 0] = torch.tensor([0.9, 0.05, 0.05])  # ... but head 0 for a = 1, b = 2
    tables = pa.concat_tables([routing_table(gates, 0, 3), routing_table(late, 50, 3)])
    figure = routing_maps(tables, title="r")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["layer 0", "layer 1"]
    colors = np.asarray(figure.axes[0].images[0].get_array())
    assert len(np.unique(colors.reshape(-1, 3), axis=0)) == 2
    odd = [place for place in np.ndindex(3, 3) if not np.allclose(colors[place], colors[0, 0])]
    assert odd == [(2, 1)]  # row b, column a
    assert legend_names(figure) == ["head 0", "head 1", "head 2"]
    with Run.create(tmp_path / "routed", study="grokking", config={}) as run:
        run.append([{"step": 0, "train_acc": 0.1}])
        run.append_table("routing", tables)
        run.finish({})
    assert PICTURES["routing"](open_log(tmp_path / "routed")) is not None
    assert PICTURES["progress"](open_log(tmp_path / "routed")) is None


def test_pictures_load_without_torch():
    code = (
        "import sys, cutaway.grokking.pictures as p; assert 'torch' not in sys.modules; p.PICTURES"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- of sweeps ------------------------------------------------------------------------------------


def test_sweep_curves_give_each_group_a_colour_and_its_median():
    logs = [
        *(Log(f"wd1_s{seed}", history(grokked=g)) for seed, g in enumerate((300, 500, None))),
        Log("wd0_s0", history(grokked=None)),
    ]
    figure = sweep_curves(logs)
    (axes,) = figure.axes
    assert texts(axes) == ["wd0", "wd1 (3)"]
    median = max(axes.lines[:5], key=lambda line: (line.get_linewidth(), line.get_ydata()[-1]))
    at = dict(zip(median.get_xdata(), median.get_ydata(), strict=True))
    assert at[450] == pytest.approx(0.1)  # one of three has grokked
    assert at[500] == pytest.approx(0.99)  # two of three
    colors = [line.get_color() for line in axes.lines]
    assert len(set(colors[:3])) == 1
    assert colors[3] != colors[0] == colors[4]
    assert axes.get_yscale() == "linear"


def test_sweep_curves_refuse_a_metric_no_run_has_and_wrong_groups():
    with pytest.raises(UserError, match=r"a: no finite test_ac .*test_acc"):
        sweep_curves([Log("a", history())], "test_ac")
    with pytest.raises(UserError, match="groups: 2 given for 1 runs"):
        sweep_curves([Log("a", history())], groups=["x", "y"])


def test_a_grid_tells_what_was_not_reached_apart_from_what_was_not_run():
    rows = [
        {"lr": lr, "wd": wd, "step": step}
        for (lr, wd), steps in {
            (1e-3, 1.0): (400, 300, None),
            (1e-3, 0.5): (None, None, 900),
            (3e-3, 1.0): (100, 200),
        }.items()
        for step in steps
    ]
    figure = sweep_grid(rows, "lr", "wd", "step")
    (axes, _bar) = figure.axes
    assert texts(axes) == ["400\n2 of 3", "150\n2 of 2", "1 of 3"]
    image = axes.images[0].get_array()  # wd 1 above wd 0.5, lr 0.001 left of 0.003
    assert image.mask.tolist() == [[False, False], [True, True]]
    assert image[0].tolist() == [400, 150]
    assert legend_names(figure) == ["not reached by most runs, or no run"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.001", "0.003"]


def test_a_grid_of_single_runs_writes_the_figure_alone():
    rows = [{"lr": lr, "p": p, "test_acc": 0.5 + lr} for lr in (0.1, 0.2) for p in (17, 113)]
    figure = sweep_grid(pa.Table.from_pylist(rows), "lr", "p", "test_acc")
    assert texts(figure.axes[0]) == ["0.60", "0.70", "0.60", "0.70"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["113", "17"]
    with pytest.raises(UserError, match="no column 'weight'"):
        sweep_grid(rows, "weight", "p")
    with pytest.raises(UserError, match="no cell reached step"):
        sweep_grid([{"lr": 1, "p": 2, "step": None}], "lr", "p", "step")


def test_a_grid_of_a_sweep_summary_counts_its_runs():
    from cutaway.grokking.analysis import sweep_summary
    from cutaway.runs.foreign import Log as RunLog

    logs = [
        RunLog(f"{lr}-{wd}-{step}", Path(f"{lr}-{wd}-{step}"), history(grokked=step), None, config)
        for lr, wd, step in [(1, 0, 300), (1, 0, 500), (1, 0, None), (2, 0, None), (1, 1, 200)]
        for config in [{"lr": lr, "weight_decay": wd}]
    ]
    figure = sweep_grid(sweep_summary(logs, ["lr", "weight_decay"]), "lr", "weight_decay")
    assert sorted(texts(figure.axes[0])) == ["200", "500\n2 of 3"]
    assert legend_names(figure) == ["not reached by most runs, or no run"]


def test_a_sweep_in_which_no_setting_grokked_in_most_runs_shows_accuracies_instead():
    from cutaway.grokking.sweep_pictures import sweep_pictures
    from cutaway.runs.foreign import Log as RunLog

    logs = [
        RunLog(f"r{number}", Path(f"r{number}"), history(grokked=step), None, config)
        for number, (lr, wd, step) in enumerate(
            [(1, 0, 300), (1, 0, None), (1, 0, None), (2, 0, None), (1, 1, None), (2, 1, None)]
        )
        for config in [{"lr": lr, "weight_decay": wd}]
    ]
    figures = sweep_pictures(logs, [log.name for log in logs])
    (grid,) = (figure for name, figure in figures.items() if "_by_" in name)
    assert "not reached" not in " ".join(texts(grid.axes[0]))
    assert "accuracy" in grid.axes[0].get_title(loc="left")
