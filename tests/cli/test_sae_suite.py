"""`sae eval --suite`: what it writes and shows, and one line for everything that is wrong."""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pyarrow.parquet as pq
import pytest

from conftest import ENDS, OBJECTS, SUBJECTS, VERBS, sentences
from cutaway.dictionaries.architectures.registry import build
from cutaway.dictionaries.model.dictionary import DictionaryShape
from cutaway.evaluations.suite import run as suite
from cutaway.workbench.suite import judged

Cutaway = Callable[..., tuple[int, str, str]]
CLASSES = {"cats": SUBJECTS, "rivers": OBJECTS, "nights": ENDS, "verbs": VERBS}


def classes_folder(place: Path, *names: str) -> Path:
    """A folder with a sub-folder per class, fifteen documents in each; what a text says tells its class."""
    for name in names:
        for number in range(15):
            path = place / name / f"{name}-{number}.txt"  # of one name they would be one document
            path.parent.mkdir(parents=True, exist_ok=True)
            part = [CLASSES[name][(number + each) % 6] for each in range(2)]
            path.write_text("\n\n".join(f"{phrase}. {sentences(number, 5)}" for phrase in part))
    return place


def crossed_csv(place: Path) -> Path:
    """Texts of two labels each: who and where, all four combinations."""
    lines = ["text,label,second_label,group"]
    for number in range(80):
        who, where = number % 2, number // 2 % 2
        said = f"{('the cat', 'the president')[who]} {('at night', 'the river')[where]}"
        lines.append(f"{said} {sentences(number, 1)},{who},{where},{number // 8}")
    place.write_text("\n".join(lines))
    return place


@pytest.fixture
def own(dictionary_run: Path, tmp_path: Path) -> Path:
    """A copy of the dictionary's run among other runs, to write into."""
    return shutil.copytree(dictionary_run, tmp_path / "runs" / "own")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return classes_folder(tmp_path / "texts" / "three", "cats", "rivers", "nights")


def rows_of(folder: Path) -> list[dict]:
    return pq.read_table(folder / "suite.parquet").to_pylist()


def test_every_evaluation_lands_in_the_runs_table_and_picture(
    cutaway: Cutaway, own: Path, tasks: Path, tmp_path: Path
) -> None:
    crossed = crossed_csv(tmp_path / "crossed.csv")
    code, out, err = cutaway(
        *("sae", "eval", own, "--suite", "all", "--tasks", tasks, "--crossed", crossed, "--json")
    )
    assert code == 0, err
    shown = json.loads(out)
    kept = rows_of(own)
    assert [{"dictionary": "own", **row} for row in kept] == [
        {name: row[name] for name in ("dictionary", *kept[0])} for row in shown
    ]
    # 300 tokens learnt from seven sentences hold no words for absorption: said, and left out
    assert {row["evaluation"] for row in kept} == {"sparse_probing", "tpp", "scr"}
    assert "absorption: left out: words: " in err
    probing = [row for row in kept if row["evaluation"] == "sparse_probing"]
    assert {row["task"] for row in probing} == {
        "texts/three",
        *(f"texts/three: {name}" for name in ("cats", "rivers", "nights")),
    }
    subjects = {(row["subject"], row["k"]) for row in probing}
    assert subjects == {
        *((name, k) for name in ("dictionary", "neurons", "pca", "random") for k in (1, 2, 5)),
        ("states", None),
    }
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in probing)
    assert (own / "figures" / "suite.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_a_line_per_task_and_k_with_the_baselines_beside(
    cutaway: Cutaway, own: Path, tasks: Path
) -> None:
    code, out, err = cutaway("sae", "eval", own, "--suite", "sparse-probing,tpp", "--tasks", tasks)
    assert code == 0, err
    header = next(line for line in out.splitlines() if "dictionary" in line and "task" in line)
    assert header.split() == ["task", "k", "dictionary", "neurons", "pca", "random", "states"]
    rows = rows_of(own)

    def written(subject: str, k: int | None) -> str:
        (row,) = (
            row
            for row in rows
            if (row["task"], row["subject"], row["k"]) == ("texts/three", subject, k)
            and row["measure"] == "accuracy"
        )
        side = max(row["high"] - row["value"], row["value"] - row["low"])
        return f"{row['value']:.3f} ±{side:.3f}"

    lines = [line.split("  ") for line in out.splitlines() if "texts/three" in line]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[1] == [
        *("texts/three", "2"),
        *(written(name, 2) for name in ("dictionary", "neurons", "pca", "random")),
        written("states", None),
    ]
    assert len(cells) == 3 + 3  # k = 1, 2, 5; then TPP with 5, 20, 100 features out
    assert "cats" not in out


