"""Bad input through the command line: exit 2, one clear line, nothing written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.broken_states import make_states_and_dictionary
from cli.dictionary_cases import DICTIONARY_CASES
from cli.grokking_cases import GROKKING_CASES
from conftest import PATIENCE, TINY, command, sentences, settings_args
from cutaway.cli.main import run
from stopping import wait_until


@dataclass
class Place:
    """A folder to work in, with a good corpus, good settings, and finished runs to break."""

    root: Path
    runs: Path

    @property
    def train(self) -> list[str]:
        """Arguments that would train."""
        data = ["--data", str(self.root / "corpus.txt")]
        return ["train", "docstrings-tiny", *settings_args({**TINY, "warmup_iters": 0}), *data]

    def copy(self, name: str) -> Path:
        """A finished run of one's own."""
        shutil.copytree(self.runs / name, self.root / name)
        return self.root / name

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory, corpus) -> Path:
    root = tmp_path_factory.mktemp("finished")
    text = root / "corpus.txt"
    text.write_text("\n\n".join(sentences(number, 60) for number in range(20)))
    for name in ("backpack", "gpt2"):
        settings = settings_args({**TINY, "model": name, "warmup_iters": 0})
        arguments = ["train", "docstrings-tiny", *settings, "--data", str(text)]
        assert run(["--quiet", *arguments, "--out", str(root / name)]) == 0
    make_states_and_dictionary(root)
    return root


@pytest.fixture
def place(tmp_path, runs, monkeypatch) -> Iterator[Place]:
    (tmp_path / "corpus.txt").write_bytes((runs / "corpus.txt").read_bytes())
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, runs)


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


Make = Callable[[Place], list[str]]


def field(name: str, value: object) -> Make:
    return lambda place: [*place.train, f"--{name}", str(value), "--out", "new"]


def file(content: str) -> Make:
    """A settings file of the user's own."""

    def make(place: Place) -> list[str]:
        rest = "".join(
            f"{key}: {value}\n" for key, value in TINY.items() if f"{key}:" not in content
        )
        data = "" if "data:" in content else f"data: {place.root / 'corpus.txt'}\n"
        return ["train", str(place.write("mine.yaml", content + rest + data)), "--out", "new"]

    return make


def data(content: str | bytes, name: str = "bad.txt") -> Make:
    def make(place: Place) -> list[str]:
        place.write(name, content)
        return [*place.train, "--data", name, "--out", "new"]

    return make


def log(content: str) -> Make:
    return lambda place: [
        "plot",
        "loss",
        str(place.write("training_log.json", content)),
        "--out",
        "x.pdf",
    ]


def log_of(**changes: object) -> Make:
    good = {"iterations": [0, 100], "train_loss": [4.5, 3.2], "val_loss": [4.6, 3.3]}
    kept = {key: value for key, value in {**good, **changes}.items() if value is not ...}
    return log(json.dumps(kept))


def holds_another_run(place: Place) -> list[str]:
    return [*place.train, "--out", str(place.copy("backpack"))]


def holds_other_things(place: Place) -> list[str]:
    place.write("thesis/chapter1.tex", "\\chapter{One}")
    return [*place.train, "--out", "thesis"]


def out_is_a_file(place: Place) -> list[str]:
    place.write("taken", "x")
    return [*place.train, "--out", "taken"]


def out_below_a_file(place: Place) -> list[str]:
    place.write("taken", "x")
    return [*place.train, "--out", "taken/run"]


def read_only_disk(place: Place) -> list[str]:
    return [*place.train, "--out", "/proc/cutaway-run"]


def checkpoint_of_another_configuration(place: Place) -> list[str]:
    run = place.copy("backpack")
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(place.runs / "gpt2" / "checkpoints", run / "checkpoints")
    return ["train", str(run), "--extra-steps", "20"]


def no_checkpoint_intact(place: Place) -> list[str]:
    run = place.copy("backpack")
    for checkpoint in (run / "checkpoints").glob("step-*"):
        file = checkpoint / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
    return ["train", str(run), "--extra-steps", "20"]


def resumed_with_other_settings(place: Place) -> list[str]:
    run = place.copy("backpack")
    return ["train", str(run), "--resume", "--learning-rate", "0.5"]


