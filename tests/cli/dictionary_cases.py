"""Bad input about hidden states and dictionaries: for each what to run and what is said.

Beside the runs of `Place` there are `states` (a store of `gpt2`: embed and residual.0) and
`dictionary` (trained on it).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from cli.broken_states import cut, filled, first_shard_only, garbled, lost, newer


class Place(Protocol):
    """The folder a case works in (`test_bad_input.Place`)."""

    root: Path
    runs: Path

    def copy(self, name: str) -> Path: ...

    def write(self, name: str, content: str | bytes) -> Path: ...


Make = Callable[[Any], list[str]]


def extracting(*arguments: object, model: str = "gpt2") -> Make:
    """An extraction with these arguments."""

    return lambda p: [
        *("extract", str(p.runs / model)),
        *with_defaults(arguments, data=str(p.root / "corpus.txt"), tokens="2k", out="new"),
    ]


def with_defaults(arguments: tuple[object, ...], **defaults: str) -> list[str]:
    """Arguments, and before them what they do not give."""
    given = [str(one) for one in arguments]
    others = {name: value for name, value in defaults.items() if f"--{name}" not in given}
    return [part for name, value in others.items() for part in (f"--{name}", value)] + given


def training(*arguments: object) -> Make:
    """Dictionaries of the good store with these arguments."""
    return lambda p: [
        *("sae", "train", str(p.runs / "states"), "--out", "new", "--max-steps", "5"),
        *map(str, arguments),
    ]


def one(content: str, *arguments: object) -> Make:
    """`cutaway train` of a settings file."""

    def make(place: Place) -> list[str]:
        file = place.write("d.yaml", f"study: dictionary\nmax_steps: 5\n{content}")
        return ["train", str(file), "--out", "new", *map(str, arguments)]

    return make


def piping(*arguments: object, model: str = "gpt2") -> Make:
    """A whole pipeline with these arguments."""
    return lambda p: [
        *("sae", "pipeline", str(p.runs / model)),
        *with_defaults(arguments, data=str(p.root / "corpus.txt"), tokens="2k", out="new"),
    ]


def groups(widths: str) -> Make:
    """A Matryoshka dictionary of 32 features with these groups."""

    def make(place: Place) -> list[str]:
        file = place.write("m.yaml", f"architecture: matryoshka\nd_hidden: 32\ngroups: {widths}\n")
        return [*training()(place), "--config", str(file)]

    return make


def using(command: str, *arguments: object) -> Make:
    """A command on the good dictionary; arguments may be functions of the place."""
    return lambda p: [
        *("sae", command, str(p.runs / "dictionary")),
        *(str(one(p) if callable(one) else one) for one in arguments),
    ]


def harmed(harm: Callable[[Path], None], *arguments: object) -> Make:
    """Training on a store of one's own, to which something was done."""

    def make(place: Place) -> list[str]:
        store = place.copy("states")
        harm(store)
        return ["sae", "train", str(store), "--out", "new", "--max-steps", "5", *arguments]

    return make


def spoilt(place: Place) -> Path:
    """A store of one's own that holds no number."""
    store = place.copy("states")
    filled(float("nan"))(store)
    return store


def pickled(place: Place) -> list[str]:
    return ["sae", "eval", str(place.write("sae_layer_6_best.pt", b"\x80\x04\x95.."))]


def pickle_in_a_folder(place: Place) -> list[str]:
    return ["sae", "features", str(place.write("theirs/sae_6.pt", b"\x80\x04\x95..").parent)]


def other_store(place: Place) -> list[str]:
    """A store whose record says that it is of the Backpack."""
    store = place.copy("states")
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["reference"] |= {"id": "elsewhere", "weights_sha256": "0" * 64}
    (store / "manifest.json").write_text(json.dumps(manifest))
    return ["sae", "eval", str(place.runs / "dictionary"), "--activations", str(store)]


def states_gone(place: Place) -> list[str]:
    run = place.copy("dictionary")
    record = json.loads((run / "run.json").read_text())
    record["config"]["activations"] = str(place.root / "gone")
    (run / "run.json").write_text(json.dumps(record))
    return ["sae", "eval", str(run)]


def saved_without_model(place: Place) -> list[str]:
    """A dictionary of nobody knows which model."""
    from cutaway.dictionaries.architectures.registry import build
    from cutaway.dictionaries.model.dictionary import DictionaryShape

    build(DictionaryShape("topk", 16, 32, k=4)).save(place.root / "nobody")
    return ["sae", "eval", str(place.root / "nobody")]