def test_a_second_call_replaces_the_rows_of_the_same_evaluation_and_task_only(
    cutaway: Cutaway, own: Path, tasks: Path, tmp_path: Path
) -> None:
    ask = ["sae", "eval", own, "--tasks", tasks, "--json", "--suite"]
    assert cutaway(*ask, "sparse-probing,tpp")[0] == 0
    before = rows_of(own)
    other = classes_folder(tmp_path / "texts" / "two", "cats", "verbs")
    assert (
        cutaway("sae", "eval", own, "--tasks", other, "--suite", "sparse-probing", "--json")[0] == 0
    )
    after = rows_of(own)

    def of(rows: list[dict], name: str) -> list[dict]:
        return [row for row in rows if row["evaluation"] == name]

    assert of(after, "tpp") == of(before, "tpp") != []
    former = of(before, "sparse_probing")
    assert [row for row in of(after, "sparse_probing") if row["task"] != "texts/two"] == former
    assert len(of(after, "sparse_probing")) > len(former)
    assert cutaway(*ask, "sparse-probing")[0] == 0  # the first tasks again: no row twice
    assert len(rows_of(own)) == len(after)


def test_the_same_call_gives_the_same_rows_and_seeds_others(
    cutaway: Cutaway, own: Path, tasks: Path
) -> None:
    ask = ["sae", "eval", own, "--tasks", tasks, "--suite", "sparse-probing", "--json"]
    first, again = (json.loads(cutaway(*ask)[1]) for _ in range(2))
    assert first == again
    two = json.loads(cutaway(*ask, "--seeds", 2)[1])
    assert [row for row in two if row["seed"] == 0] == first
    assert len(two) == 2 * len(first)
    _, out, _ = cutaway(*ask[:-1], "--seeds", 2)
    assert "95 % over 2 seeds" in out


