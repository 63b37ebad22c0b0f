"""Bad input about grokking runs, sweeps and histories: for each what to run and what is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Place(Protocol):
    """The folder a case works in (`test_bad_input.Place`)."""

    root: Path
    runs: Path

    def write(self, name: str, content: str | bytes) -> Path: ...


Make = Callable[[Any], list[str]]


def grok(*arguments: object, preset: str = "validate") -> Make:
    """A grokking run with these arguments."""
    return lambda place: ["train", preset, *map(str, arguments), "--out", "new"]


def grok_file(content: str) -> Make:
    """A grokking run of a settings file of the user's own."""
    return lambda place: ["train", str(place.write("g.yaml", content)), "--out", "new"]


def swept(content: str, *arguments: str) -> Make:
    """A sweep of a file of the user's own; settings of a tiny network."""
    shared = {"p": 11, "model_type": "baseline", "hidden_dim": 8, "epochs": 5}

    def make(place: Place) -> list[str]:
        rest = "".join(f"{k}: {v}\n" for k, v in shared.items() if f"{k}:" not in content)
        file = place.write("s.yaml", f"study: grokking\n{content}\n{rest}")
        return ["sweep", str(file), "--out", "new", *arguments]

    return make


def history_file(content: str, *command: str, name: str = "h.jsonl") -> Make:
    """A command on a history of the user's own."""
    return lambda place: ["runs", *command, str(place.write(name, content))]


_TWO = "sweep: {lr: [0.01, 0.02]}"
_ROWS = '{"step": 0, "train_acc": 0.1, "test_acc": 0.1}\n'

