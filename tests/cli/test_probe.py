"""`cutaway probe train|eval`: what they print and leave, and what they refuse in one line."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.probes.data.examples import PARTS, ProbeData
from cutaway.runs.folder import Run

Cutaway = Callable[..., tuple[int, str, str]]
QUICK = ("--layers", "embed,0", "--controls", "none", "--device", "cpu")


@pytest.fixture(scope="module")
def done(gpt2_run: Path, probe_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of exact probes under runs/ of its folder; tests only read it."""
    from cutaway.cli.main import run

    out = tmp_path_factory.mktemp("probing") / "runs" / "exact"
    words = ["--quiet", "probe", "train", gpt2_run, "--data", probe_data, *QUICK, "--out", out]
    assert run([str(word) for word in words]) == 0
    return out


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no pictures, which take most of a small run's time."""
    monkeypatch.setattr("cutaway.probes.train.run.draw", lambda findings, out: {})


# -- train -----------------------------------------------------------------------------------------


def test_layers_and_controls_are_printed_and_kept(
    cutaway: Cutaway, gpt2_run: Path, probe_data: Path, tmp_path: Path
) -> None:
    ask = ["probe", "train", gpt2_run, "--data", probe_data, "--layers", "embed,0"]
    code, out, err = cutaway(*ask, "--controls", "shuffled,model", "--out", "kept")
    assert code == 0, err
    assert all(one in out for one in ("residual.0", "balanced_accuracy", "controls", "shuffled"))
    assert "wrote" in err
    code, printed, _ = cutaway("probe", "train", "--out", "kept", "--resume", "--json")
    assert code == 0
    said = json.loads(printed)
    assert [row["site"] for row in said["layers"]] == ["embed", "residual.0"]
    assert {row["control"] for row in said["controls"]} == {"shuffled", "model"}
    code, printed, _ = cutaway("probe", "train", "--out", "kept", "--resume", "--csv")
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [row["site"] for row in rows] == ["embed", "residual.0"]
    assert float(rows[0]["balanced_accuracy"]) == said["layers"][0]["balanced_accuracy"]
    assert (tmp_path / "kept" / "probes" / "embed" / "probe.json").is_file()


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_a_name_gets_one(cutaway: Cutaway, gpt2_run, probe_data, tmp_path) -> None:
    for _ in range(2):
        code, _, err = cutaway("probe", "train", gpt2_run, "--data", probe_data, *QUICK)
        assert code == 0, err
    assert sorted(one.name for one in (tmp_path / "runs").iterdir()) == ["probes", "probes-2"]


@pytest.mark.usefixtures("undrawn")
def test_the_sanity_task_reads_the_target_itself(cutaway: Cutaway, gpt2_run, probe_data) -> None:
    code, out, err = cutaway(
        *("probe", "train", gpt2_run, "--data", probe_data, *QUICK),
        *("--predict-current", "--out", "kept", "--json"),
    )
    assert code == 0, err
    assert min(row["balanced_accuracy"] for row in json.loads(out)["layers"]) > 0.97
    assert Run.open("kept").record.resolved["task"] == "current"


