"""Histories of others made into runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cutaway.base.errors import UserError
from cutaway.runs import Run, RunStore, open_log
from cutaway.runs.importing import import_history

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "grokking-histories"
META = {"p": 97, "lr": 1e-3, "betas": [0.9, 0.98], "nested": {"a": None}, "seed": 7}
ROWS = [
    {"step": 0, "train_loss": 4.6, "test_acc": 0.01, "cos": None},
    {"step": 25, "train_loss": 3.9, "test_acc": 0.02, "cos": 0.5},
]


def lines(*objects: object) -> str:
    return "".join(json.dumps(one) + "\n" for one in objects)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file to read back."""

    def put(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


# -- into a run --------------------------------------------------------------------------------


def test_an_import_is_a_whole_run_that_says_where_it_came_from(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    file = write("h_s7.jsonl", lines({"_meta": META}, *ROWS, {"_summary": {"grok_step": 25}}))
    run = import_history(file, tmp_path / "runs")
    opened = Run.open(tmp_path / "runs" / "h_s7")
    assert opened.record == run.record
    assert (opened.status, opened.record.study, opened.record.seed) == ("done", "grokking", 7)
    assert opened.record.config == META
    assert opened.record.steps_done == opened.record.steps_planned == 25
    assert opened.record.metrics == {"train_loss": 3.9, "test_acc": 0.02}
    assert opened.record.parents == [
        {
            "kind": "file",
            "id": str(file),
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "about": [{"_summary": {"grok_step": 25}}],
        }
    ]
    assert opened.read().to_pylist() == ROWS
    assert RunStore(tmp_path / "runs").verify("h_s7") == []
    answer = RunStore(tmp_path / "runs").sql(
        "SELECT config.lr, max(test_acc) AS best FROM history JOIN runs USING (run) GROUP BY ALL"
    )
    assert answer.to_pylist() == [{"lr": 0.001, "best": 0.02}]


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded grokking histories are not there")
def test_recorded_histories_come_through_bit_for_bit(tmp_path: Path) -> None:
    for file in sorted(RECORDED.glob("*.jsonl")):
        objects = [json.loads(line) for line in file.read_text().splitlines()]
        run = import_history(file, tmp_path)
        kept = run.read().to_pylist()
        wanted = [one for one in objects if "step" in one]
        assert kept == [{name: row.get(name) for name in kept[0]} for row in wanted]
        assert {*kept[0]} == {name for row in wanted for name, v in row.items() if v is not None}
        assert run.record.config == objects[0]["_meta"]
        assert run.record.notices == []


def test_what_was_changed_is_told_and_kept_in_the_record(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = write(
        "odd.jsonl",
        lines({"step": 5, "acc": 50, "phase": "a", "list": [1]}, {"step": 5, "acc": 75})
        + '{"step": 6, "ac',
    )
    run = import_history(file, tmp_path / "runs", name="mine", study="other")
    assert (run.name, run.record.study) == ("mine", "other")
    assert run.read().to_pylist() == [{"step": 5, "train_acc": 0.75}]
    told = "\n".join(Run.open(run.path).record.notices)
    for part in (
        "line 3 is cut off",
        "(lists): list",
        "(no numbers): phase",
        "steps that repeat",
        "divided by 100",
    ):
        assert part in told
    assert capsys.readouterr().err.strip() == told


def test_any_configuration_json_can_hold_is_kept(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    deep: list = []
    for _ in range(300):
        deep = [deep]
    meta = '{"clip": Infinity, "half": "\\ud800", "study": "theirs", "": 1, "deep": %s}' % deep  # noqa: UP031
    run = import_history(write("h.jsonl", '{"config": %s}\n' % meta + lines(*ROWS)), tmp_path)  # noqa: UP031
    config = Run.open(run.path).record.config
    assert (config["clip"], config["half"], config["study"]) == (None, "?", "theirs")
    assert len(run.record.notices) == 2
    assert len(RunStore(tmp_path).sql("SELECT run, config FROM runs")) == 1


def test_a_folder_in_use_is_refused_and_left_alone(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    file = write("h.csv", "step,a\n0,1\n")
    import_history(file, tmp_path / "runs")
    with pytest.raises(UserError, match="holds another run"):
        import_history(file, tmp_path / "runs")
    with pytest.raises(UserError, match="expected a folder's name"):
        import_history(file, tmp_path / "runs", name="../elsewhere")
    with pytest.raises(UserError, match="is not JSON"):
        import_history(write("bad.jsonl", "{"), tmp_path / "none")
    assert not (tmp_path / "none").exists()


# -- as a log, and by command ------------------------------------------------------------------


def test_a_history_file_opens_as_a_log(write: Callable[..., Path]) -> None:
    log = open_log(write("h_s7.jsonl", lines({"_meta": META}, *ROWS)))
    assert (log.name, log.words, log.config) == ("h_s7", None, META)
    assert log.history["test_acc"].to_pylist() == [0.01, 0.02]


def test_the_command_imports_files_and_folders(
    cutaway: Callable, write: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    for name in ("theirs/b.jsonl", "theirs/a.jsonl", "c.jsonl"):
        write(name, lines({"_meta": META}, *ROWS))
    write("theirs/LICENSE", "free")
    code, out, err = cutaway("runs", "import", "theirs", "c.jsonl", "--runs", "store", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [(row["run"], row["rows"], row["test_acc"]) for row in rows] == [
        (name, 2, 0.02) for name in "abc"
    ]
    assert [one.name for one in RunStore("store").runs()] == ["a", "b", "c"]
    assert cutaway("runs", "import", "c.jsonl", "--name", "d")[0] == 0
    assert cutaway("runs", "import", "c.jsonl", "--out", "elsewhere/e")[0] == 0
    assert Run.open("runs/d").status == Run.open("elsewhere/e").status == "done"


def test_a_file_is_imported_once_and_another_in_its_place_is_refused_with_what_import_has(
    cutaway: Callable, write: Callable[..., Path]
) -> None:
    write("h.jsonl", lines(*ROWS))
    assert cutaway("runs", "import", "h.jsonl")[0] == 0
    before = Run.open("runs/h").record
    code, out, err = cutaway("runs", "import", "h.jsonl", "--json")
    assert (code, err) == (0, "h.jsonl: already imported as h\n")
    assert [row["run"] for row in json.loads(out)] == ["h"]
    assert Run.open("runs/h").record == before
    write("h.jsonl", lines(*ROWS, ROWS[-1] | {"step": 999}))
    code, _, err = cutaway("runs", "import", "h.jsonl")
    assert code == 2
    assert "holds another run; import h.jsonl under another --name or --out" in err
    assert "--resume" not in err
    assert Run.open("runs/h").record == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name at least one history file"),
        (["missing.csv"], "missing.csv: no such file"),
        (["empty"], "empty: no history files there"),
        (["good.jsonl", "bad.jsonl"], "bad.jsonl: is empty"),
        (["good.jsonl", "good.csv"], "would be the run 'good', as good.jsonl"),
        (["good.jsonl", "good.csv", "--name", "x"], "--name: is for a single run, 2 given"),
        (["good.jsonl", "--name", "x", "--out", "y"], "choose one"),
        (["good.jsonl", "--name", "a/b"], "expected a folder's name"),
        (["good.jsonl", "--json", "--csv"], "choose one"),
        (["good.jsonl", "--out", "empty.txt/x"], "empty.txt"),
    ],
)
def test_a_wrong_import_ends_with_2_and_one_line_and_makes_no_run(
    cutaway: Callable, write: Callable[..., Path], tmp_path: Path, arguments: list[str], told: str
) -> None:
    (tmp_path / "empty").mkdir()
    write("empty.txt", "")
    write("bad.jsonl", "")
    write("good.jsonl", lines(*ROWS))
    write("good.csv", "step,a\n0,1\n")
    code, out, err = cutaway("runs", "import", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert RunStore(tmp_path).runs() == []


def test_a_name_with_control_characters_is_refused(tmp_path) -> None:
    (tmp_path / "h.jsonl").write_text('{"step": 0, "a": 1}\n')
    with pytest.raises(UserError, match="expected a folder's name") as error:
        import_history(tmp_path / "h.jsonl", tmp_path, name="a\nb")
    assert str(error.value).isprintable()