GROKKING_CASES: dict[str, tuple[Make, str]] = {
    "p that is no prime, for divide": (
        grok("--operation", "divide", "--p", "12"),
        "p = 12: must be a prime to divide by",
    ),
    "p too small": (grok("--p", "2"), "p = 2: input should be greater than or equal to 3"),
    "p too large": (grok("--p", "5000"), "p = 5000: input should be less than or equal to 1000"),
    "half a p": (grok("--p", "11.5"), "p = 11.5"),
    "train_frac of 0": (grok("--train-frac", "0"), "train_frac = 0: input should be greater"),
    "train_frac of 1": (grok("--train-frac", "1"), "train_frac = 1: input should be less"),
    "train_frac that leaves no pair": (
        grok("--train-frac", "0.001"),
        "train_frac = 0.001: leaves no pairs to train on or to test",
    ),
    "train_frac that leaves no test": (
        grok("--train-frac", "0.9999"),
        "train_frac = 0.9999: leaves no pairs",
    ),
    "heads that do not divide the width": (
        grok("--n-heads", "3", preset="validate-transformer"),
        "n_heads = 3: must divide hidden_dim = 128",
    ),
    "no heads": (grok("--n-heads", "0"), "n_heads = 0"),
    "no layers": (grok("--n-layers", "0"), "n_layers = 0"),
    "tied embeddings of an MLP": (
        grok("--tie-embeddings"),
        "tie_embeddings = true: of a transformer only; model_type is baseline",
    ),
    "other people's name for a field": (
        grok("--learning-rate", "0.1"),
        "has no field 'learning_rate'; did you mean 'lr'",
    ),
    "pictures of a run into a file": (
        lambda p: ["plot", "all", str(p.runs / "gpt2"), "--out", "f.png"],
        "f.png: expected a folder",
    ),
    "an unknown routing penalty": (
        grok("--routing-regularizer", "chaos", preset="routed"),
        "routing_regularizer = 'chaos': input should be 'entropy'",
    ),
    "an unknown operation": (
        grok("--operation", "modulo"),
        "operation = 'modulo': input should be 'add', 'subtract', 'multiply' or 'divide'",
    ),
    "an unknown optimizer": (
        grok("--optimizer", "sgd"),
        "optimizer = 'sgd': input should be 'adamw' or 'orthograd_adamw'",
    ),
    "an unknown network": (grok("--model-type", "rnn"), "model_type = 'rnn'"),
    "an unknown activation": (grok("--activation", "tanh"), "activation = 'tanh'"),
    "no epochs": (grok("--epochs", "0"), "epochs = 0: input should be greater than or equal to"),
    "a negative rate": (grok("--lr", "-0.1"), "lr = -0.1: input should be greater than 0"),
    "a negative decay": (grok("--weight-decay", "-1"), "weight_decay = -1"),
    "beta2 of 1": (grok("--beta2", "1"), "beta2 = 1: input should be less than 1"),
    "no clipping by 0": (grok("--grad-clip", "0"), "grad_clip = 0"),
    "a log at no step": (grok("--log-every", "0"), "log_every = 0"),
    "a language field": (grok("--n-embd", "64"), "GrokkingConfig has no field 'n_embd'"),
    "a misspelt grokking field": (grok("--train-frak", "0.3"), "did you mean 'train_frac'"),
    "a name that leaves the folder": (grok("--name", "../up"), "name = '../up'"),
    "eps as text": (
        grok_file("study: grokking\np: 11\neps: '1e-8'\n"),
        "eps = '1e-8': expected a number, found text; write it without quotes",
    ),
    "lr as text": (
        grok_file("study: grokking\np: 11\nlr: fast\n"),
        "lr = 'fast': expected a number, found text",
    ),
    "an axis without values": (swept("sweep: {lr: []}"), "lr: the list is empty"),
    "an axis that is no list": (swept("sweep: {lr: 0.1}"), "lr = 0.1: expected a list"),
    "an unknown axis": (
        swept("sweep: {lrr: [1, 2]}"),
        "run lrr1: GrokkingConfig has no field 'lrr'; did you mean 'lr'",
    ),
    "a value out of range in a sweep": (
        swept("sweep: {p: [11, 2]}"),
        "run p2: p = 2: input should be greater than or equal to 3",
    ),
    "runs that are the same": (
        swept("sweep: {lr: [0.01, 1.0e-2]}"),
        "runs lr0.01 and lr0.01: have the same settings",
    ),
    "seeds below zero": (swept("seeds: [-1]"), "run s-1: seed = -1"),
    "a swept field given for all": (
        swept(_TWO, "--lr", "0.5"),
        "--lr: this sweep varies lr; choose among its runs with --experiment",
    ),
    "a run the sweep has not": (
        swept(_TWO, "--experiment", "lr0.3"),
        "experiment = 'lr0.3': no such run",
    ),
    "a start beyond the end": (
        swept(_TWO, "--start-from", "2"),
        "start_from = 2: expected 0 to 1",
    ),
    "a start before the first": (swept(_TWO, "--start-from=-1"), "start_from = -1: expected 0"),
    "no jobs": (swept(_TWO, "--jobs", "0"), "jobs = 0: expected 1 or more"),
    "a stack of nothing alike": (
        swept("sweep: {n_layers: [1, 2]}", "--ensemble"),
        "ensemble: no two of these 2 runs can be stacked",
    ),
    "a sweep trained as one run": (
        lambda p: ["train", "transformer-sweep", "--out", "new"],
        "transformer-sweep: is a sweep of 18 runs; `cutaway sweep transformer-sweep`",
    ),
    "one run swept": (
        lambda p: ["sweep", "validate", "--out", "new"],
        "validate: nothing to vary",
    ),
    "a sweep that is not there": (
        lambda p: ["sweep", "weight-decay-swep", "--out", "new"],
        "did you mean 'weight-decay-sweep'",
    ),
    "a folder that holds no sweep": (
        lambda p: ["sweep", str(p.runs), "--resume"],
        "holds no sweep (no sweep.yaml there)",
    ),
    "pictures of no sweep": (
        lambda p: ["plot", "sweep", str(p.runs), "--out", "new"],
        "holds no sweep (no sweep.yaml there)",
    ),
    "pictures of a sweep that is a preset": (
        lambda p: ["plot", "sweep", "transformer-sweep", "--out", "new"],
        "transformer-sweep: no such folder",
    ),
    "pictures of two sweeps": (
        lambda p: ["plot", "sweep", "a", "b", "--out", "new"],
        "plot sweep: one sweep at a time, 2 given",
    ),
    "all pictures into a file": (
        lambda p: ["plot", "all", str(p.runs / "gpt2"), "--out", str(p.write("taken", "x"))],
        "taken: is a file; these pictures go into a folder",
    ),
    "labels for all pictures": (
        lambda p: ["plot", "all", str(p.runs / "gpt2"), "--out", "new", "--title", "T"],
        "plot all: --labels, --log-x, --log-y and --title are for single pictures",
    ),
    "a history of nothing but names": (
        lambda p: ["plot", "all", str(p.write("h.csv", "a,b\nx,y\n")), "--out", "new"],
        "h.csv",
    ),
    "phases of what is not there": (lambda p: ["runs", "phases", "ghost"], "ghost"),
    "phases without accuracies": (
        history_file('{"step": 0, "train_loss": 1.0}\n', "phases"),
        "has no train_acc",
    ),
    "a threshold that is no share": (
        history_file(_ROWS, "phases", "--test-threshold", "95"),
        "test_threshold = 95.0: expected a share",
    ),
    "a window below zero": (
        history_file(_ROWS, "phases", "--sustain=-1"),
        "sustain = -1: expected a number of steps",
    ),
    "phases of no runs": (lambda p: ["runs", "phases"], "runs: no such folder; --runs names"),
    "import of nothing": (lambda p: ["runs", "import"], "name at least one history file"),
    "import of what is not there": (lambda p: ["runs", "import", "gone.csv"], "gone.csv"),
    "import of a picture": (
        history_file("x", "import", name="h.png"),
        "expected a file named *.jsonl",
    ),
    "import of an accuracy of 400": (
        history_file('{"step": 0, "test_acc": 400}\n', "import"),
        "test_acc = 400: an accuracy is a share (0 to 1) or a percentage",
    ),
    "import of an empty file": (history_file("", "import"), "h.jsonl: is empty"),
    "import to a name that leaves": (
        history_file(_ROWS, "import", "--name", "../up"),
        "name = '../up': expected a folder's name",
    ),
}
