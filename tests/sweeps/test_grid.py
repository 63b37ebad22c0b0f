"""Sweep files: which runs they describe, what those are called, and what is refused."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from cutaway.base.errors import UserError
from cutaway.cli.main import run
from cutaway.studies.presets import presets
from cutaway.sweeps.board import Board
from cutaway.sweeps.definition import joined, read_definition, write_definition
from cutaway.sweeps.grid import expand, format_value, label, read_sweep


def names(values: dict, **over) -> list[str]:
    return [one.name for one in expand(values, "language", "trial", over).runs]


def refusal(values: dict, **over) -> str:
    with pytest.raises(UserError) as caught:
        expand(values, "language", "trial", over)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.001, "1e-3"),
        (3e-4, "3e-4"),
        (0.0015, "1.5e-3"),
        (1e-10, "1e-10"),
        (1.0, "1.0"),
        (0.5, "0.5"),
        (0.98, "0.98"),
        (0.0, "0.0"),
        (-2e-5, "-2e-5"),
        (1e30, "1e30"),
        (123456.0, "1.23456e5"),
        (17, "17"),
        (True, "true"),
        (None, "none"),
        ("adamw", "adamw"),
        ("../data/my corpus.txt", "data-my-corpus.txt"),
    ],
)
def test_values_are_written_shortly(value, text) -> None:
    assert format_value(value) == text


def test_labels_are_those_of_the_document() -> None:
    written = [label("p", 17), label("lr", 1e-3), label("weight_decay", 1.0)]
    assert "_".join(written) == "p17_lr1e-3_wd1.0"
    assert label("beta2", 0.98) == "beta2-0.98"  # not beta20.98
    assert label("model_type", "routed") == "model-type-routed"


def test_every_combination_is_there_and_the_first_field_varies_slowest() -> None:
    grid = {"learning_rate": [3e-4, 1e-3], "weight_decay": [0, 1, 2]}
    assert names({"sweep": grid}) == [
        *("lr3e-4_wd0.0", "lr3e-4_wd1.0", "lr3e-4_wd2.0"),
        *("lr1e-3_wd0.0", "lr1e-3_wd1.0", "lr1e-3_wd2.0"),
    ]


def test_seeds_are_the_last_axis_and_no_part_of_the_group() -> None:
    sweep = expand({"sweep": {"n_layer": [1, 2]}, "seeds": 2}, "language", "trial")
    assert [(one.name, one.group) for one in sweep.runs] == [
        ("n-layer1_s0", "n-layer1"),
        ("n-layer1_s1", "n-layer1"),
        ("n-layer2_s0", "n-layer2"),
        ("n-layer2_s1", "n-layer2"),
    ]
    assert [one.config.seed for one in sweep.runs] == [0, 1, 0, 1]
    assert {one.group for one in expand({"seeds": [7, 9]}, "language", "trial").runs} == {"trial"}


def test_fields_may_vary_together() -> None:
    sweep = expand({"sweep": {"n_layer, n_head": [[1, 2], [2, 4]]}}, "language", "trial")
    assert [(one.config.n_layer, one.config.n_head) for one in sweep.runs] == [(1, 2), (2, 4)]


def test_listed_runs_have_own_names_and_combine_with_axes() -> None:
    listed = [{"name": "plain"}, {"name": "deep", "n_layer": 4}, {"bias": False}]
    assert names({"runs": listed, "seeds": 2}) == [
        *("plain_s0", "plain_s1", "deep_s0", "deep_s1", "bias-false_s0", "bias-false_s1")
    ]


def test_a_preset_gives_shared_settings_and_the_file_goes_above_it() -> None:
    values = {"preset": "docstrings-tiny", "n_embd": 32, "sweep": {"learning_rate": [1e-2, 1e-3]}}
    configs = [one.config for one in expand(values, "language", "trial", {"n_head": "4"}).runs]
    assert [config.learning_rate for config in configs] == [1e-2, 1e-3]
    for config in configs:
        assert (config.vocab_size, config.n_embd, config.n_head) == (4096, 32, 4)


def test_the_study_is_inferred_from_varied_fields_or_the_preset(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("sweep: {n_senses: [1, 2]}\n")
    (tmp_path / "b.yaml").write_text("preset: docstrings-tiny\nseeds: 2\n")
    assert {read_sweep(tmp_path / f"{file}.yaml").study for file in "ab"} == {"language"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"sweep": {"n_layer": []}}, "n_layer: the list is empty"),
        ({"sweep": {"n_layer": 3}}, "n_layer = 3: expected a list"),
        ({"sweep": {}}, "sweep: expected"),
        ({"sweep": None}, "sweep: expected"),
        ({"sweep": {"n_layer,": [[1, 2]]}}, "sweep: 'n_layer,': expected a field"),
        (
            {"sweep": {"n_layer, n-layer": [[1, 2]]}},
            "sweep: 'n_layer, n-layer': names a field twice",
        ),
        ({"runs": [{"n_layer": 1, "n-layer": 2}]}, "runs: n_layer: is given twice"),
        ({"sweep": {"learning_rate": [float("inf")]}}, "run lrinf: learning_rate = inf"),
        ({"seeds": 0}, "seeds: the list is empty"),
        ({"runs": []}, "runs: the list is empty"),
        ({"runs": [{"name": "a/b"}]}, "runs: name = 'a/b'"),
        ({"sweep": {"n_layer": [1, 1]}}, "runs n-layer1 and n-layer1: have the same settings"),
        ({"runs": [{"name": "a", "n_layer": 2}, {"name": "b"}]}, "runs a and b: have the same"),
        ({"runs": [{"name": "a"}, {"name": "A", "n_layer": 3}]}, "run A: another run (a) has"),
        ({"sweep": {"data": ["a/b", "a-b"]}}, "run data-a-b: another run"),
        ({"sweep": {"seed": [1]}, "seeds": 2}, "seed: is varied twice"),
        ({"sweep": {"n_layer": [1, 2]}, "n_layer": 2}, "n_layer: is both varied and given"),
        ({"sweep": {"n_layer, n_head": [[1, 2], [2]]}}, "expected lists of 2 values, got [2]"),
        (
            {"sweep": {"n_layr": [1, 2]}},
            "run n-layr1: LanguageConfig has no field 'n_layr'; did you mean 'n_layer'?",
        ),
        ({"sweep": {"n_head": [2, 5]}}, "run n-head5: n_head = 5: must divide n_embd"),
        ({"sweep": {"n_layer": [1, "two"]}}, "run n-layer-two: n_layer = 'two'"),
        ({"sweep": {"n_layer": [1, 2]}, "preset": "nothing-like-it"}, "no preset or file"),
        ({"sweep": {"n_layer": [1, 2]}, "format": 2}, "newer than this cutaway reads"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(values, told) -> None:
    assert told in refusal(values)


def test_a_varied_field_is_not_overridden() -> None:
    assert "this sweep varies n_layer" in refusal({"sweep": {"n_layer": [1, 2]}}, n_layer="3")


def test_runs_are_chosen_by_name_group_and_index() -> None:
    sweep = expand({"sweep": {"n_layer": [1, 2]}, "seeds": 2}, "language", "trial")
    assert [one.name for one in sweep.select("n-layer2_s1")] == ["n-layer2_s1"]
    assert [one.name for one in sweep.select("n-layer2")] == ["n-layer2_s0", "n-layer2_s1"]
    assert [one.name for one in sweep.select(None, 3)] == ["n-layer2_s1"]
    with pytest.raises(UserError, match="did you mean 'n-layer1'"):
        sweep.select("n-layer11")
    with pytest.raises(UserError, match="expected 0 to 3"):
        sweep.select(None, 4)


def test_the_written_definition_gives_the_same_sweep_back(tmp_path) -> None:
    values = {
        "preset": "docstrings-tiny",
        "sweep": {"tokenizer": ["train", "gpt2"], "learning_rate": [1e-8, 0.1]},
        "seeds": [3, 5],
    }
    sweep = expand(values, "language", "trial", {"eps": "1e-10"})
    write_definition(sweep, tmp_path)
    back = read_definition(tmp_path)
    assert [(r.name, r.group, r.config) for r in back.runs] == [
        (r.name, r.group, r.config) for r in sweep.runs
    ]
    assert (back.name, back.study) == ("trial", "language")


def test_a_sweep_may_grow_but_not_change(tmp_path) -> None:
    begun = expand({"sweep": {"n_layer": [1, 2]}}, "language", "trial")
    grown = expand({"sweep": {"n_layer": [2, 3]}}, "language", "trial")
    assert [r.name for r in joined(grown, begun, tmp_path).runs] == [
        *("n-layer2", "n-layer3", "n-layer1")
    ]
    other = expand({"sweep": {"n_layer": [2, 3]}, "n_embd": 64}, "language", "trial")
    with pytest.raises(UserError, match=r"run n-layer2: n_embd = 64: .* began it with 48"):
        joined(other, begun, tmp_path)
    moved = expand({"sweep": {"n_layer": [1, 2]}, "device": "cpu"}, "language", "trial")
    assert joined(moved, begun, tmp_path).runs == moved.runs  # a resume may change the device


def test_another_sweep_in_the_same_folder_is_refused_by_the_field_it_shares_otherwise(
    tmp_path,
) -> None:
    begun = expand({"sweep": {"optimizer": ["adamw"]}, "p": 31, "epochs": 9}, "grokking", "decay")
    axes = {"weight_decay": [0.0, 1.0], "optimizer": ["adamw"]}
    other = expand({"sweep": axes, "p": 23, "epochs": 9}, "grokking", "decay")
    with pytest.raises(UserError) as error:
        joined(other, begun, tmp_path)
    assert str(error.value) == (f"p = 23: the sweep in {tmp_path} has 31; choose another --out")
    wider = expand({"sweep": axes, "p": 31, "epochs": 9}, "grokking", "decay")
    assert len(joined(wider, begun, tmp_path).runs) == 3  # it has the shared weight decay, 1.0, too
    far = {**axes, "weight_decay": [0.0, 0.5]}
    with pytest.raises(UserError, match=r"weight_decay = 0\.0: the sweep in .* has 1\.0"):
        joined(expand({"sweep": far, "p": 31, "epochs": 9}, "grokking", "d"), begun, tmp_path)


# -- presets and the command -----------------------------------------------------------------


@pytest.fixture
def preset(tmp_path: Path, monkeypatch) -> str:
    """A room's presets folder with a sweep of six runs in it."""
    text = (
        "# How deep and how fast\nsweep:\n  n_layer: [1, 2]\n  learning_rate: [1e-3, 1e-2, 0.1]\n"
    )
    (tmp_path / "depths.yaml").write_text(text)
    module = import_module("cutaway.studies.presets")
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    monkeypatch.setattr(module, "STUDIES", {"language": module.STUDIES["language"]})
    monkeypatch.chdir(tmp_path)
    return "depths"