def vocabulary_too_small(place: Place) -> list[str]:
    tokenizer = str(place.runs / "backpack" / "tokenizer")
    return [*place.train, "--tokenizer", tokenizer, "--vocab-size", "280", "--out", "new"]


def model_without_senses(place: Place) -> list[str]:
    return ["senses", str(place.runs / "gpt2"), "--word", "the"]


def newer_record(place: Place) -> list[str]:
    run = place.copy("backpack")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "format": 99}))
    return ["runs", "show", str(run)]


CASES: dict[str, tuple[Make, str]] = {
    **DICTIONARY_CASES,
    **GROKKING_CASES,
    "unknown preset": (lambda p: ["train", "europarl-tinny"], "did you mean 'europarl-tiny'"),
    "unknown field": (field("n-horses", 3), "has no field 'n_horses'"),
    "misspelt field": (field("learnig-rate", 0.1), "did you mean 'learning_rate'"),
    "misspelt field in a file": (
        file("n_emdb: 16\n"),
        "has no field 'n_emdb'; did you mean 'n_embd'",
    ),
    "a value without its field": (lambda p: [*p.train, "0.1"], "unexpected argument '0.1'"),
    "heads that do not divide": (field("n-head", 3), "n_head = 3: must divide n_embd = 16"),
    "senses that do not divide": (field("n-senses", 5), "n_senses = 5: must divide n_embd = 16"),
    "negative learning rate": (field("learning-rate", -1), "learning_rate = -1"),
    "NaN learning rate": (field("learning-rate", "nan"), "learning_rate = nan"),
    "infinite learning rate": (field("learning-rate", "inf"), "learning_rate = inf"),
    "word for a number": (field("max-iters", "many"), "max_iters = 'many'"),
    "half a layer": (field("n-layer", "1.5"), "n_layer = 1.5"),
    "a field without its value": (
        lambda p: [*p.train, "--learning-rate", "--out", "new"],
        "learning_rate: needs a value",
    ),
    "a study that is a list": (file("study: [language]\n"), "study = ['language']"),
    "zero steps": (field("max-iters", 0), "max_iters = 0"),
    "dropout of one": (field("dropout", 1), "dropout = 1"),
    "unknown model": (field("model", "lstm"), "model = 'lstm'"),
    "float16": (field("precision", "float16"), "precision = 'float16'"),
    "a device that is absent": (field("device", "cuda:7"), "device = 'cuda:7'"),
    "a device that is none": (field("device", "abacus"), "expected auto, cpu, cuda, cuda:N or mps"),
    "warm-up beyond the end": (field("warmup-iters", 600), "warmup_iters = 600"),
    "floor above the rate": (field("min-lr", 5), "min_lr = 5.0: above learning_rate"),
    "1e-8 as text": (file("eps: '1e-8'\n"), "eps = '1e-8': expected a number, found text"),
    "a key twice": (file("seed: 1\nseed: 2\n"), "mine.yaml, line 2"),
    "broken YAML": (file("seed: [1\n"), "mine.yaml, line"),
    "YAML that is a list": (lambda p: ["train", str(p.write("l.yaml", "- a\n"))], "found list"),
    "missing settings file": (lambda p: ["train", "gone.yaml"], "gone.yaml: no such file"),
    "unknown study": (file("study: astrology\n"), "study = 'astrology': expected one of"),
    "vocabulary too small": (field("vocab-size", 100), "vocab_size = 100"),
    "a tokenizer that does not fit": (vocabulary_too_small, "vocab_size = 280: tokenizer"),
    "missing tokenizer": (field("tokenizer", "./nowhere"), "nowhere"),
    "empty corpus": (data(""), "bad.txt"),
    "corpus of blanks": (data(" \n\n \t\n"), "bad.txt"),
    "corpus shorter than a block": (data("Only a few words here."), "fewer than block_size + 1"),
    "binary file": (data(b"\x7fELF\x00\x01\x02\x03" * 50), "bad.txt"),
    "missing file": (
        lambda p: [*p.train, "--data", "gone/away.txt", "--out", "new"],
        "gone/away.txt",
    ),
    "unknown source": (lambda p: [*p.train, "--data", "docstring", "--out", "new"], "'docstrings'"),
    "empty folder": (
        lambda p: [(p.root / "void").mkdir(), *p.train, "--data", "void", "--out", "new"][1:],
        "void",
    ),
    "broken gzip": (data(b"\x1f\x8b\x08\x00broken", "bad.txt.gz"), "bad.txt.gz"),
    "broken JSON line": (data('{"text": "a"}\n{"text": \n', "bad.jsonl"), "bad.jsonl"),
    "broken Parquet": (data(b"PAR1 not really PAR1", "bad.parquet"), "bad.parquet"),
    "output holds another run": (holds_another_run, "holds another run"),
    "output holds other things": (holds_other_things, "holds chapter1.tex"),
    "output is a file": (out_is_a_file, "is a file, not a folder"),
    "output below a file": (out_below_a_file, "is a file, not a folder"),
    "read-only disk": (read_only_disk, "cannot write"),
    "checkpoint of another configuration": (
        checkpoint_of_another_configuration,
        "another configuration",
    ),
    "no checkpoint left intact": (no_checkpoint_intact, "no checkpoint left intact"),
    "resume with nothing there": (lambda p: [*p.train, "--out", "none", "--resume"], "none"),
    "resume without a run": (lambda p: [*p.train, "--resume"], "say which run"),
    "resume with other settings": (resumed_with_other_settings, "was trained with 0.01"),
    "negative extra steps": (lambda p: [*p.train, "--extra-steps", "-5"], "extra"),
    "log without validation": (log_of(val_loss=...), "val_loss"),
    "log with uneven lists": (log_of(train_loss=[4.5]), "train_loss"),
    "log with NaN": (log_of(val_loss=[4.6, float("nan")]), "val_loss"),
    "log of text": (log_of(iterations=["a", "b"]), "iterations"),
    "log that is no JSON": (log("{nope"), "training_log.json"),
    "log that is missing": (lambda p: ["plot", "loss", "gone.json", "--out", "x.pdf"], "gone.json"),
    "picture of no known kind": (
        lambda p: ["plot", "loss", str(p.runs / "gpt2"), "--out", "x.docx"],
        ".docx",
    ),
    "labels that do not match": (
        lambda p: ["plot", "loss", str(p.runs / "gpt2"), "--out", "x.pdf", "--labels", "a", "b"],
        "labels",
    ),
    "a figure nobody recorded": (
        lambda p: ["plot", "val_los", str(p.runs / "gpt2"), "--out", "x.pdf"],
        "val_los",
    ),
    "nothing to plot": (lambda p: ["plot", "loss", "--out", "x.pdf"], "name at least one run"),
    "words of a GPT-2": (lambda p: ["words", str(p.runs / "gpt2")], "only a backpack has senses"),
    "senses of a GPT-2": (model_without_senses, "only a backpack has senses"),
    "a word of many tokens": (
        lambda p: ["senses", str(p.runs / "backpack"), "--word", "antidisestablishment"],
        "not one token",
    ),
    "a sense there is not": (
        lambda p: ["senses", str(p.runs / "backpack"), "--word", "the", "--scale", "9=2"],
        "senses 0 to 1",
    ),
    "scaling by a word": (
        lambda p: ["senses", str(p.runs / "backpack"), "--word", "the", "--scale", "1=much"],
        "scale = 'much'",
    ),
    "a sense that is a raised two": (
        lambda p: ["senses", str(p.runs / "backpack"), "--word", "the", "--scale", "²=2"],
        "scale = '²=2'",
    ),
    "a step that is a raised two": (
        lambda p: ["sample", str(p.runs / "gpt2"), "--step", "²"],
        "step = '²'",
    ),
    "a step of thousands of digits": (
        lambda p: ["sample", str(p.runs / "gpt2"), "--step", "1" * 5000],
        "expected best, last or a step number",
    ),
    "states of a step that is a raised two": (
        lambda p: [
            "extract",
            str(p.runs / "gpt2"),
            "--data",
            "docstrings",
            "--step",
            "²",
            "--out",
            "new",
        ],
        "step = ²",
    ),
    "a device of a raised two": (field("device", "cuda:²"), "expected auto, cpu, cuda"),
    "more parameters than can be counted": (
        lambda p: ["params", "docstrings-tiny", "--target", "9" * 400],
        "expected a number of parameters",
    ),
    "a checkpoint that was not kept": (
        lambda p: [
            "words",
            str(p.runs / "backpack"),
            "--kind",
            "predicts",
            "--word",
            "the",
            "--step",
            "7",
        ],
        "step = 7",
    ),
    "colder than zero": (
        lambda p: ["sample", str(p.runs / "gpt2"), "--temperature", "-1"],
        "temperature = -1",
    ),
    "export of a Backpack": (lambda p: ["export", str(p.runs / "backpack")], "only gpt2 runs"),
    "no number of parameters": (
        lambda p: ["params", "docstrings-tiny", "--target", "lots"],
        "target = 'lots'",
    ),
    "no such run": (lambda p: ["runs", "show", "ghost"], "ghost"),
    "SQL that writes": (
        lambda p: ["runs", "sql", "DROP TABLE runs", "--runs", str(p.runs)],
        "SELECT",
    ),
    "SQL that is none": (lambda p: ["runs", "sql", "SELEC 1", "--runs", str(p.runs)], ""),
    "a record from the future": (newer_record, "format 99"),
    "unknown command": (lambda p: ["trian"], "trian"),
    "unknown option": (lambda p: ["presets", "--colour"], "--colour"),
    "a missing argument": (lambda p: ["words"], "run"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_exit_2_nothing_written(case: str, place: Place, capsys) -> None:
    make, said = CASES[case]
    arguments = make(place)
    before = snapshot(place.root)
    code = run(arguments)
    output = capsys.readouterr()
    complaints = [line for line in output.err.splitlines() if line.startswith("cutaway: ")]
    assert code == 2, output.err
    assert len(complaints) == 1
    assert said.lower() in complaints[0].lower()
    assert "Traceback" not in output.err
    assert output.out == ""
    assert snapshot(place.root) == before


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 120
    assert len(GROKKING_CASES) >= 50
    assert len(DICTIONARY_CASES) >= 80


def test_debug_shows_the_traceback(place, capsys) -> None:
    assert run(["train", "no-such-preset", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_ends_the_run_in_one_line(place) -> None:
    """No file may grow beyond 200 KB: what a full disk looks like to a process."""
    import resource

    process = command(*place.train, "--n-embd", "64", "--out", "new", cwd=place.root)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode in (1, 2)
    assert sum(line.startswith("cutaway: ") for line in errors.splitlines()) == 1
    assert "Traceback" not in errors


@pytest.mark.parametrize("harm", ["cut", "flip"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(place, capsys, harm) -> None:
    folder = place.copy("backpack")
    steps = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    file = folder / "checkpoints" / steps[-1] / "model.safetensors"
    content = bytearray(file.read_bytes())
    if harm == "cut":
        content = content[:-100]
    else:
        content[-50] ^= 1
    file.write_bytes(bytes(content))
    assert run(["train", str(folder), "--extra-steps", "20"]) == 0
    assert "falling back" in capsys.readouterr().err
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["steps_done"]) == ("done", TINY["max_iters"] + 20)
    assert any("falling back" in line for line in record["notices"])


def test_unicode_and_spaces_in_paths_work(place) -> None:
    text = place.write("mes données/Žižek 文.txt", sentences(0, 800))
    arguments = [*place.train, "--data", str(text), "--out", "ma première/run é 1"]
    assert run(["--quiet", *arguments]) == 0
    made = place.root / "ma première" / "run é 1"
    assert run(["--quiet", "plot", "loss", str(made), "--out", "mes données/perte é.png"]) == 0
    assert (place.root / "mes données" / "perte é.png").stat().st_size > 1000


def test_two_processes_on_one_run_the_second_is_told_who_is_first(place) -> None:
    import socket

    arguments = [*place.train, "--max-iters", "100000", "--out", "shared"]
    first = command(*arguments, cwd=place.root)
    wait_until(lambda: (place.root / "shared" / "run.json").exists(), first)
    second = command(*arguments, "--resume", cwd=place.root)
    _, errors = second.communicate(timeout=PATIENCE)
    first.terminate()
    first.communicate(timeout=PATIENCE)
    assert second.returncode == 2
    assert str(first.pid) in errors
    assert socket.gethostname() in errors
    assert first.returncode == 143
    assert os.path.exists(place.root / "shared" / "checkpoints")
