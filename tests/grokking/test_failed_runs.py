"""A run that failed is no result: missing from figures, grey in grids, marked in tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cutaway.cli.main import run
from cutaway.grokking.advice import sweep_advice
from cutaway.grokking.analysis import group_by, sweep_summary
from cutaway.grokking.sweep_pictures import sweep_grid, sweep_pictures
from cutaway.runs.folder import Run
from cutaway.sweeps.definition import write_definition
from cutaway.sweeps.grid import expand
from cutaway.sweeps.pictures import recorded_runs

WILD = 1e30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of eight: at the rate 1e30 all fail, half of them before their first row."""
    axes = {"sweep": {"lr": [0.01, WILD], "optimizer": ["adamw", "orthograd_adamw"]}, "seeds": 2}
    sweep = expand({"p": 11, "hidden_dim": 8, **axes}, "grokking", "trial")
    write_definition(sweep, tmp_path)
    for one in sweep.runs:
        config = one.config.model_dump(mode="json")
        with Run.create(tmp_path / one.name, study="grokking", config=config) as opened:
            if config["lr"] < 1:
                opened.append(
                    [{"step": s, "train_acc": 1.0, "test_acc": 0.25} for s in range(0, 1001, 100)]
                )
                opened.finish({"test_acc": 0.25})
            else:
                if config["seed"]:
                    opened.append([{"step": 0, "train_acc": 0.1, "test_acc": 0.75}])
                opened.fail("the loss became non-finite at step 1", 1)
    return tmp_path


def runs(folder: Path) -> list[Run]:
    return [Run.open(path.parent) for path in sorted(folder.glob("*/run.json"))]


def test_summaries_count_failed_runs_and_take_no_figure_from_them(folder) -> None:
    good, failed = sweep_summary(runs(folder), ["lr"], ["test_acc"]).to_pylist()
    assert (good["runs"], good["failed"], good["test_acc_mean"]) == (4, 0, 0.25)
    assert (failed["runs"], failed["failed"], failed["test_acc_missing"]) == (4, 4, 4)
    assert failed["test_acc_mean"] is None
    assert (failed["not_reached"], failed["grokked_unknown"]) == (0, 0)
    rows = group_by(runs(folder), "lr", "test_acc").to_pylist()
    assert [(row["count"], row["missing"]) for row in rows] == [(4, 0), (0, 4)]


def test_grids_show_failed_runs_as_failed_and_fields_of_names_as_axes(folder) -> None:
    from cutaway.sweeps.pictures import swept

    figures = sweep_pictures(*recorded_runs(swept(folder), folder))
    assert set(figures) == {"test_acc", "optimizer_by_lr"} or set(figures) == {
        "test_acc",
        "lr_by_optimizer",
    }
    (grid,) = (figure for name, figure in figures.items() if "_by_" in name)
    axes = grid.axes[0]
    cells = axes.images[0].get_array()
    assert cells.mask.sum() == 2
    assert cells.compressed().tolist() == [0.25, 0.25]
    written = [text.get_text() for text in axes.texts]
    assert sorted(written) == ["0.25", "0.25", "failed", "failed"]
    assert [text.get_text() for text in grid.legends[0].get_texts()] == ["failed"]
    labels = [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    assert {"adamw", "orthograd_adamw"} <= set(labels)
    assert axes.get_title(loc="left") == "Test accuracy, median of 2 runs"
    assert axes.images[0].get_clim() == (0, 1)
    assert len(grid.axes) == 1  # one value has no colour bar
    curves = figures["test_acc"].axes[0]
    assert curves.get_title(loc="left") == "4 of 8 runs failed and are not drawn"
    assert all(0.75 not in line.get_ydata() for line in curves.lines)


def test_a_grid_of_means_says_of_how_many_runs(folder) -> None:
    summary = sweep_summary(runs(folder), ["lr", "optimizer"], ["test_acc"])
    figure = sweep_grid(summary, "lr", "optimizer", "test_acc_mean")
    assert figure.axes[0].get_title(loc="left") == "Test accuracy, mean of 2 runs"
    assert sorted(text.get_text() for text in figure.axes[0].texts)[-2:] == ["failed", "failed"]


def test_the_note_on_a_sweep_counts_failed_runs_apart(folder) -> None:
    from cutaway.sweeps.pictures import swept

    [line] = sweep_advice(*recorded_runs(swept(folder), folder))
    assert line.startswith("none of 4 runs grokked (4 more failed); all had ")


def test_phases_mark_a_run_that_failed(folder, capsys) -> None:
    assert run(["runs", "phases", "--runs", str(folder), "--json"]) == 0
    rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
    failed = next(row for name, row in rows.items() if name.startswith("lr1e30"))
    assert failed["status"] == "failed"
    assert {row["status"] for name, row in rows.items() if name.startswith("lr0.01")} == {"done"}
    assert run(["runs", "phases", "--runs", str(folder)]) == 0
    line = next(one for one in capsys.readouterr().out.splitlines() if "lr1e30" in one)
    assert "failed" in line
    assert "not reached" not in line


def test_pictures_of_a_failed_run_say_so(folder, tmp_path, capsys) -> None:
    one = next(path for path in folder.glob("lr1e30*_s1"))
    out = tmp_path / "acc.svg"
    assert run(["plot", "test_acc", str(one), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert f"{one.name}: this run failed: step 1: the loss became non-finite" in said
    good = next(path for path in folder.glob("lr0.01*_s1"))
    assert run(["plot", "test_acc", str(good), str(one), "--out", str(out)]) == 0
    assert "(failed)" in out.read_text()


def test_several_pictures_into_a_file_are_refused(grokking_run, tmp_path, cutaway) -> None:
    code, _, err = cutaway("plot", "all", grokking_run, "--out", tmp_path / "f.png")
    assert code == 2
    assert "f.png: expected a folder; plot all draws several pictures into it" in err
