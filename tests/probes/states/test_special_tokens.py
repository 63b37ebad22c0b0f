"""Probes read texts between the special tokens their model was trained with, and remember which."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from activations.small_stores import BOS, EOS, with_special
from cutaway.activations.capture import capture
from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.probes.data.labels import data_of
from cutaway.probes.other_data.evaluating import evaluate, examples_for
from cutaway.probes.states.inputs import inputs_of
from cutaway.probes.train.notebook import fit
from cutaway.probes.view.reading import open_probes, read_tokens
from cutaway.runs.folder import Run
from cutaway.text.reading import Reading

TEXTS = [f"the {animal} sees the {n} dogs" for n in range(40) for animal in ("cat", "king")]
LABELS = ["cat", "king"] * 40
WAYS = [(None, (BOS,), ()), (True, (BOS,), ()), (False, (), ())]


@pytest.fixture(scope="module")
def folder(llama_with_bos: Path) -> Path:
    return llama_with_bos


@pytest.fixture(scope="module")
def model(llama_with_bos: Path) -> Model:
    return open_model(llama_with_bos, device="cpu")


@pytest.fixture(scope="module")
def encoder(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Model:
    place = shutil.copytree(tiny_folder("bert"), tmp_path_factory.mktemp("models") / "bert")
    return open_model(with_special(place, "B $A E"), device="cpu")


def truth(model: Model, text: str, reading: Reading, read: str) -> torch.Tensor:
    """The state of one text at residual.1, from a pass of its own."""
    ids = model.reads.encode(text)
    (state,) = capture(model, torch.tensor([reading.around(ids)]), ["1"]).values()
    front = len(reading.prefix)
    own = state[0, front : front + len(ids)]
    return {"mean": own.mean(0), "last": own[-1], "first": state[0, 0]}[read]


@pytest.mark.parametrize("read", ["mean", "last", "first"])
@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize(("bos", "prefix", "suffix"), WAYS)
def test_states_are_those_of_texts_read_alone(
    model: Model, encoder: Model, kind: str, read: str, bos, prefix, suffix
) -> None:
    network = model if kind == "llama" else encoder
    if kind == "bert" and bos is not False:
        suffix = (EOS,)
    data = data_of(TEXTS, LABELS, network.reads, read=read)
    inputs = inputs_of(data.reading(), network, "1", bos=bos)
    assert (inputs.reading.prefix, inputs.reading.suffix) == (prefix, suffix)
    found, examples = inputs.states("test")
    for row in range(len(examples)):
        begin, end = (int(one[examples.context[row]]) for one in (examples.begin, examples.end))
        text = network.reads.decode(examples.tokens[begin:end].tolist())
        expected = truth(network, text, inputs.reading, read)
        torch.testing.assert_close(found.values[0, row], expected, atol=2e-5, rtol=2e-5)


def test_probes_remember_how_texts_were_read(model: Model, tmp_path: Path) -> None:
    for bos, prefix, _ in WAYS:
        (probe,) = fit(model, TEXTS, LABELS, layers="1", controls="none", bos=bos).probes
        assert probe.about.reading.prefix == prefix
        probe.save(tmp_path / str(bos))
        (again,) = open_probes(tmp_path / str(bos))
        assert again.about.reading == probe.about.reading
        ids = model.reads.encode("the king sees 7 dogs")
        read = read_tokens(model, [again], torch.tensor(ids), own=False)
        (state,) = capture(model, torch.tensor([[*prefix, *ids]]), ["1"]).values()
        expected = again(state[0, len(prefix) :])
        torch.testing.assert_close(read.probabilities[0], expected, atol=1e-5, rtol=1e-5)
        assert read.context.tolist() == list(range(len(ids)))


def test_windows_begin_with_the_special_tokens_too(model: Model) -> None:
    (probe,) = fit(model, TEXTS, LABELS, layers="1", controls="none").probes
    ids = torch.tensor(model.reads.encode(" ".join(TEXTS))[:90])
    read = read_tokens(model, [probe], ids, own=False)
    assert read.window == 31  # the model reads 32
    for place in (0, 30, 31, 60, 89):
        seen = ids[place - int(read.context[place]) : place + 1].tolist()
        (state,) = capture(model, torch.tensor([[BOS, *seen]]), ["1"]).values()
        expected = probe(state[0, -1])
        torch.testing.assert_close(read.probabilities[0, place], expected, atol=1e-5, rtol=1e-5)


def test_a_probe_of_before_readings_reads_without_special_tokens(
    model: Model, tmp_path: Path
) -> None:
    (probe,) = fit(model, TEXTS, LABELS, layers="1", controls="none", bos=False).probes
    file = probe.save(tmp_path / "probe") / "probe.json"
    said = json.loads(file.read_text())
    del said["reading"]
    file.write_text(json.dumps(said))
    checksums = file.parent / "checksums.json"
    checksums.unlink(missing_ok=True)
    (old,) = open_probes(file.parent)
    assert old.about.reading == Reading()
    examples = examples_for([old], model, str(_file(tmp_path)))
    assert evaluate([old], model, examples)[0]["accuracy"] == pytest.approx(
        evaluate([probe], model, examples)[0]["accuracy"], abs=0
    )


def test_probes_of_texts_read_in_two_ways_are_not_shown_together(model, tmp_path) -> None:
    for site, bos in (("0", True), ("1", False)):
        (probe,) = fit(model, TEXTS, LABELS, layers=site, controls="none", bos=bos).probes
        probe.save(tmp_path / "probes" / site)
    with pytest.raises(UserError, match="probes of unlike reading"):
        open_probes(tmp_path)


def test_the_state_of_the_first_token_tells_an_encoder_s_texts_apart(
    encoder: Model, tmp_path: Path
) -> None:
    report = fit(encoder, TEXTS, LABELS, layers="2", controls="none", read="first")
    (probe,) = report.probes
    assert (probe.about.read, probe.about.reading.prefix) == ("first", (BOS,))
    rows = evaluate([probe], encoder, examples_for([probe], encoder, str(_file(tmp_path))))
    assert rows[0]["n_test"] == len(TEXTS)
    assert rows[0]["accuracy"] > 0.9


def test_texts_as_long_as_the_model_reads_leave_room_for_special_tokens(
    model: Model, tmp_path: Path
) -> None:
    long = [f"{text} " * 12 for text in TEXTS]
    data = data_of(long, LABELS, model.reads, context_length=32)
    assert inputs_of(data.reading(), model, "1", bos=False)
    with pytest.raises(UserError, match=r"1 special ones included; .* --context-length 31"):
        inputs_of(data.reading(), model, "1")


def test_what_is_cut_by_default_leaves_that_room(
    cutaway, folder: Path, model: Model, tmp_path: Path
) -> None:
    long = [f"{text} " * 12 for text in TEXTS]
    assert fit(model, long, LABELS, layers="1", controls="none").probes
    rows = [{"text": t, "label": label} for t, label in zip(long, LABELS, strict=True)]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for ask in (["--labels", "long.jsonl"], ["--data", "long.jsonl", "--target-token", " the"]):
        code, _, err = cutaway("probe", "data", folder, *ask, "--out", ask[0].strip("-"))
        assert code == 0, err
        train = ["--layers", "1", "--controls", "none", "--out", f"{ask[0].strip('-')}-probes"]
        code, _, err = cutaway("probe", "train", folder, "--data", ask[0].strip("-"), *train)
        assert code == 0, err


def test_a_run_of_probes_goes_on_as_it_was_begun(
    cutaway, folder: Path, model: Model, tmp_path: Path
) -> None:
    data_of(TEXTS, LABELS, model.reads).save(tmp_path / "data")
    train = ["probe", "train", folder, "--data", "data", "--layers", "1", "--controls", "none"]
    for name, words, prefix in (("a", [], [BOS]), ("b", ["--bos", "false"], [])):
        code, _, err = cutaway(
            *train, "--method", "minibatch", "--max-steps", 6, *words, "--out", name
        )
        assert code == 0, err
        record = Run.open(tmp_path / name).record
        assert record.resolved["reading"]["prefix"] == prefix
    # a run of before readings: its settings name no special tokens, and it had none
    run = json.loads((tmp_path / "b" / "run.json").read_text())
    del run["config"]["bos"]
    (tmp_path / "b" / "run.json").write_text(json.dumps(run))
    code, _, err = cutaway("train", "b", "--extra-steps", 4)
    assert code == 0, err
    (probe,) = open_probes(tmp_path / "b")
    assert probe.about.reading.prefix == ()


def _file(folder: Path) -> Path:
    path = folder / "labelled.jsonl"
    rows = [{"text": t, "label": label} for t, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path