def test_a_sweep_preset_is_listed_as_one_and_not_trained_as_one_run(preset, capsys) -> None:
    assert run(["presets", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed[0]["about"] == "sweep of 6 runs: How deep and how fast"
    assert presets() == []
    assert run(["train", preset]) == 2
    assert "depths: is a sweep of 6 runs; `cutaway sweep depths`" in capsys.readouterr().err


def test_one_run_is_no_sweep(capsys) -> None:
    assert run(["sweep", "docstrings-tiny", "--dry-run"]) == 2
    assert "nothing to vary" in capsys.readouterr().err


def test_a_dry_run_shows_every_run_and_writes_nothing(preset, tmp_path, capsys) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert run(["sweep", preset, "--dry-run", "--json", "--n-embd", "64"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in rows][:3] == [f"n-layer1_lr{r}" for r in ("1e-3", "0.01", "0.1")]
    assert rows[4] == {
        "index": 4,
        "run": "n-layer2_lr0.01",
        "n_layer": 2,
        "learning_rate": 0.01,
        "settings": {"vocab_size": 8192, "n_embd": 64},
    }
    assert run(["sweep", preset, "--dry-run", "--start-from", "4"]) == 0
    assert "n-layer2_lr0.1 " in (table := capsys.readouterr().out)
    assert "n-layer1" not in table
    assert sorted(tmp_path.rglob("*")) == before


def test_an_ensemble_is_refused_where_no_runs_stack(preset, tmp_path, capsys) -> None:
    assert run(["sweep", preset, "--ensemble"]) == 2
    assert "no two of these 6 runs can be stacked" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_live_table_keeps_to_the_terminals_height() -> None:
    board = Board([[f"run{number}"] for number in range(40)], jobs=2)
    told = {"title": "training", "done": 50, "total": 100, "unit": "steps", "rate": 5.0}
    for number in range(12):
        board.started(f"run{number}", False)
        board.progress([f"run{number}"], {**told, "figures": {"loss": "1.25"}})
        if number < 10:
            board.ended(f"run{number}", "failed" if number == 9 else "done", None)
    shown = list(board.table(8).columns[0].cells)
    assert len(shown) == 8
    assert {"run10", "run11", "run9", "run12"} <= {cell.plain for cell in shown}
    assert board.caption().startswith("9 of 40 done, 1 failed, 2 at work, about ")
    [row] = [i for i, cell in enumerate(shown) if cell.plain == "run10"]
    cells = [list(column.cells)[row].plain for column in board.table(8).columns]
    assert cells == ["run10", "training", "50/100", "5 steps/s", "10s left", "loss 1.25"]