@pytest.mark.parametrize(
    ("settings", "method", "said"),
    [
        (["--max-steps", "40"], "minibatch", True),
        (["--epochs", "1", "--batch-size", "200"], "minibatch", True),
        (["--mlp-width", "4", "--max-steps", "40"], "mlp", True),
        (["--method", "mlp", "--max-steps", "40", "--mlp-width", "4"], "mlp", False),
        (["--method", "mass_mean"], "mass_mean", False),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_settings_choose_the_method(
    cutaway: Cutaway, gpt2_run, probe_data, settings: list[str], method: str, said: bool
) -> None:
    code, out, err = cutaway(
        "probe", "train", gpt2_run, "--data", probe_data, *QUICK, *settings, "--out", "kept"
    )
    assert code == 0, err
    assert Run.open("kept").record.config["method"] == method
    assert ("training in minibatches" in err) == said
    assert "residual.0" in out
    assert all(row["method"] == method for row in Run.open("kept").read("layers").to_pylist())


@pytest.mark.usefixtures("undrawn")
def test_settings_come_from_a_file_and_the_command_line_goes_first(
    cutaway: Cutaway, gpt2_run, probe_data, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"study: probe\nmodel: {gpt2_run}\ndata: {probe_data}\nlayers: embed\ncontrols: none\n"
        "method: mass_mean\n"
    )
    code, _, err = cutaway(
        "probe", "train", "--config", "mine.yaml", "--layers", "0", "--out", "kept"
    )
    assert code == 0, err
    config = Run.open("kept").record.config
    assert (config["layers"], config["method"]) == ("0", "mass_mean")


@pytest.mark.usefixtures("undrawn")
def test_a_model_in_the_file_leaves_the_command_line_to_settings(
    cutaway: Cutaway, gpt2_run, probe_data, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(f"study: probe\nmodel: {gpt2_run}\ndata: {probe_data}\n")
    code, _, err = cutaway(
        *("probe", "train", "--config", "mine.yaml", "--max-steps", "40", "--mlp-width", "4"),
        *("--controls", "none", "--out", "kept"),
    )
    assert code == 0, err
    config = Run.open("kept").record.config
    assert (config["method"], config["max_steps"], config["mlp_width"]) == ("mlp", 40, 4)


@pytest.mark.usefixtures("undrawn")
def test_cutaway_train_leaves_what_probe_train_does(
    cutaway: Cutaway, done: Path, gpt2_run: Path, probe_data: Path
) -> None:
    code, out, err = cutaway("train", done / "config.yaml", "--out", "again")
    assert code == 0, err
    assert "balanced_accuracy 0." in out
    assert out.count(" at even odds") == out.count("balanced_accuracy ")  # each says which decision
    for table in Run.open(done).tables():
        assert Run.open("again").read(table).equals(Run.open(done).read(table)), table
    code, _, err = cutaway(
        *("train", "probe-next-token", "--model", gpt2_run, "--data", probe_data),
        *("--max-steps", "40", "--controls", "none", "--out", "stepped"),
    )
    assert code == 0, err
    assert {"layers", "reliability", "confusion"} <= set(Run.open("stepped").tables())
    assert (Path("stepped") / "probes" / "residual.0" / "probe.json").is_file()


def test_a_done_run_is_shown_and_not_said_to_be_written(cutaway: Cutaway, done: Path) -> None:
    code, out, err = cutaway("probe", "train", "--resume", "--out", done)
    assert code == 0, err
    assert "residual.0" in out
    assert "already done" in err
    assert "wrote" not in err
    _, _, err = cutaway("probe", "train", "--resume", "--out", done, "--controls", "all")
    assert "already done with controls = 'none'; others need a new run" in err
    assert "wrote" not in err


# -- eval ------------------------------------------------------------------------------------------


def test_eval_on_the_test_part_says_what_training_said(
    cutaway: Cutaway, done: Path, probe_data: Path
) -> None:
    code, out, err = cutaway("probe", "eval", done, "--data", probe_data, "--json")
    assert code == 0, err
    for row, before in zip(json.loads(out), Run.open(done).read("layers").to_pylist(), strict=True):
        for name in ("site", "n_test", "balanced_accuracy", "low", "high", "auroc", "brier"):
            assert row[name] == pytest.approx(before[name], abs=1e-5)


def test_eval_on_text_counts_its_own_targets(
    cutaway: Cutaway, done: Path, corpus: Path, monkeypatch
) -> None:
    monkeypatch.chdir(done.parent.parent)
    ask = ["probe", "eval", "exact", "--text-file", corpus / "text-05.txt", "--tokens", "1k"]
    code, out, err = cutaway(*ask)
    assert code == 0, err
    assert "residual.0" in out
    assert "examples" in err
    assert "' the'" in err
    code, out, _ = cutaway(*ask, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["site"] for row in rows] == ["embed", "residual.0"]
    assert int(rows[0]["n_test"]) <= 1000


def test_eval_takes_held_out_documents_where_no_data_are_named(
    cutaway: Cutaway, done: Path, probe_data: Path, corpus: Path
) -> None:
    from cutaway.probes.other_data.evaluating import evaluate, examples_for
    from cutaway.probes.other_data.held_out import held_out_of
    from cutaway.probes.view.reading import model_of, open_probes

    code, out, err = cutaway("probe", "eval", done, "--json", "--tokens", "3k")
    assert code == 0, err
    assert "trained on" not in err
    probes = open_probes(done)
    found = held_out_of(ProbeData.load(probe_data))
    network = model_of(probes)
    examples = examples_for(probes, network, found, tokens=3000)
    for row, expected in zip(json.loads(out), evaluate(probes, network, examples), strict=True):
        assert row["n_test"] == expected["n_test"]
        assert row["auroc"] == pytest.approx(expected["auroc"])
    read = " ".join(one.text for one in found.documents())
    tokens = network.reads.encode(read)
    assert set(examples.tokens.tolist()) <= {*tokens, network.reads.end_of_text}
    # and the same of one of its probes
    code, out, err = cutaway("probe", "eval", done / "probes" / "embed", "--json", "--tokens", "3k")
    assert (code, json.loads(out)[0]["n_test"]) == (0, expected["n_test"])


def test_eval_on_the_text_of_training_says_so(cutaway: Cutaway, done: Path, corpus: Path) -> None:
    said = "documents the probes were trained on are among it"
    code, _, err = cutaway("probe", "eval", done, "--data", corpus, "--tokens", "1k")
    assert code == 0, err
    assert f"{corpus}: {said}" in err
    _, _, err = cutaway("probe", "eval", done, "--data", corpus / "text-05.txt", "--tokens", "1k")
    assert said not in err


def test_a_part_without_data_is_one_of_the_run_s_own(
    cutaway: Cutaway, done: Path, probe_data: Path
) -> None:
    code, out, err = cutaway("probe", "eval", done, "--part", "validation", "--json")
    assert code == 0, err
    count = len(ProbeData.load(probe_data).parts["validation"])
    assert [row["n_test"] for row in json.loads(out)] == [count] * 2


def test_where_the_data_are_gone_it_says_what_it_takes(
    cutaway: Cutaway, done: Path, tmp_path: Path
) -> None:
    shutil.copytree(done / "probes", tmp_path / "bare")
    code, _, err = cutaway("probe", "eval", "bare", "--tokens", "1k")
    assert code == 0, err
    assert "bare: the data of its training cannot be found; judged on docstrings" in err
    code, _, err = cutaway("probe", "eval", "bare", "--part", "test")
    assert code == 2
    assert "name some with --data" in err


def test_probes_of_labels_are_judged_on_their_own_test_part(
    cutaway: Cutaway, gpt2_run: Path, tmp_path: Path
) -> None:
    rows = [
        f"{'the river' if n % 2 else 'a king'} {n},{('king', 'river')[n % 2]}" for n in range(90)
    ]
    (tmp_path / "own.csv").write_text("text,label\n" + "\n".join(rows))
    assert cutaway("probe", "data", gpt2_run, "--labels", "own.csv", "--out", "own")[0] == 0
    code, _, err = cutaway("probe", "train", gpt2_run, "--data", "own", *QUICK, "--out", "run")
    assert code == 0, err
    code, out, err = cutaway("probe", "eval", "run", "--json")
    assert code == 0, err
    (before, _) = Run.open("run").read("layers").to_pylist()
    assert json.loads(out)[0]["n_test"] == before["n_test"]
    assert json.loads(out)[0]["balanced_accuracy"] == pytest.approx(before["balanced_accuracy"])


def test_a_single_probe_is_judged_too(cutaway: Cutaway, done: Path, probe_data: Path) -> None:
    code, out, err = cutaway(
        "probe", "eval", done / "probes" / "embed", "--data", probe_data, "--part", "all", "--json"
    )
    assert code == 0, err
    (row,) = json.loads(out)
    assert row["n_test"] == sum(
        sum(of.values()) for of in ProbeData.load(probe_data).counts.values()
    )


# -- bad input -------------------------------------------------------------------------------------


@dataclass
class Place:
    """What there is to name, and a folder to work in."""

    root: Path
    model: Path
    data: Path
    done: Path
    corpus: Path
    tiny: Path

    @property
    def train(self) -> list[Any]:
        """Words that would train."""
        return self.training()

    def training(self, *words: Any) -> list[Any]:
        """Words that would train, with options added or in the place of others."""
        options = {"--data": self.data, **dict(zip(QUICK[::2], QUICK[1::2])), "--out": "new"}
        given = {"--layers" if word == "--layer" else word for word in words}
        kept = [
            part for name, value in options.items() if name not in given for part in (name, value)
        ]
        return ["probe", "train", self.model, *kept, *words]

    @property
    def eval(self) -> list[Any]:
        return ["probe", "eval", self.done]

    def own(self) -> ProbeData:
        return ProbeData.load(self.data)

    def saved(self, **changes: Any) -> Path:
        """Probe data changed and saved again."""
        data = self.own()
        parts = {name: changes.pop(name, data.parts[name]) for name in PARTS}
        return replace(data, parts=parts, **changes).save(self.root / "changed")

    def copied(self, name: str) -> Path:
        return shutil.copytree(self.done, self.root / name)

    def write(self, name: str, content: str) -> Path:
        (self.root / name).write_text(content)
        return self.root / name


@pytest.fixture
def place(tmp_path: Path, gpt2_run, probe_data, done, corpus, tiny_folder) -> Place:
    return Place(tmp_path, gpt2_run, probe_data, done, corpus, tiny_folder("llama"))


Make = Callable[[Place], list[Any]]


def with_(*words: Any) -> Make:
    return lambda place: place.training(*words)


def judging(*words: Any) -> Make:
    return lambda place: [*place.eval, *words]


def one_class(part: str) -> Make:
    def make(place: Place) -> list[Any]:
        found = place.own().parts[part]
        rows = (found.label == 0).nonzero()[:, 0]
        return place.training("--data", place.saved(**{part: found.chosen(rows)}))

    return make


def damaged(place: Place) -> list[Any]:
    folder = shutil.copytree(place.data, place.root / "damaged")
    file = folder / "test.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    return place.training("--data", folder)


def newer(place: Place) -> list[Any]:
    folder = shutil.copytree(place.data, place.root / "newer")
    said = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**said, "format": 99}))
    return place.training("--data", folder)


