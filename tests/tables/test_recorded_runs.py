"""Downloads and logs of other trainers: several runs in a file, several files of a run, nested and
repeated columns, epochs with fractions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cutaway.base.errors import UserError
from cutaway.runs import Run, RunStore, open_log
from cutaway.runs.foreign import open_logs
from cutaway.tables.recorded_runs import read_history_file, read_recorded
from cutaway.tables.tidy import tidy

WANDB = """"Step","fine-sun-12 - _step","fine-sun-12 - loss","fine-sun-12 - loss__MIN","dry - b - loss"
0,0,1.0,1.0,1.2
10,10,0.5,0.5,0.7
20,20,0.3,0.3,
"""
TENSORBOARD = "Wall time,Step,Value\n1700000000.1,{},2.5\n1700000010.1,{},1.5\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def put(name: str, content: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return path

    return put


def rows(path: Path) -> list[dict]:
    return read_history_file(path).history.to_pylist()


# -- several runs in a file, several files of a run --------------------------------------------


def test_a_download_from_wandb_is_a_run_for_each_name(write: Callable[..., Path]) -> None:
    first, second = read_recorded([write("export.csv", WANDB)])
    assert (first.name, second.name) == ("fine-sun-12", "dry - b")
    assert first.content.history.to_pydict() == {"step": [0, 10, 20], "train_loss": [1.0, 0.5, 0.3]}
    assert second.content.history.to_pydict() == {"step": [0, 10], "train_loss": [1.2, 0.7]}
    assert first.content.notices == ["left out (ranges): loss__MIN"]


def test_several_metrics_of_several_runs_are_told_apart(write: Callable[..., Path]) -> None:
    text = "epoch,a - val_loss,a - test/acc,b - val_loss\n0,1,0.5,2\n1,,0.75,3\n"
    first, second = read_recorded([write("export.csv", text)])
    assert first.content.history.to_pydict() == {
        "step": [0, 1],
        "val_loss": [1, None],
        "test_acc": [0.5, 0.75],
    }
    assert second.content.history.to_pydict() == {"step": [0, 1], "val_loss": [2, 3]}


def test_a_file_whose_columns_have_dashes_is_one_run(write: Callable[..., Path]) -> None:
    assert rows(write("h.csv", "step,loss - scaled,other\n0,1,2\n")) == [
        {"step": 0, "loss - scaled": 1, "other": 2}
    ]


def test_tensorboard_files_of_one_run_are_joined_and_those_of_two_are_two(
    write: Callable[..., Path],
) -> None:
    files = [
        write("d/run-big model-tag-loss.csv", TENSORBOARD.format(0, 10)),
        write("d/run-other-tag-loss.csv", TENSORBOARD.format(0, 10)),
        write("d/run-big model-tag-test_accuracy.csv", TENSORBOARD.format(10, 20)),
    ]
    first, second = read_recorded(files)
    assert (first.name, second.name) == ("big model", "other")
    assert first.content.history.to_pylist() == [
        {"step": 0, "train_loss": 2.5, "test_acc": None},
        {"step": 10, "train_loss": 1.5, "test_acc": 0.025},
        {"step": 20, "train_loss": None, "test_acc": 0.015},
    ]
    assert first.files == (files[0], files[2])
    assert second.content.history.column_names == ["step", "train_loss"]


def test_a_tensorboard_file_of_another_name_says_so(write: Callable[..., Path]) -> None:
    found = read_history_file(write("tb.csv", TENSORBOARD.format(0, 10)))
    assert found.history.to_pydict() == {"step": [0, 10], "value": [2.5, 1.5]}
    assert "its name is not run-RUN-tag-TAG.csv" in " ".join(found.notices)


def test_the_same_tag_of_a_run_twice_is_refused(write: Callable[..., Path]) -> None:
    one = write("run-a-tag-loss.csv", TENSORBOARD.format(0, 10))
    two = write("run-a-tag-train_loss.csv", TENSORBOARD.format(0, 10))
    with pytest.raises(UserError, match="train_loss of the run 'a' is there twice"):
        read_recorded([one, two])


def test_commands_take_them(cutaway: Callable, write: Callable[..., Path]) -> None:
    write("export.csv", WANDB)
    write("tb/run-a-tag-loss.csv", TENSORBOARD.format(0, 10))
    write("tb/run-a-tag-val_loss.csv", TENSORBOARD.format(0, 10))
    code, out, err = cutaway("runs", "import", "export.csv", "tb", "--runs", "r", "--json")
    assert code == 0, err
    assert [(row["run"], row["rows"]) for row in json.loads(out)] == [
        ("fine-sun-12", 3),
        ("dry - b", 2),
        ("a", 2),
    ]
    assert len(RunStore("r").run("a").record.parents) == 2
    again = cutaway("runs", "import", "export.csv", "tb", "--runs", "r", "--json")
    assert [row["run"] for row in json.loads(again[1])] == ["fine-sun-12", "dry - b", "a"]
    assert again[2].count("already imported") == 3
    assert cutaway("plot", "loss", "export.csv", "--out", "loss.svg")[0] == 0
    drawn = Path("loss.svg").read_text()
    assert "fine-sun-12" in drawn
    assert "dry - b" in drawn
    code, _, err = cutaway("runs", "import", "export.csv", "--name", "x")
    assert (code, err.count("\n")) == (2, 1)
    assert "--name: is for a single run, export.csv holds 2 runs" in err


def test_what_expects_one_run_names_those_it_found(write: Callable[..., Path]) -> None:
    path = write("export.csv", WANDB)
    assert [log.name for log in open_logs(path)] == ["fine-sun-12", "dry - b"]
    for reading in (open_log, read_history_file):
        with pytest.raises(UserError, match=r"holds 2 runs \(fine-sun-12, dry - b\)") as error:
            reading(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a/b", "..", " ", "a\tb", "x" * 3])
def test_any_name_of_a_run_becomes_a_folder(
    cutaway: Callable, write: Callable[..., Path], name: str
) -> None:
    write("export.csv", f'Step,"{name} - loss"\n0,1\n')
    assert cutaway("runs", "import", "export.csv", "--runs", "r")[0] == 0
    assert len(RunStore("r").runs()) == 1


# -- columns ------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["Loss,loss", "loss,loss", "loss,LOSS"])
def test_columns_that_differ_in_case_or_not_at_all_are_kept_and_told(
    write: Callable[..., Path], header: str
) -> None:
    found = read_history_file(write("h.csv", f"step,{header}\n0,1,2\n10,0.5,1\n"))
    second = header.split(",")[1] + "_2"
    assert found.history.to_pydict() == {"step": [0, 10], "train_loss": [1, 0.5], second: [2, 1]}
    assert any("is there twice" in notice for notice in found.notices)
    assert any("could be train_loss" in notice for notice in found.notices)


def test_our_own_spelling_counts_before_another_case() -> None:
    table = pa.table({"step": [0], "Train_Loss": [1.0], "train_loss": [2.0]})
    found, _ = tidy(table, "h")
    assert found.to_pydict() == {"step": [0], "Train_Loss_2": [1.0], "train_loss": [2.0]}


def test_numbers_inside_objects_become_columns(write: Callable[..., Path]) -> None:
    nested = {"step": 0, "train": {"loss": 1.0, "by": {"layer": 2}}, "val": {"loss": 1.5}}
    wanted = {"step": 0, "train_loss": 1.0, "train.by.layer": 2, "val_loss": 1.5}
    assert rows(write("h.jsonl", json.dumps(nested) + "\n")) == [wanted]
    del nested["step"]
    assert rows(write("u.jsonl", json.dumps(nested) + "\n")) == [wanted]


@pytest.mark.parametrize("name", ["step", "epoch"])
def test_steps_with_fractions_are_epochs(write: Callable[..., Path], name: str) -> None:
    text = f"{name},train_loss,test_acc\n0.0,1,\n0.5,0.5,\n0.5,,0.25\n1.5,0.3,0.5\n1.0,0.4,\n"
    found = read_history_file(write("h.csv", text))
    assert found.history.to_pydict() == {
        "step": [0, 1, 2, 3],
        "train_loss": [1.0, 0.5, 0.4, 0.3],
        "test_acc": [None, 0.25, None, 0.5],
        "epoch": [0.0, 0.5, 1.0, 1.5],
    }
    assert any("kept as the column epoch" in notice for notice in found.notices)


def test_whole_steps_count_before_those_with_fractions(write: Callable[..., Path]) -> None:
    assert rows(write("h.csv", "step,iterations,loss\n0.5,10,1\n1.0,20,2\n")) == [
        {"step": 10, "train_loss": 1, "epoch": 0.5},
        {"step": 20, "train_loss": 2, "epoch": 1.0},
    ]


def test_a_trainers_state_is_read_without_its_summary(write: Callable[..., Path]) -> None:
    state = {
        "max_steps": 20,
        "log_history": [
            {"epoch": 0.5, "loss": 2.5, "step": 10},
            {"epoch": 1.0, "loss": 2.0, "step": 20},
            {"epoch": 1.0, "eval_loss": 2.25, "step": 20},
            {"epoch": 1.0, "train_loss": 2.4, "train_runtime": 9.0, "step": 20},
        ],
    }
    path = write("trainer_state.json", json.dumps(state))
    found = read_history_file(path)
    assert found.history.to_pylist() == [
        {"step": 10, "epoch": 0.5, "train_loss": 2.5, "val_loss": None},
        {"step": 20, "epoch": 1.0, "train_loss": 2.0, "val_loss": 2.25},
    ]
    assert found.config == {"max_steps": 20}
    assert found.about[0]["train_runtime"] == 9.0
    assert open_log(path).history == found.history


@pytest.mark.parametrize(
    "value",
    [
        [{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0}],
        {"epoch": [0, 1], "loss": [2.0, 1.0]},
    ],
)
def test_other_forms_of_json_are_read(write: Callable[..., Path], value: object) -> None:
    assert rows(write("h.json", json.dumps(value))) == [
        {"step": 0, "train_loss": 2.0},
        {"step": 1, "train_loss": 1.0},
    ]
    assert len(rows(write("t.json", json.dumps([[1.7e9, 0, 2.5], [1.7e9, 1, 1.5]])))) == 2


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize(
    "values", [[1, 0.5], [None, 1], [1, "NaN"], [None, None, 0.25], [1, 2**53 + 1, 0.5], [True, 0]]
)
def test_a_columns_type_is_that_of_all_its_rows(
    write: Callable[..., Path], ending: str, values: list
) -> None:
    """Whatever comes first, later rows keep their values."""
    many = [None, *values[:1]] * 600 + values
    if ending == "csv":
        cells = ["" if v is None else str(int(v) if v is True else v) for v in many]
        text = "step,x,y\n" + "".join(f"{n},{cell},1\n" for n, cell in enumerate(cells))
    else:
        text = "".join(json.dumps({"step": n, "x": v, "y": 1}) + "\n" for n, v in enumerate(many))
    found = [row["x"] for row in rows(write(f"h.{ending}", text))]
    wanted = [None if v is None else float(v) for v in many]
    assert len(found) == len(wanted)
    for got, value in zip(found, wanted):
        assert got == value or (got != got and value != value)


@pytest.mark.parametrize("name", ["h.jsonl", "h.json", "training_log.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000])
def test_nesting_without_end_is_one_line(write: Callable[..., Path], name: str, text: str) -> None:
    path = write(name, text)
    with pytest.raises(UserError, match=r"levels deep|not JSON") as error:
        open_log(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("h.csv", "run,step,loss\na,0,2\nb,0,4\na,1,1\nb,1,3\n"),
        ("h.csv", "step, Run ,loss\n0,a,2\n1,a,1\n0,b,4\n1,b,3\n9,,9\n"),
        ("h.csv", "step,RUN,loss\n0,7,2\n1,7,1\n0,8,4\n1,8,3\n"),
        ("h.jsonl", '{"run":"a","step":0,"loss":2}\n{"run":"b","step":0,"loss":4}\n'
                    '{"run":"a","step":1,"loss":1}\n{"run":"b","step":1,"loss":3}\n'),
        ("h.csv", '"Step","a - loss","a - loss__MIN","a - loss"\n0,2,0,4\n1,1,0,3\n'),
        ("h.csv", '"Step","a - loss","a - acc","a - loss","a - acc"\n0,2,0,4,0\n1,1,0,3,0\n'),
    ],
)  # fmt: skip
def test_rows_of_several_runs_never_become_one_run(
    write: Callable[..., Path], name: str, text: str
) -> None:
    """A column `run`, as answers of `runs sql` have it; runs of one name in a download."""
    found = read_recorded([write(name, text)])
    assert [one.content.history["train_loss"].to_pylist() for one in found] == [[2, 1], [4, 3]]
    assert len({one.name for one in found}) == 2


def test_a_column_run_of_one_value_is_that_one_run(write: Callable[..., Path]) -> None:
    (found,) = read_recorded([write("mine.csv", "run,step,loss\na,0,2\na,1,1\n")])
    assert (found.name, len(found.content.history)) == ("mine", 2)


@pytest.mark.parametrize("steps", [["first", "second"], [True, False], [[0], [1]]])
def test_a_run_whose_steps_are_no_numbers_is_refused_in_one_line(
    tmp_path: Path, cutaway: Callable, steps: list
) -> None:
    with Run.create(tmp_path / "odd", study="grokking", config={}) as run:
        run.append([{"step": 0, "test_acc": 0.5}])
        run.finish({})
    pq.write_table(
        pa.table({"step": steps, "test_acc": [0.1, 0.2]}), tmp_path / "odd" / "history.parquet"
    )
    code, _, err = cutaway("plot", "all", tmp_path / "odd", "--out", tmp_path / "figures")
    assert code == 2
    assert "column step" in err
    assert "unexpected" not in err
