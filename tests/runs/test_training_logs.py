"""`training_log.json`: the form others read and write."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from cutaway.base.errors import UserError
from cutaway.runs import Run, TrainingLog, open_log, read_training_log
from cutaway.runs.foreign import load_history

KEYS = ["iterations", "train_loss", "val_loss", "top_activating_words"]
DOCUMENT = {
    "iterations": [0, 100, 200],
    "train_loss": [4.5, 3.2, 2],
    "val_loss": [4.6, 3.3, 2.9],
    "top_activating_words": [
        {"iteration": 100, "words": [{"token_id": 123, "word": "hello", "activation": 0.85}]},
        {"iteration": 200, "words": []},
    ],
}


def words(step: int, *rows: tuple[int, str, int, float]) -> pa.Table:
    token, word, sense, activation = zip(*rows)
    return pa.table(
        {
            "step": pa.array([step] * len(rows), pa.int64()),
            "token_id": token,
            "word": word,
            "sense": sense,
            "activation": activation,
        }
    )


def read(run: Run) -> dict:
    return json.loads((run.path / "training_log.json").read_text())


# -- writing ----------------------------------------------------------------------------------


def test_the_file_has_exactly_the_documents_keys_and_is_kept_up_to_date(
    make: Callable[..., Run],
) -> None:
    run = make(sinks=[TrainingLog()])
    run.append([{"step": 0, "train_loss": 4.5, "val_loss": 4.6}, {"step": 1, "train_loss": 4.0}])
    assert list(read(run)) == KEYS
    assert read(run)["iterations"] == [0]
    run.append_table(
        "words",
        words(50, (1, "the", 0, 1.5), (2, "é", 0, 1.7), (1, "the", 3, 2.5), (9, "x", 0, 0.1)),
    )
    run.append([{"step": 100, "train_loss": 3.0, "val_loss": 3.5}])
    log = read(run)
    assert log["iterations"] == [0, 100]
    assert log["train_loss"] == [4.5, 3.0]
    assert log["val_loss"] == [4.6, 3.5]
    assert log["top_activating_words"] == [
        {
            "iteration": 50,
            "words": [
                {"token_id": 1, "word": "the", "activation": 2.5},
                {"token_id": 2, "word": "é", "activation": 1.7},
                {"token_id": 9, "word": "x", "activation": 0.1},
            ],
        }
    ]


def test_a_loss_that_is_not_finite_is_left_out_so_that_the_log_stays_readable(
    make: Callable[..., Run],
) -> None:
    run = make(sinks=[TrainingLog()])
    run.append([{"step": 0, "train_loss": 4.5, "val_loss": 4.6}])
    run.append([{"step": 1, "train_loss": 4.5, "val_loss": float("nan")}])
    assert read_training_log(run.path / "training_log.json").iterations == [0]


def test_a_long_log_is_thinned_evenly_with_first_and_last_and_announced_once(
    make: Callable[..., Run], capsys: pytest.CaptureFixture
) -> None:
    run = make(sinks=[TrainingLog(max_points=10)])
    for step in range(0, 500, 5):
        run.append([{"step": step, "train_loss": 1.0, "val_loss": step / 2}])
        run.append_table("words", words(step, (1, "a", 0, 1.0)))
        log = read(run)
        for seen in (log["iterations"], [r["iteration"] for r in log["top_activating_words"]]):
            assert len(seen) <= 10
            assert (seen[0], seen[-1]) == (0, step)
            gaps = {b - a for a, b in itertools.pairwise(seen[:-1])}
            assert len(gaps) <= 1
            if step > 50:
                assert len(seen) >= 5
        assert log["val_loss"] == [step / 2 for step in log["iterations"]]
    assert len(run.read()) == 100
    assert capsys.readouterr().err.count("thinned evenly") == 1
    assert sum("thinned evenly" in notice for notice in run.record.notices) == 1


@pytest.mark.parametrize("cut", [0, 30, 45, 100])
def test_after_a_resume_the_log_is_what_an_uninterrupted_run_writes(
    make: Callable[..., Run], cut: int
) -> None:
    def go(run: Run, first: int, last: int) -> None:
        for step in range(first, last):
            evaluated = {"val_loss": step / 3} if step % 3 == 0 else {}
            run.append([{"step": step, "train_loss": step / 7, **evaluated}])
            if step % 4 == 0:
                run.append_table("words", words(step, (step, "w", 0, 1.0)))

    whole = make("whole", sinks=[TrainingLog(max_points=8)])
    go(whole, 0, 120)
    broken = make("broken", sinks=[TrainingLog(max_points=8)])
    go(broken, 0, 100)
    broken.close()
    with Run.resume(broken.path, sinks=[TrainingLog(max_points=8)]) as again:
        again.truncate(cut)
        go(again, cut, 120)
        again.finish({})
        assert read(again) == read(whole)


# -- reading what others wrote ----------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny experiment é"
    folder.mkdir()
    path = folder / "training_log.json"
    path.write_text(json.dumps(DOCUMENT))
    return path


def test_the_documents_form_is_read(log: Path) -> None:
    data = read_training_log(log)
    assert data.iterations == [0, 100, 200]
    assert data.train_loss == [4.5, 3.2, 2.0]
    assert data.top_activating_words == DOCUMENT["top_activating_words"]


def test_words_may_be_missing_and_other_keys_and_a_byte_order_mark_do_no_harm(log: Path) -> None:
    content = {key: DOCUMENT[key] for key in KEYS[:3]} | {"note": "mine"}
    log.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert read_training_log(log).top_activating_words == []
    assert open_log(log).words is None


def _without(key: str) -> dict:
    return {k: v for k, v in DOCUMENT.items() if k != key}


def _word(**changes: object) -> dict:
    word = {"token_id": 1, "word": "a", "activation": 1.0} | changes
    word = {k: v for k, v in word.items() if v != "missing"}
    return {**DOCUMENT, "top_activating_words": [{"iteration": 1, "words": [word]}]}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (_without("iterations"), "has no 'iterations'"),
        (_without("train_loss"), "has no 'train_loss'"),
        (_without("val_loss"), "has no 'val_loss'"),
        ({**DOCUMENT, "val_loss": [1.0]}, "iterations has 3, train_loss has 3, val_loss has 1"),
        ({**DOCUMENT, "val_loss": "low"}, "val_loss: expected a list, found the text 'low'"),
        (
            {**DOCUMENT, "val_loss": [1, None, 2]},
            "val_loss[1] (iteration 100): expected a number, found null",
        ),
        ({**DOCUMENT, "train_loss": [1, 2, float("nan")]}, "train_loss[2] (iteration 200): is nan"),
        ({**DOCUMENT, "train_loss": [float("inf"), 2, 3]}, "train_loss[0] (iteration 0): is inf"),
        (
            {**DOCUMENT, "train_loss": [1, True, 3]},
            "train_loss[1] (iteration 100): expected a number",
        ),
        ({**DOCUMENT, "iterations": [0, "100", 200]}, "iterations[1]: expected a whole number"),
        ({**DOCUMENT, "iterations": [0, 0.5, 200]}, "iterations[1]: expected a whole number"),
        (
            {**DOCUMENT, "iterations": [0, float("nan"), 2]},
            "iterations[1]: expected a whole number",
        ),
        ({**DOCUMENT, "top_activating_words": {}}, "top_activating_words: expected a list"),
        (
            {**DOCUMENT, "top_activating_words": [{"words": []}]},
            "top_activating_words[0]: expected an object with iteration",
        ),
        (_word(activation=float("nan")), "top_activating_words[0].words[0].activation: is nan"),
        (
            _word(activation="missing"),
            "words[0]: expected an object with token_id, word and activation",
        ),
        (_word(word=7), "words[0].word: expected text, found 7"),
        ([1, 2], "expected a JSON object"),
        ("", "is empty"),
        ("{'iterations': []}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (b"\x00\xff\xfe\xfd", "not JSON"),
    ],
)
def test_what_is_wrong_with_a_log_is_one_line_with_its_place(
    log: Path, content: object, told: str
) -> None:
    if isinstance(content, bytes):
        log.write_bytes(content)
    else:
        log.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError) as error:
        read_training_log(log)
    assert told in str(error.value)
    assert str(error.value).startswith(str(log))
    assert "\n" not in str(error.value)


def test_half_a_character_in_a_word_does_no_harm(log: Path) -> None:
    log.write_text(json.dumps(_word(word="a\ud800")))
    assert open_log(log).words["word"].to_pylist() == ["a?"]


# -- logs in one shape ------------------------------------------------------------------------


def test_a_file_its_folder_and_a_run_make_the_same_kind_of_log(
    log: Path, make: Callable[..., Run]
) -> None:
    by_file, by_folder = open_log(log), open_log(log.parent)
    assert by_file.name == by_folder.name == "tiny experiment é"
    assert by_file.history.equals(by_folder.history)
    assert by_file.history.to_pydict() == {
        "step": [0, 100, 200],
        "train_loss": [4.5, 3.2, 2.0],
        "val_loss": [4.6, 3.3, 2.9],
    }
    assert by_file.words.to_pylist() == [
        {"step": 100, "token_id": 123, "word": "hello", "activation": 0.85}
    ]
    run = make()
    run.append([{"step": 0, "train_loss": 1.0, "val_loss": 2.0}])
    run.append_table("words", words(0, (1, "the", 0, 1.5)))
    by_run = open_log(run.path)
    assert by_run.name == "one"
    assert by_run.history.to_pydict() == {"step": [0], "train_loss": [1.0], "val_loss": [2.0]}
    assert by_run.words["word"].to_pylist() == ["the"]
    assert open_log("one", root=run.path.parent).path == run.path
    assert load_history(log).num_rows == 3


def test_a_file_of_another_name_goes_by_its_own(log: Path) -> None:
    other = log.with_name("baseline.json")
    log.rename(other)
    assert open_log(other).name == "baseline"


def test_what_holds_no_log_is_refused(tmp_path: Path, make: Callable[..., Run]) -> None:
    with pytest.raises(UserError, match="holds no run"):
        open_log(tmp_path)
    with pytest.raises(UserError, match="no run of this name or path"):
        open_log(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no history yet"):
        open_log(make().path)