def taken(place: Place) -> list[Any]:
    (place.root / "taken").mkdir()
    place.write("taken/thesis.tex", "x")
    return place.training("--out", "taken")


def out_is_a_file(place: Place) -> list[Any]:
    place.write("taken", "x")
    return place.training("--out", "taken")


def too_long(place: Place) -> list[Any]:
    part = place.own().parts["train"]
    longer = replace(part, end=(part.begin + 20).clamp(max=len(part.tokens)))
    return place.training("--data", place.saved(train=longer.compact()))


def settings_of_language(place: Place) -> list[Any]:
    file = place.write("lm.yaml", "study: language\nn_layer: 2\n")
    return [*place.train, "--config", file]


def damaged_probe(place: Place) -> list[Any]:
    copy = place.copied("copy")
    (copy / "probes" / "embed" / "probe.safetensors").write_bytes(b"x")
    return ["probe", "eval", copy, "--data", place.data]


def newer_probe(place: Place) -> list[Any]:
    file = place.copied("copy") / "probes" / "embed" / "probe.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    return ["probe", "eval", place.root / "copy", "--data", place.data]


def other_target(place: Place) -> list[Any]:
    return [*place.eval, "--data", place.saved(target=" of", target_id=5)]


def short_text(place: Place) -> list[Any]:
    return [*place.eval, "--data", place.write("short.txt", "the")]