def test_an_interrupted_write_leaves_the_old_table(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"evaluation": "tpp", "task": "a", "measure": "tpp", "k": 2, "subject": "dictionary"}
    row |= {"value": 0.5, "low": None, "high": None, "seed": 0}
    suite.save(own, [row])

    def killed(table: object, place: BinaryIO, **_: object) -> None:
        place.write(b"PAR1 half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        suite.save(own, [{**row, "value": 0.1}])
    assert [found["value"] for found in rows_of(own)] == [0.5]
    assert [path.name for path in own.glob("*suite*")] == ["suite.parquet"]


def test_what_is_worked_is_kept_when_a_later_evaluation_is_stopped(
    own: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cutaway.labelled.files import read_tasks

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(suite.WORK, "tpp", stopped)
    with pytest.raises(KeyboardInterrupt):
        judged(own, ["sparse_probing", "tpp"], tasks=read_tasks(tasks))
    assert {row["evaluation"] for row in rows_of(own)} == {"sparse_probing"}


def test_runs_sql_reads_the_tables_of_all_runs(cutaway: Cutaway, own: Path, tasks: Path) -> None:
    shutil.copytree(own, own.parent / "other")
    ask = ["--suite", "sparse-probing", "--tasks", tasks, "--json"]
    code, _, err = cutaway("sae", "eval", own, own.parent / "other", *ask)
    assert code == 0, err
    code, out, err = cutaway(
        *("runs", "sql", "--json"),
        "select run, count(*) as n, max(value) as best from suite "
        "where subject = 'dictionary' group by run order by run",
    )
    assert code == 0, err
    found = json.loads(out)
    mine = [row for row in rows_of(own) if row["subject"] == "dictionary"]
    assert [row["run"] for row in found] == ["other", "own"]
    assert {(row["n"], row["best"]) for row in found} == {
        (len(mine), max(row["value"] for row in mine))
    }


def test_several_dictionaries_go_to_folders_of_their_own_in_out(
    cutaway: Cutaway, own: Path, tasks: Path, tmp_path: Path
) -> None:
    shutil.copytree(own, tmp_path / "elsewhere" / "own")
    ask = ["--suite", "sparse-probing", "--tasks", tasks, "--out", tmp_path / "out", "--json"]
    code, out, err = cutaway("sae", "eval", own, tmp_path / "elsewhere" / "own", *ask)
    assert code == 0, err
    assert {row["dictionary"] for row in json.loads(out)} == {"own", "own-2"}
    for name in ("own", "own-2"):
        assert (tmp_path / "out" / name / "suite.parquet").is_file()
        assert (tmp_path / "out" / name / "figures" / "suite.png").is_file()
    assert not (own / "suite.parquet").exists()


def test_entity_tasks_with_a_colon_in_their_name_are_not_taken_for_parts() -> None:
    rows = [
        {"evaluation": "sparse_probing", "task": task, "measure": "accuracy", "k": 1}
        | {"subject": "dictionary", "value": value}
        for task, value in (("file: PER", 0.6), ("file: LOC", 0.8), ("books", 0.7), ("books: a", 0))
    ]
    assert suite.mean_of(rows, 1) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("width", "length", "asked", "expected"),
    [
        (48, 128, None, None),
        (768, 128, None, None),
        (768, 1024, None, "{word} has the first letter:"),
        (768, None, None, "{word} has the first letter:"),
        (768, 1024, "none", None),
        (48, 128, "{word}, spelt", "{word}, spelt"),
    ],
)
def test_a_small_model_is_given_words_alone(width, length, asked, expected, capsys) -> None:
    class Named:
        reference = type("Reference", (), {"id": "m"})

    model = Named()
    model.width, model.max_length = width, length
    assert suite.prompt_template(asked, model) == expected
    assert ("words stand alone" in capsys.readouterr().err) == (asked is expected is None)


def test_template_none_and_words_reach_the_evaluation(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def seen(*_: object, **options: object) -> list[dict]:
        asked.append(options)
        return [{**dict.fromkeys(suite._schema().names), "evaluation": "absorption"}]

    monkeypatch.setattr("cutaway.evaluations.suite.absorption.first_letter_absorption", seen)
    many = [a + b + c + d for a, b, c, d in zip(*[iter(string.ascii_lowercase * 4000)] * 4)]
    monkeypatch.setattr(
        "cutaway.evaluations.suite.letters.vocabulary_words", lambda _: dict.fromkeys(range(6000))
    )
    for words, template in (
        (None, "none"),
        (None, "{word}:"),
        ("all", "{word}:"),
        (many[:3], "{word}:"),
    ):
        judged(own, ["absorption"], words=words, template=template)
    told = [(one["words"], one["template"], one["limit"]) for one in asked]
    assert told == [
        (None, None, None),
        (None, "{word}:", suite.LARGEST),
        (None, "{word}:", None),
        (many[:3], "{word}:", None),
    ]


# -- what is wrong ---------------------------------------------------------------------------------


Make = Callable[[Path, Path], list[object]]


def with_tasks(*arguments: object, names: str = "sparse-probing") -> Make:
    return lambda own, here: [
        *(own, "--suite", names),
        *("--tasks", classes_folder(here / "t", "cats", "rivers"), *arguments),
    ]


def crossed_without(own: Path, here: Path) -> list[object]:
    (here / "c.csv").write_text("text,label\na,b\n")
    return [own, "--suite", "scr", "--crossed", here / "c.csv"]


def no_words(own: Path, here: Path) -> list[object]:
    (here / "w.txt").write_text(" \n\n")
    return [own, "--suite", "absorption", "--words", here / "w.txt"]


def synthetic(own: Path, here: Path) -> list[object]:
    from cutaway.studies.train import train

    settings = {"synthetic": "superposition", "d_model": 8, "true_features": 16, "active": 2}
    train(
        "dictionary",
        {**settings, "tokens": 2000, "d_hidden": 16, "target_l0": 2, "max_steps": 5},
        here / "made",
    )
    return [here / "made", "--suite", "sparse-probing"]


def of_another_model(own: Path, here: Path) -> list[object]:
    made = build(DictionaryShape("topk", 24, 32, k=4))
    made.metadata = {"site": "residual.0"}
    made.save(here / "wider")
    about = json.loads((own / "run.json").read_text())
    model = about["resolved"]["dictionary"]["reference"]["id"]
    return [own, here / "wider", "--suite", "sparse-probing", "--model", model]


def damaged_table(own: Path, here: Path) -> list[object]:
    (own / "suite.parquet").write_bytes(b"no parquet")
    return with_tasks()(own, here)


def twice(own: Path, here: Path) -> list[object]:
    folder = classes_folder(here / "t", "cats", "rivers")
    return [own, "--suite", "sparse-probing", "--tasks", folder, "--tasks", folder]


WRONG: dict[str, tuple[Make, str]] = {
    "an unknown evaluation": (lambda own, _: [own, "--suite", "sparse-prob"], "'sparse_prob'"),
    **{
        f"{name} of the other": (
            lambda own, _, name=name: [own, "--suite", "tpp", f"--{name}", "5k"],
            f"--{name}: not with --suite",
        )
        for name in ("data", "activations", "tokens")
    },
    "seeds alone": (lambda own, _: [own, "--seeds", "3"], "--seeds: only with --suite"),
    "no evaluation": (lambda own, _: [own, "--suite", ","], "suite: none named"),
    "tasks that are missing": (
        lambda own, _: [own, "--suite", "all", "--tasks", "gone"],
        "gone: no such file or folder",
    ),
    "tasks of one class": (
        lambda own, here: [own, "--suite", "all", "--tasks", classes_folder(here / "t", "cats")],
        "two or more sub-folders",
    ),
    "the same task twice": (twice, "two are called"),
    "a crossed table without its second label": (crossed_without, "no 'second_label'"),
    "no such table": (
        lambda own, _: [own, "--suite", "scr", "--crossed", "gone.csv"],
        "gone.csv",
    ),
    "a file without words": (no_words, "no word in it"),
    "no such file of words": (
        lambda own, _: [own, "--suite", "absorption", "--words", "gone.txt"],
        "words = 'gone.txt': no such file",
    ),
    "no seeds": (with_tasks("--seeds", "0"), "seeds = 0: expected 1 to 1,000"),
    "a template without a word": (with_tasks("--template", "spell it"), "template = 'spell it'"),
    "nothing for TPP": (with_tasks(names="tpp"), "three classes or more"),
    "nothing for SCR": (with_tasks(names="scr"), "two labels each"),
    "a tokenizer without words": (
        lambda own, _: [own, "--suite", "absorption"],
        "words: ",
    ),
    "a dictionary of synthetic states": (synthetic, "synthetic states"),
    "another model's dictionary": (of_another_model, "width 24"),
    "a table that is none": (damaged_table, "suite.parquet: cannot be read"),
    "no dictionary": (lambda own, _: ["--suite", "all"], "name a dictionary"),
    "out that is a file": (with_tasks("--out", __file__), "is a file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_one_line(
    cutaway: Cutaway, own: Path, tmp_path: Path, case: str
) -> None:
    make, said = WRONG[case]
    arguments = make(own, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*") if path.is_file()}
    code, out, err = cutaway("sae", "eval", *arguments)
    lines = err.strip().splitlines()
    assert (code, out) == (2, ""), err
    assert said in lines[-1]
    assert "Traceback" not in err
    assert sum(line.startswith("cutaway: ") for line in lines) == 1
    assert before == {path: path.stat().st_mtime_ns for path in own.rglob("*") if path.is_file()}