def saved_without(*fields: str) -> Make:
    """A dictionary of the language run that does not say these things of itself."""
    from cutaway.dictionaries.architectures.registry import build
    from cutaway.dictionaries.model.dictionary import DictionaryShape

    def make(place: Place) -> list[str]:
        model = place.runs / "gpt2"
        width = json.loads((model / "run.json").read_text())["config"]["n_embd"]
        made = build(DictionaryShape("topk", width, 32, k=4))
        made.metadata = {"site": None if "site" in fields else "residual.0"}
        made.save(place.root / "saved")
        return ["sae", "eval", str(place.root / "saved"), "--model", str(model)]

    return make


def resumed_otherwise(place: Place) -> list[str]:
    store = place.copy("states")
    return ["extract", "--resume", "--out", str(store), "--layers", "0"]


def taken(place: Place) -> list[str]:
    place.write("new/residual.0/notes.txt", "mine")
    return training()(place)


def of_language(command: str) -> Make:
    return lambda p: ["sae", command, str(p.runs / "gpt2")]


DICTIONARY_CASES: dict[str, tuple[Make, str]] = {
    # hidden states
    "a layer there is not": (extracting("--layers", "9"), "9"),
    "a site that is none": (extracting("--layers", "mlpp.0"), "mlpp.0"),
    "a number of tokens that is none": (extracting("--tokens", "10X"), "tokens = '10X'"),
    "no tokens": (extracting("--tokens", "0"), "tokens = '0'"),
    "states in float16": (extracting("--dtype", "float16"), "float16 ends at 65504"),
    "no contexts in a batch": (extracting("--batch-size-extract", "0"), "batch_size = 0"),
    "longer contexts than the model reads": (
        extracting("--context-length", "4096"),
        "context_length = 4096",
    ),
    "states of a missing model": (lambda p: ["extract", "./ghost", "--out", "new"], "ghost"),
    "states of a dictionary": (extracting(model="dictionary"), "is a dictionary, not a model"),
    "states of a store": (extracting(model="states"), "states: this run's record names no"),
    "states to a folder with another run": (
        lambda p: extracting("--out", p.copy("gpt2"))(p),
        "holds another run",
    ),
    "states of missing text": (extracting("--data", "gone.txt"), "gone.txt"),
    "an extraction resumed otherwise": (resumed_otherwise, "layers = '0'"),
    "states to nowhere": (lambda p: ["extract", str(p.runs / "gpt2")], "--out FOLDER"),
    # training
    "a layer the store has not": (training("--layers", "mlp.0"), "holds embed, residual.0"),
    "a layer given as a field": (training("--layer", "0"), "layer = '0': set for each dictionary"),
    "another width": (training("--d-model", "768"), "d_model = 768: the states are 16 wide"),
    "an L0 above the features": (
        training("--target-l0", "64", "--d-hidden", "32"),
        "target_l0 = 64: must be below d_hidden = 32",
    ),
    "an L0 above the usual features": (
        training("--target-l0", "100"),
        "target_l0 = 100: must be below d_hidden = 85",
    ),
    "an accepted L0 above the features": (
        training("--target-sparsity-min", "50", "--target-sparsity-max", "150"),
        "target_l0 = 100: must be below d_hidden = 85",
    ),
    "a range upside down": (
        training("--target-sparsity-min", "9", "--target-sparsity-max", "5"),
        "target_sparsity_min = 9.0: above target_sparsity_max = 5.0",
    ),
    "groups that do not end in all features": (
        groups("[8, 16]"),
        "groups = [8, 16]: expected widths from 1 to d_hidden = 32, ending there",
    ),
    "no groups": (groups("[]"), "groups = []"),
    "an unknown architecture of a dictionary": (
        training("--architecture", "vanilla"),
        "architecture = 'vanilla': input should be 'jumprelu', 'topk'",
    ),
    "no states in a batch": (training("--batch-size", "0"), "batch_size = 0"),
    "nearly all held out": (
        training("--validation-fraction", "0.9"),
        "validation_fraction = 0.9: input should be less than or equal to 0.5",
    ),
    "nothing held out": (training("--validation-fraction", "0"), "validation_fraction = 0"),
    "a negative price": (training("--lambda-sparse=-1"), "lambda_sparse = -1"),
    "a price of 0 that should follow a target": (
        training("--lambda-sparse", "0", "--target-l0", "4"),
        "lambda_sparse = 0: a price is multiplied",
    ),
    "a threshold of 0": (training("--threshold", "0"), "threshold = 0"),
    "a threshold no state reaches": (
        training("--threshold", "1e6"),
        "threshold = 1e+06: no feature is active",
    ),
    "an endless rate": (training("--learning-rate", "inf"), "learning_rate = inf"),
    "no epochs of states": (training("--epochs", "0"), "epochs = 0"),
    "one feature": (training("--d-hidden", "1"), "d_hidden = 1"),
    "a misspelt field of a dictionary": (
        training("--lamda-sparse", "0.1"),
        "did you mean 'lambda_sparse'",
    ),
    "a preset of another study": (training("--config", "gpt2-small"), "has no field"),
    "a device for dictionaries that is absent": (training("--device", "cuda:7"), "cuda:7"),
    "dictionaries to nowhere": (
        lambda p: ["sae", "train", str(p.runs / "states")],
        "--out FOLDER",
    ),
    "a taken folder of a layer": (taken, "is not empty (holds notes.txt)"),
    "no such store": (lambda p: ["sae", "train", "gone", "--out", "new"], "gone: no such folder"),
    "a language run as a store": (
        lambda p: ["sae", "train", str(p.runs / "gpt2"), "--out", "new"],
        "holds a language run, not an activation store",
    ),
    "a shard cut short": (harmed(cut), "00001.safetensors: damaged"),
    "a shard lost": (harmed(lost), "00001.safetensors: missing"),
    "a garbled manifest": (harmed(garbled), "manifest.json: damaged, not JSON"),
    "a manifest from the future": (harmed(newer), "format 99 is newer"),
    "states that are all zero": (harmed(filled(0.0), "--layers", "0"), "every state is zero"),
    "states that are not numbers": (
        harmed(filled(float("nan")), "--layers", "0"),
        "are not finite",
    ),
    "zero in every layer": (harmed(filled(0.0)), "every state is zero"),
    "a store of a single context": (harmed(first_shard_only), "extract more tokens"),
    # one dictionary by a file
    "no states named": (one("architecture: topk\n"), "activations: needed"),
    "two layers and none named": (
        lambda p: [*one("")(p), "--activations", str(p.runs / "states")],
        "layer: which one?",
    ),
    "streaming without a model": (one("streaming: true\nlayer: 0\n"), "model: needed"),
    "streaming without a layer": (
        lambda p: [*one("streaming: true\n")(p), "--model", str(p.runs / "gpt2")],
        "layer: needed where streaming",
    ),
    "streaming from a layer there is not": (
        lambda p: [*one("streaming: true\nlayer: 7\n")(p), "--model", str(p.runs / "gpt2")],
        "7",
    ),
    "streaming of no tokens": (one("streaming: true\ntokens: 0\n"), "tokens = 0"),
    # the pipeline
    "extracting only and training only": (piping("--extract-only", "--train-only"), "choose one"),
    "a pipeline to nowhere": (lambda p: ["sae", "pipeline", str(p.runs / "gpt2")], "--out FOLDER"),
    "a pipeline of a missing model": (
        lambda p: ["sae", "pipeline", "./ghost", "--out", "new"],
        "ghost",
    ),
    "a pipeline's L0 above the features": (
        piping("--target-l0", "100"),
        "target_l0 = 100: must be below d_hidden = 85",
    ),
    "a pipeline of another width": (piping("--d-model", "768"), "d_model = 768"),
    "a pipeline of 10X tokens": (piping("--tokens", "10X"), "tokens = '10X'"),
    "a pipeline of a layer there is not": (piping("--layers", "0,6,11"), "6"),
    "no contexts in a pass of a pipeline": (
        piping("--batch-size-extract", "0"),
        "batch_size_extract = 0: expected 1 or more",
    ),
    "a pipeline resumed that never began": (
        piping("--resume", "--out", "typo"),
        "typo: no such folder; without --resume a new one begins there",
    ),
    "dictionaries resumed that never began": (
        training("--resume"),
        "new: no such folder; without --resume a new one begins there",
    ),
    "a pipeline's misspelt field": (piping("--d-hiden", "64"), "did you mean 'd_hidden'"),
    "training only without states": (piping("--train-only"), "no such folder"),
    "training only of another model": (
        lambda p: [
            *piping("--train-only", model="backpack")(p),
            *("--cache-dir", str(p.runs / "states")),
        ],
        "has other weights or another tokenizer",
    ),
    # judging, reading, using
    "nothing to judge": (lambda p: ["sae", "eval"], "name a dictionary"),
    "a missing dictionary": (lambda p: ["sae", "eval", "gone"], "gone: no such"),
    "a pickle for a dictionary": (pickled, "a pickle runs whatever code it holds"),
    "a pickle in a folder": (pickle_in_a_folder, "sae_6.pt: refused: a pickle"),
    "a language run as a dictionary": (of_language("eval"), "trains no dictionary"),
    "a language run's features": (of_language("features"), "trains no dictionary"),
    "a store as a dictionary": (
        lambda p: ["sae", "eval", str(p.runs / "states")],
        "trains no dictionary",
    ),
    "a store of another model": (other_store, "elsewhere has other weights"),
    "judging with states that are not numbers": (
        lambda p: using("eval", "--activations", spoilt(p))(p),
        "holds states that are not finite",
    ),
    "the wrong model": (
        using("eval", "--model", lambda p: p.runs / "backpack"),
        "has other weights or another tokenizer",
    ),
    "states that are gone": (states_gone, "its hidden states are gone; name text with --data"),
    "a dictionary that names no text": (
        saved_without("text"),
        "names no text or hidden states; give --data or --activations",
    ),
    "a dictionary that names no site": (saved_without("site"), "as in --site residual.6"),
    "a dictionary of another site": (
        using("features", "--site", "embed", "--out", "new"),
        "site = 'embed': ",
    ),
    "a site that is none, of a dictionary": (using("eval", "--site", "mlpp.1"), "mlpp.1"),
    "a site for labelled texts": (
        using("eval", "--suite", "all", "--site", "0"),
        "--site: not with --suite",
    ),
    "a dictionary for a model": (
        using("eval", "--model", lambda p: p.runs / "dictionary"),
        "is a dictionary, not a model; it was trained on ",
    ),
    "a folder of dictionaries": (
        lambda p: ["sae", "eval", str(p.runs)],
        "holds no dictionary itself, and in it ",
    ),
    "a dictionary of no known model": (saved_without_model, "say which, with --model"),
    "the second of two is missing": (using("eval", "gone"), "gone: no such"),
    "text and states both": (
        using("eval", "--data", "docstrings", "--activations", lambda p: p.runs / "states"),
        "choose one",
    ),
    "judging no tokens": (using("eval", "--tokens", "0"), "tokens = '0'"),
    "a judgement into a file": (
        using("eval", "--out", lambda p: p.write("taken", "x")),
        "is a file, not a folder",
    ),
    "a feature there is not": (
        using("features", "--feature", "32", "--out", "new"),
        "feature = 32: the dictionary has features 0 to 31",
    ),
    "a feature below zero": (
        using("features", "--feature=-1", "--out", "new"),
        "feature = -1: the dictionary has features 0 to 31",
    ),
    "no examples": (using("features", "--examples", "0", "--out", "new"), "examples = 0"),
    "no features listed": (using("features", "--top", "0", "--out", "new"), "top = 0"),
    "features of missing text": (
        using("features", "--data", "gone.txt", "--out", "new"),
        "gone.txt",
    ),
    "an unknown format": (
        using("export", "--format", "sealens", "--out", "new"),
        "format = 'sealens': expected one of cutaway, saelens; did you mean 'saelens'",
    ),
    "an export to nowhere": (using("export"), "--out FOLDER"),
    "an export into a folder of other things": (
        using("export", "--out", lambda p: p.write("taken/notes.txt", "x").parent),
        "taken: is not empty (holds notes.txt)",
    ),
    "an export into a file": (
        using("export", "--out", lambda p: p.write("taken", "x")),
        "taken",
    ),
    "an effect of a feature there is not": (
        using("effect", "--feature", "99", "--prompt", "the cat"),
        "feature = 99: the dictionary has features 0 to 31",
    ),
    "an effect on nothing": (using("effect", "--feature", "1", "--prompt", ""), "prompt = ''"),
    "an effect of an unknown mode": (
        using("effect", "--feature", "1", "--prompt", "a", "--mode", "double"),
        "mode",
    ),
    "an effect colder than zero": (
        using("effect", "--feature", "1", "--prompt", "a", "--temperature=-1"),
        "temperature = -1",
    ),
    "an effect hotter than anything": (
        using("effect", "--feature", "1", "--prompt", "a", "--temperature", "inf"),
        "temperature = inf",
    ),
    "an effect beyond all measure": (
        using("effect", "--feature", "1", "--prompt", "a", "--value", "1e30"),
        "value = 1e+30",
    ),
    "a silence longer than can be counted": (
        training("--dead-after", str(10**20)),
        "dead_after",
    ),
    "a sample shorter than nothing": (
        using("effect", "--feature", "1", "--prompt", "a", "--length=-1"),
        "length = -1",
    ),
    "an effect that is no number": (
        using("effect", "--feature", "1", "--prompt", "a", "--value", "nan"),
        "value = nan",
    ),
}