CASES: dict[str, tuple[Make, list[str]]] = {
    # what is missing
    "nothing": (lambda place: ["probe", "train"], ["model is missing", "MODEL"]),
    "no data": (lambda place: ["probe", "train", place.model], ["data is missing", "--data"]),
    "no such model": (
        lambda place: ["probe", "train", "runs/nowhere", "--data", place.data],
        ["runs/nowhere"],
    ),
    "model is a folder of none": (
        lambda place: ["probe", "train", place.corpus, "--data", place.data],
        ["neither a run", "config.json"],
    ),
    "model is a dictionary": (
        lambda place: [
            *("probe", "train", place.write("dictionary.json", "{}").parent, "--data", place.data)
        ],
        ["is a dictionary, not a model"],
    ),
    "no such data": (with_("--data", "nowhere"), ["nowhere", "no probe data", "cutaway probe data"]),
    "data is a text": (
        lambda place: place.training("--data", place.corpus / "text-01.txt"),
        ["text-01.txt", "no probe data"],
    ),
    "damaged data": (damaged, ["damaged probe data"]),
    "newer data": (newer, ["format 99", "newer"]),
    "data of another tokenizer": (
        lambda place: ["probe", "train", place.tiny, "--data", place.data],
        ["made with the tokenizer", "reads with another"],
    ),
    "training of one class": (one_class("train"), ["train holds one class only", "' the'"]),
    "validation of one class": (one_class("validation"), ["validation holds one class only"]),
    "test of one class": (one_class("test"), ["test holds one class only", "'other'"]),
    "contexts too long": (too_long, ["context_length = ", "reads at most 16"]),
    # fields
    "layer beyond": (with_("--layers", "0,7"), ["layer = '7'", "layers 0 to 0"]),
    "layer negative": (with_("--layers", "-2"), ["layer = '-2'", "expected"]),
    "layer unknown": (with_("--layers", "first"), ["'first'", "embed"]),
    "layers none": (with_("--layers", ","), ["layers = ','"]),
    "layers empty": (with_("--layer", ""), ["layers = ''"]),
    "unknown control": (with_("--controls", "shuffeld"), ["controls = 'shuffeld'", "'shuffled'"]),
    "control twice wrong": (with_("--controls", "all,model"), ["controls = 'all'", "expected"]),
    "method": (with_("--method", "lbfgs"), ["method = 'lbfgs'", "'exact'"]),
    "epochs of what is solved": (
        with_("--method", "exact", "--epochs", "3"),
        ["epochs = 3", "method 'exact' is solved", "minibatch"],
    ),
    "evaluations of what is solved": (
        with_("--method", "exact", "--eval-every", "3"),
        ["eval_every = 3", "method 'exact' is solved"],
    ),
    "rows of what is solved": (
        with_("--method", "exact", "--log-every", "3"), ["log_every = 3", "'exact' is solved"]
    ),
    "decay of what is solved": (
        with_("--method", "mass_mean", "--decay-steps", "3"), ["decay_steps = 3", "is solved"]
    ),
    "checkpoints of what is solved": (
        with_("--method", "exact", "--checkpoint-every", "3"), ["checkpoint_every = 3", "is solved"]
    ),
    "kept checkpoints of what is solved": (
        with_("--method", "exact", "--keep-checkpoints", "3"), ["keep_checkpoints = 3", "is solved"]
    ),
    "width of what is linear": (
        with_("--method", "minibatch", "--mlp-width", "3"), ["mlp_width = 3", "method mlp"]
    ),
    "learning rate of mass means": (
        with_("--method", "mass_mean", "--learning-rate", "1e-3"),
        ["learning_rate = 1e-3", "minibatch"],
    ),
    "float16": (with_("--model-dtype", "float16"), ["float16 ends at 65504", "NaN", "bfloat16"]),
    "half by the field": (with_("--dtype", "half"), ["dtype = 'half'", "float32"]),
    "dtype": (with_("--model-dtype", "int8"), ["dtype = 'int8'", "bfloat16"]),
    "strength 0": (with_("--strengths", "0,1"), ["strengths = 0", "above 0"]),
    "strength no number": (with_("--strengths", "weak"), ["strengths", "weak"]),
    "strengths none at all": (with_("--strengths", ","), ["strengths"]),
    "cap below 1": (with_("--pos-weight-cap", "0.5"), ["pos_weight_cap = 0.5", "1"]),
    "epochs 0": (with_("--epochs", "0"), ["epochs = 0", "greater than 0"]),
    "epochs no number": (with_("--epochs", "many"), ["epochs", "many"]),
    "batch of 0": (with_("--batch-size", "0"), ["batch_size = 0"]),
    "rate below 0": (with_("--learning-rate", "-1"), ["learning_rate = -1"]),
    "decay below 0": (with_("--weight-decay", "-1"), ["weight_decay = -1"]),
    "width of 0": (with_("--mlp-width", "0"), ["mlp_width = 0"]),
    "tokens of 0": (with_("--forward-tokens", "0"), ["forward_tokens = 0"]),
    "seed": (with_("--seed", "one"), ["seed", "one"]),
    "task": (with_("--task", "labels"), ["task = 'labels'", "'next'"]),
    "step": (with_("--step", "first"), ["step = 'first'", "best, last"]),
    "step not kept": (with_("--step", "7"), ["step = 7"]),
    "device": (with_("--device", "tpu"), ["device", "tpu"]),
    "unknown field": (with_("--penalty", "l1"), ["no field 'penalty'"]),
    "field near": (with_("--stengths", "1"), ["no field 'stengths'", "strengths"]),
    "json and csv": (with_("--json", "--csv"), ["--json and --csv"]),
    "config missing": (with_("--config", "nowhere.yaml"), ["nowhere.yaml"]),
    "config of another study": (settings_of_language, ["language", "not of probes"]),
    # places
    "out taken": (taken, ["taken"]),
    "out is a file": (out_is_a_file, ["taken"]),
    "out holds a run": (lambda place: place.training("--out", place.copied("copy")), ["copy"]),
    "resume of nowhere": (
        lambda place: ["probe", "train", "--resume", "--out", "nowhere"], ["nowhere"]
    ),
    "resume without out": (lambda place: ["probe", "train", "--resume"], ["--resume", "--out"]),
    "resume of a model's run": (
        lambda place: ["probe", "train", "--resume", "--out", place.model],
        ["a language run, not of probes"],
    ),
    "resume with other layers": (
        lambda place: ["probe", "train", "--resume", "--out", place.done, "--layers", "0"],
        ["layers = '0'", "'embed,0'"],
    ),
    "resume with epochs": (
        lambda place: ["probe", "train", "--resume", "--out", place.done, "--epochs", "3"],
        ["epochs = 3", "'exact'"],
    ),
    # eval
    "eval of nothing": (lambda place: ["probe", "eval", "nowhere"], ["nowhere", "no probes"]),
    "eval of a model": (lambda place: ["probe", "eval", place.model], ["no probes there"]),
    "eval of a damaged probe": (damaged_probe, ["damaged", "probe.safetensors"]),
    "eval of a newer probe": (newer_probe, ["format 99", "newer"]),
    "eval on no such data": (judging("--data", "no-such-source"), ["no-such-source"]),
    "eval on no such part": (
        lambda place: [*place.eval, "--data", place.data, "--part", "exam"],
        ["part = 'exam'", "train, validation, test"],
    ),
    "eval on no such part of a text": (
        lambda place: [*place.eval, "--data", place.corpus, "--part", "train"],
        ["part", "folder of probe data"],
    ),
    "eval on too many words for tokens": (judging("--tokens", "lots"), ["lots"]),
    "eval on no tokens": (
        lambda place: [*place.eval, "--data", place.corpus, "--tokens", "0"], ["tokens"]
    ),
    "eval with a label for probe data": (
        lambda place: [*place.eval, "--data", place.data, "--label", "PER"], ["label = 'PER'"]
    ),
    "eval on another target": (other_target, ["' of'", "' the'"]),
    "eval on a short text": (short_text, ["short"]),
    "eval with another model": (
        lambda place: [*place.eval, "--data", place.data, "--model", place.tiny],
        ["not the one the probes were trained on"],
    ),
    "eval with a label for a text": (
        lambda place: [*place.eval, "--data", place.corpus, "--label", "PER"], ["label = 'PER'"]
    ),
    "eval json and csv": (judging("--json", "--csv"), ["--json and --csv"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_that_names_it(cutaway: Cutaway, place: Place, name: str) -> None:
    make, said = CASES[name]
    words = make(place)
    before = sorted(path for path in place.root.rglob("*"))
    code, out, err = cutaway(*words)
    told = [line for line in err.splitlines() if line.startswith("cutaway: ")]
    assert (code, len(told), out) == (2, 1, ""), err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == told[0]
    for part in said:
        assert part in told[0]
    assert sorted(path for path in place.root.rglob("*")) == before  # nothing is left behind


def test_there_are_at_least_forty_of_them() -> None:
    assert len(CASES) >= 40


# -- degenerate cases ------------------------------------------------------------------------------


def test_a_target_of_two_tokens_says_which(cutaway: Cutaway, gpt2_run, corpus, tmp_path) -> None:
    code, _, err = cutaway(
        *("probe", "data", gpt2_run, "--data", corpus, "--target-token", " zebra"),
        *("--context-length", 8, "--out", "made"),
    )
    assert code == 2
    assert "target = ' zebra'" in err
    assert "expected one" in err
    assert not (tmp_path / "made").exists()


def test_a_target_never_seen_says_so(cutaway: Cutaway, gpt2_run, corpus, tmp_path) -> None:
    code, _, err = cutaway(
        *("probe", "data", gpt2_run, "--data", corpus, "--target-token", "%"),
        *("--context-length", 8, "--out", "made"),
    )
    assert code == 2
    assert "never seen" in err
    assert not (tmp_path / "made").exists()


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the model's states come out changed, as a broken one's would."""
    from cutaway.probes.states import collecting as module

    def install(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        capture = module.capture

        def broken(model, tokens, *rest):
            return {site: change(state.clone(), tokens)
                    for site, state in capture(model, tokens, *rest).items()}  # fmt: skip

        monkeypatch.setattr(module, "capture", broken)

    return install


def ended(cutaway: Cutaway, place: Place, *words: Any) -> tuple[int, str, list[str]]:
    """Exit code, all that was said, and the complaints among it, of a training."""
    code, _, err = cutaway(*place.train, *words)
    assert "Traceback" not in err
    return code, err, [line for line in err.splitlines() if line.startswith("cutaway: ")]


@pytest.mark.parametrize("method", ["exact", "minibatch"])
def test_states_that_are_all_the_same_are_refused_by_name(cutaway, place, spoilt, method) -> None:
    spoilt(lambda state, tokens: torch.ones_like(state))
    code, _, told = ended(cutaway, place, "--method", method)
    assert code == (1 if method == "exact" else 2)
    assert len(told) == 1
    assert "embed: all" in told[0]
    assert "states of train are the same" in told[0]


@pytest.mark.parametrize("method", ["exact", "minibatch"])
def test_states_of_nothing_but_nan_are_refused(cutaway, place, spoilt, method) -> None:
    spoilt(lambda state, tokens: state * torch.nan)
    code, _, told = ended(cutaway, place, "--method", method)
    assert code == (1 if method == "exact" else 2)
    assert len(told) == 1
    assert "train: not one of" in told[0]


@pytest.mark.parametrize("settings", [[], ["--max-steps", "60"]])
@pytest.mark.usefixtures("undrawn")
def test_some_states_of_nan_are_counted_told_and_left_out(cutaway, place, spoilt, settings) -> None:
    data = place.own().reading()
    token = int(data.parts["test"].token().mode().values)

    def change(state: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        state[tokens == token] = torch.nan
        return state

    spoilt(change)
    code, err, told = ended(cutaway, place, *settings)
    assert (code, told) == (0, [])
    hit = int((data.parts["test"].token() == token).sum())
    count = len(data.parts["test"])
    assert hit > 0
    assert f"test: {hit:,} of {count:,} examples have states that are not finite" in err
    rows = Run.open("new").read("layers").to_pylist()
    assert [row["n_test"] for row in rows] == [count - hit] * 2


@pytest.mark.usefixtures("undrawn")
def test_a_one_sided_probe_fails_and_its_tables_can_be_asked(
    cutaway: Cutaway, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cutaway.probes.states import inputs

    whole = inputs.states_of

    def far_off(model, examples, *args, **kwargs):
        found = whole(model, examples, *args, **kwargs)
        if kwargs["label"] == "reading test":
            found.values[0] += 1e4
        return found

    monkeypatch.setattr(inputs, "states_of", far_off)
    (place.root / "store").mkdir()
    words = place.training("--out", "store/new")
    code, _, err = cutaway(*words)
    told = [line for line in err.splitlines() if line.startswith("cutaway: ")]
    assert (code, len(told)) == (1, 1)
    assert "embed: predicts only " in told[0]
    assert Run.open("store/new").status == "failed"
    query = (
        "SELECT site, balanced_accuracy FROM layers JOIN runs USING (run) WHERE status = 'failed'"
    )
    code, out, err = cutaway("runs", "sql", query, "--runs", "store", "--json")
    assert code == 0, err
    assert json.loads(out)[0] == {"site": "embed", "balanced_accuracy": 0.5}
