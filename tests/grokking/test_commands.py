"""Grokking at the command line: pictures of runs, of histories of others, of sweeps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import cutaway.sweeps.pictures as sweep_drawing
from cutaway.base.errors import UserError
from cutaway.cli.main import run
from cutaway.nets.architectures import build
from cutaway.runs.folder import Run
from cutaway.sweeps.definition import write_definition
from cutaway.sweeps.grid import SweepRun, expand

STEPS = list(range(0, 1001, 50))


def rows(grokked: int | None) -> list[dict]:
    """A run that memorises at 100 and groks at a step."""
    return [
        {
            "step": step,
            "train_acc": 1.0 if step >= 100 else 0.3,
            "test_acc": 0.99 if grokked is not None and step >= grokked else 0.1,
            "train_loss": 4 * float(np.exp(-step / 100)),
            "test_loss": 5 * float(np.exp(-step / 500)),
        }
        for step in STEPS
    ]


def history_file(path: Path, grokked: int | None = 600) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(grokked)))
    return path


def record(folder: Path, one: SweepRun, grokked: int | None) -> None:
    """The run of a sweep as it would have been left."""
    config = one.config.model_dump(mode="json")
    with Run.create(folder / one.name, study="grokking", config=config, seed=0) as opened:
        opened.append(rows(grokked))
        opened.finish({"test_acc": 0.5})


def sweep_folder(folder: Path, values: dict, grokked: list[int | None]) -> Path:
    """A sweep's folder; its first runs have grokked at these steps, the others never began."""
    sweep = expand({"p": 11, "hidden_dim": 8, **values}, "grokking", "trial")
    folder.mkdir()
    write_definition(sweep, folder)
    for one, step in zip(sweep.runs, grokked):
        record(folder, one, step)
    return folder


def drawn(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- plot loss, plot METRIC ------------------------------------------------------------------


def test_losses_of_grokking_are_test_and_training_in_nats_per_pair(tmp_path) -> None:
    log = str(history_file(tmp_path / "a.jsonl"))
    assert run(["--quiet", "plot", "loss", log, "--out", str(tmp_path / "loss.svg")]) == 0
    text = (tmp_path / "loss.svg").read_text()
    for said in ("loss (nats per pair)", "training 0.00018", "test 0.68"):
        assert said in text
    assert "10" in text  # four decades: a logarithmic axis


def test_validation_stands_in_where_there_is_no_test(tmp_path) -> None:
    lines = [{"step": s, "loss": 3.0 - s, "val_loss": 3.5, "val_acc": 0.5} for s in (0, 1)]
    log = tmp_path / "a.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(["--quiet", "plot", "loss", str(log), "--out", str(tmp_path / "loss.svg")]) == 0
    text = (tmp_path / "loss.svg").read_text()
    assert "validation 3.50" in text
    assert "nats per pair" in text


def test_runs_and_histories_of_others_share_a_picture(grokking_run, tmp_path) -> None:
    log = str(history_file(tmp_path / "theirs.jsonl"))
    out = tmp_path / "acc.svg"
    assert run(["--quiet", "plot", "test_acc", str(grokking_run), log, "--out", str(out)]) == 0
    for said in ("test accuracy", "grokking", "theirs"):
        assert said in out.read_text()


def test_a_run_that_cannot_be_drawn_is_named_and_the_others_are_drawn(
    grokking_run, tmp_path, capsys
) -> None:
    (tmp_path / "junk").mkdir()
    out = tmp_path / "acc.svg"
    words = ["plot", "test_acc", str(grokking_run), str(tmp_path / "junk"), "--out", str(out)]
    assert run(words) == 0
    assert f"not drawn: {tmp_path / 'junk'}: holds no run" in capsys.readouterr().err
    assert "test accuracy" in out.read_text()
    out.unlink()
    assert run(["plot", "test_acc", str(tmp_path / "junk"), "--out", str(out)]) == 2
    assert not out.exists()


def test_a_mistyped_run_is_an_error_before_anything_is_drawn(
    grokking_run, tmp_path, capsys
) -> None:
    out = tmp_path / "acc.svg"
    gone = str(tmp_path / "gone")
    assert run(["plot", "test_acc", str(grokking_run), gone, "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith(f"cutaway: {gone}: no run")
    assert not out.exists()


def test_runs_of_two_studies_have_no_unit_of_either(backpack_run, grokking_run, tmp_path) -> None:
    out = tmp_path / "loss.svg"
    arguments = ["plot", "loss", str(backpack_run), str(grokking_run), "--out", str(out)]
    assert run(["--quiet", *arguments]) == 0
    assert "loss (nats)" in out.read_text()
    assert "nats per" not in out.read_text()


# -- plot all --------------------------------------------------------------------------------


def test_everything_of_a_history_of_others_is_drawn(tmp_path, capsys) -> None:
    log = tmp_path / "theirs.jsonl"
    more = {"weight_norm.embed": 3.0, "weight_norm.head": 2.0, "jacobian_norm": 0.5}
    log.write_text("".join(json.dumps(row | more) + "\n" for row in rows(600)))
    assert run(["plot", "all", str(log), "--out", str(tmp_path / "out")]) == 0
    assert drawn(tmp_path / "out") == ["curves.png", "dynamics.png", "norms.png"]
    assert capsys.readouterr().err.count("wrote ") == 3


def test_an_imported_run_is_drawn_as_its_columns_say(tmp_path) -> None:
    log = history_file(tmp_path / "theirs.jsonl")
    runs = str(tmp_path / "runs")
    assert run(["--quiet", "runs", "import", str(log), "--runs", runs]) == 0
    imported = str(tmp_path / "runs" / "theirs")
    assert run(["--quiet", "plot", "all", imported, "--out", str(tmp_path / "out")]) == 0
    assert drawn(tmp_path / "out") == ["curves.png"]


def test_a_language_history_of_others_has_its_losses_drawn(tmp_path) -> None:
    log = tmp_path / "lm.csv"
    log.write_text("iter,train_loss,val_loss\n0,4.0,4.1\n100,3.0,3.2\n")
    assert run(["--quiet", "plot", "all", str(log), "--out", str(tmp_path / "out")]) == 0
    assert drawn(tmp_path / "out") == ["loss.png"]
    assert run(["--quiet", "plot", "loss", str(log), "--out", str(tmp_path / "l.svg")]) == 0
    assert "nats per token" in (tmp_path / "l.svg").read_text()


def test_a_run_of_one_row_has_nothing_to_draw_and_says_so(tmp_path, capsys) -> None:
    log = tmp_path / "short.jsonl"
    log.write_text(json.dumps(rows(None)[0]) + "\n")
    assert run(["plot", "all", str(log), "--out", str(tmp_path / "out")]) == 2
    assert "short.jsonl: nothing to draw" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(["--quiet", "plot", "loss", str(log), "--out", str(tmp_path / "one.png")]) == 0


def test_what_cannot_be_drawn_does_not_keep_the_rest_from_it(tmp_path, capsys) -> None:
    """A run that diverged: its last checkpoint has nothing finite, its history has."""
    shape = {"name": "modular_mlp", "p": 7, "hidden_dim": 4, "n_layers": 1}
    model = build(shape, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    config = {"p": 7, "operation": "add", "train_frac": 0.5, "data_seed": 0}
    with Run.create(
        tmp_path / "run", study="grokking", config=config, resolved={"architecture": shape}
    ) as opened:
        opened.append(rows(600))
        opened.checkpoints.save(0, {"model": model.state_dict()}, {})
        opened.fail("the loss became non-finite", 1)
    assert run(["plot", "all", str(tmp_path / "run"), "--out", str(tmp_path / "pictures")]) == 0
    said = capsys.readouterr().err
    assert "not drawn: output_spectrum: " in said
    assert "curves.png" in drawn(tmp_path / "pictures")


def test_where_nothing_can_be_drawn_every_reason_is_told(tmp_path, capsys, monkeypatch) -> None:
    def refused(log):
        raise UserError("it is empty")

    pictures = {"one": refused, "two": refused}
    monkeypatch.setattr("cutaway.studies.registry.pictures_of", lambda study: pictures)
    file = history_file(tmp_path / "h.jsonl")
    assert run(["plot", "all", str(file), "--out", str(tmp_path / "pictures")]) == 2
    assert "nothing to draw: one: it is empty; two: it is empty" in capsys.readouterr().err


def test_phases_of_one_that_has_none_do_not_hide_those_of_the_others(tmp_path, capsys) -> None:
    good = history_file(tmp_path / "good.jsonl")
    (tmp_path / "losses.csv").write_text("step,train_loss\n0,1\n1,2\n")
    names = [str(tmp_path / "losses.csv"), str(good), str(tmp_path / "nowhere")]
    assert run(["runs", "phases", *names, "--json"]) == 2
    shown = capsys.readouterr()
    assert [row["run"] for row in json.loads(shown.out)] == ["good"]
    assert "losses: has no train_acc; phases need train_acc and test_acc" in shown.err
    assert "nowhere" in shown.err
    assert run(["runs", "phases", str(good), "--sustain", "-1"]) == 2  # a slip that is of no run
    assert "sustain = -1" in capsys.readouterr().err


# -- plot sweep ------------------------------------------------------------------------------


def test_a_sweep_has_curves_and_a_grid_for_each_pair_of_numbers(tmp_path, capsys) -> None:
    axes = {"sweep": {"lr": [1e-3, 3e-3], "weight_decay": [0.5, 1.0], "n_layers": [1, 2]}}
    folder = sweep_folder(tmp_path / "s", axes, [300, 400, None, 500, 600, 300, None, 200])
    assert run(["plot", "sweep", str(folder), "--out", str(tmp_path / "out")]) == 0
    pairs = ["lr_by_n_layers.png", "weight_decay_by_n_layers.png", "weight_decay_by_lr.png"]
    assert drawn(tmp_path / "out") == sorted([*pairs, "test_acc.png"])
    assert capsys.readouterr().err.count("wrote ") == 4


def test_seeds_and_what_varies_together_make_no_grid_but_names_are_an_axis(tmp_path) -> None:
    axes = {
        "sweep": {"lr, weight_decay": [[1e-3, 0.5], [3e-3, 1.0]], "activation": ["gelu", "relu"]},
        "seeds": 2,
    }
    folder = sweep_folder(tmp_path / "s", axes, [300] * 8)
    assert run(["--quiet", "plot", "sweep", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert drawn(tmp_path / "out") == [
        *("lr_by_activation.png", "test_acc.png", "weight_decay_by_activation.png")
    ]
    listed = {"runs": [{"lr": 0.1}, {"activation": "relu"}, {"n_layers": 1, "lr": 0.2}]}
    folder = sweep_folder(tmp_path / "listed", listed, [300] * 3)
    assert run(["--quiet", "plot", "sweep", str(folder), "--out", str(tmp_path / "by hand")]) == 0
    assert not any("activation" in name for name in drawn(tmp_path / "by hand"))


def test_runs_that_never_began_are_left_out_and_none_at_all_is_refused(tmp_path, capsys) -> None:
    axes = {"sweep": {"lr": [1e-3, 3e-3], "weight_decay": [0.5, 1.0]}}
    folder = sweep_folder(tmp_path / "s", axes, [300, None, 400])
    assert run(["--quiet", "plot", "sweep", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert drawn(tmp_path / "out") == ["test_acc.png", "weight_decay_by_lr.png"]
    empty = sweep_folder(tmp_path / "empty", axes, [])
    assert run(["plot", "sweep", str(empty), "--out", str(tmp_path / "none")]) == 2
    assert "no run of this sweep has recorded anything to draw" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_where_none_grokked_the_grid_is_of_the_last_test_accuracy(tmp_path) -> None:
    axes = {"sweep": {"lr": [1e-3, 3e-3], "weight_decay": [0.5, 1.0]}}
    folder = sweep_folder(tmp_path / "s", axes, [None] * 4)
    paths = sweep_drawing.draw_sweep(folder, tmp_path / "out", "svg")
    grid = next(path for path in paths if path.stem == "weight_decay_by_lr")
    assert "Test accuracy" in grid.read_text()  # its title: one value has no colour bar
    assert "step of grokking" not in grid.read_text()


def test_a_sweep_of_language_models_has_its_validation_losses(tmp_path) -> None:
    sweep = expand({"sweep": {"n_embd": [16, 32]}, "seeds": 2}, "language", "trial")
    write_definition(sweep, tmp_path)
    for number, one in enumerate(sweep.runs):
        with Run.create(tmp_path / one.name, study="language", config={}, seed=0) as opened:
            opened.append(
                [{"step": s, "val_loss": 4 - s / 100 - number / 10} for s in (0, 50, 100)]
            )
            opened.finish({})
    [path] = sweep_drawing.draw_sweep(tmp_path, tmp_path / "figures", "svg")
    for said in ("validation loss (nats per token)", "n-embd16 (2)", "n-embd32 (2)"):
        assert said in path.read_text()


# -- at the end of a sweep -------------------------------------------------------------------

SMALL = {
    "study": "grokking",
    "p": 11,
    "model_type": "baseline",
    "hidden_dim": 8,
    "epochs": 20,
    "log_every": 10,
    "compute_weight_curvature": False,
}


@pytest.fixture
def pair(tmp_path) -> tuple[str, Path]:
    file = tmp_path / "pair.yaml"
    file.write_text(json.dumps({**SMALL, "sweep": {"lr": [1e-3, 2e-3]}}))
    return str(file), tmp_path / "out"


def test_a_sweep_ends_with_its_pictures_and_what_they_show(pair, capsys) -> None:
    file, out = pair
    assert run(["sweep", file, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert f"wrote {out / 'figures' / 'test_acc.png'}" in shown.err
    assert "note: none of 2 runs grokked; all had weight_decay 1.0, train_frac 0.3" in shown.err
    assert "wrote" not in shown.out
    assert drawn(out / "figures") == ["test_acc.png"]
    assert run(["runs", "ls", str(out), "--json"]) == 0
    assert [one["run"] for one in json.loads(capsys.readouterr().out)] == ["lr1e-3", "lr2e-3"]


def test_pictures_that_cannot_be_drawn_do_not_fail_a_sweep(pair, capsys, monkeypatch) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(sweep_drawing, "draw_sweep", broken)
    file, out = pair
    assert run(["sweep", file, "--out", str(out)]) == 0
    assert "no pictures: ValueError: no ink" in capsys.readouterr().err
