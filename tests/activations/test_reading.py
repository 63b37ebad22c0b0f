"""How text is read for a model: what its tokenizer says, and what it was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from activations.small_stores import BOS, EOS, huggingface_model, made, with_special
from conftest import DATA
from cutaway.activations import reading as module
from cutaway.activations.capture import capture
from cutaway.activations.extraction import extract, pack, recorded
from cutaway.activations.model_stream import ModelStream
from cutaway.activations.reading import decided
from cutaway.activations.store import ActivationStore
from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.runs.folder import Run
from cutaway.text.reading import Reading

STORIES = DATA / "stories260K"


@pytest.fixture(scope="module")
def folder(llama_with_bos: Path) -> Path:
    return llama_with_bos


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    opened = open_model(folder)
    assert opened.abilities.predicts  # found once, before a test makes it say other things
    return opened


def expecting(model: Model, separator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the model certain of every token of documents that stand in the way it was 'trained'."""

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        row = tokens[0].tolist()
        found = torch.zeros(1, len(row), model.vocab_size)
        for place, token in enumerate(row[1:]):
            before = [one for one in row[1 : place + 1] if one in (BOS, EOS)]
            shape = {(): "none", (BOS,): "bos", (EOS,): "eos"}
            last = tuple(before[-2:])
            name = "both" if set(last) == {BOS, EOS} else shape.get(last[-1:], "none")
            found[0, place, token] = 8.0 if name == separator else 1.0
        return found

    monkeypatch.setattr(model, "logits", logits)


# -- special tokens --------------------------------------------------------------------------------


def test_a_text_is_read_as_the_tokenizer_reads_it(model: Model) -> None:
    ids = model.reads.encode("the cat")
    assert model.tokens("the cat").tolist() == [[BOS, *ids]]
    assert model.tokens("the cat", special=False).tolist() == [ids]


@pytest.mark.parametrize(
    ("bos", "prefix"), [(None, (BOS,)), (True, (BOS,)), (False, ())], ids=["auto", "yes", "no"]
)
def test_a_store_holds_states_of_text_read_as_the_model_was_trained(
    folder: Path, model: Model, corpus: Path, tmp_path: Path, bos: bool | None, prefix: tuple
) -> None:
    store = made(folder, corpus, tmp_path / "s", layers="1", tokens=2_000, bos=bos)
    assert store.reading.prefix == prefix
    text = pack(model, str(corpus), 2_000, None, reading=store.reading)
    contexts = text.contexts(0, text.n_contexts)
    tokens = torch.from_numpy(contexts.tokens)
    assert [tuple(row[: len(prefix)]) for row in tokens.tolist()] == [prefix] * len(tokens)
    (truth,) = capture(model, tokens, ["1"]).values()
    kept = torch.from_numpy(contexts.documents >= 0)
    assert torch.equal(store.tokens().long(), tokens[kept])
    torch.testing.assert_close(store.read("1"), truth[kept], atol=1e-5, rtol=1e-5)
    assert Run.open(store.path).record.resolved["reading"] == store.reading.to_json()


@pytest.mark.parametrize("separator", ["bos", "eos", "both", "none"])
def test_rows_are_of_the_text_whatever_stands_between_documents(
    folder: Path, model: Model, tmp_path: Path, separator: str
) -> None:
    """States of BOS are never kept, wherever it stands; means count exactly what is kept."""
    data = tmp_path / "data.jsonl"
    rows = [{"text": f"the cat sees the dog {n} times today"} for n in range(60)]
    data.write_text("\n".join(map(json.dumps, rows)))
    settings = {"layers": "1", "tokens": 700, "context_length": 24, "separator": separator}
    store = made(folder, data, tmp_path / "s", **settings)
    assert store.reading.separator == separator
    assert BOS not in store.tokens().tolist()
    assert (EOS in store.tokens().tolist()) == (separator in ("eos", "both"))
    assert (store.documents() >= 0).all()
    positions = store.positions()
    rest = store.read("1")[positions > 0].double()
    torch.testing.assert_close(store.mean("1"), rest.mean(0), rtol=1e-9, atol=1e-12)
    figures = store.statistics("1")
    assert figures["rows"] == len(rest)
    assert figures["mean_squared_norm"] == pytest.approx(float(rest.square().sum(1).mean()))
    assert store.manifest["rows_left_out"] == 0


@pytest.mark.parametrize("separator", ["bos", "both"])
def test_a_stream_of_a_model_gives_what_a_store_holds(
    folder: Path, model: Model, tmp_path: Path, separator: str
) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"text": f"the cat sees the dog {n} times today"} for n in range(60)]
    data.write_text("\n".join(map(json.dumps, rows)))
    how = {"tokens": 700, "context_length": 24, "separator": separator}
    store = made(folder, data, tmp_path / "s", layers="1", **how)
    stream = ModelStream(model, str(data), "1", 50, part="all", **how)
    streamed = torch.cat(list(stream.blocks()))
    rest = store.positions() > 0
    torch.testing.assert_close(streamed, store.read("1")[rest], atol=1e-5, rtol=1e-5)
    known = {tuple(row.tolist()) for row in streamed}
    drawn = stream.batch(0)  # every row of a batch is one of these, however rows stand in
    nearest = torch.cdist(drawn.double(), streamed.double()).amin(1)
    assert len(known) > 50
    assert float(nearest.max()) < 1e-5
    stream.close()


def test_an_encoder_reads_between_its_two_tokens(
    tiny_folder: Callable[[str], Path], tmp_path: Path, corpus: Path
) -> None:
    import shutil

    place = shutil.copytree(tiny_folder("bert"), tmp_path / "bert")
    model = open_model(with_special(place, "B $A E"))
    assert model.tokens("the").tolist()[0] == [BOS, *model.reads.encode("the"), EOS]
    store = made(place, corpus, tmp_path / "s", layers="1", tokens=2_000, context_length=12)
    assert (store.reading.prefix, store.reading.suffix) == ((BOS,), (EOS,))
    assert store.positions().min() == 1
    assert store.positions().max() == 10  # the last column is the token after the text


# -- between documents -----------------------------------------------------------------------------


@pytest.mark.parametrize("trained", ["bos", "eos", "both", "none"])
def test_what_the_model_expects_is_measured_and_told(
    model: Model, tmp_path: Path, monkeypatch, capsys, trained: str
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"text": f"the cat sees dog {n}"}) for n in range(80)))
    expecting(model, trained, monkeypatch)
    found = decided(model, str(data), context_length=64)
    told = capsys.readouterr().err
    assert found.separator == trained
    assert f"separator: {trained} between documents" in told
    assert set(found.measured) == {"bos", "eos", "both", "none"}
    assert min(found.measured, key=found.measured.get) == trained


def test_ways_that_do_not_differ_leave_the_tokenizer_s_own(
    model: Model, tmp_path: Path, monkeypatch
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"text": f"the cat sees dog {n}"}) for n in range(80)))
    flat = torch.zeros(1, 64, model.vocab_size)
    monkeypatch.setattr(model, "logits", lambda tokens: flat[:, : tokens.shape[1]])
    assert decided(model, str(data), context_length=64).separator == "bos"


@pytest.mark.parametrize(
    ("template", "bos", "expected"),
    [("$A", None, "eos"), ("$A", EOS, "eos"), ("B $A E", BOS, "both"), ("$A E", BOS, "eos")],
)
def test_what_the_tokenizer_decides_is_not_measured(
    gpt2_run: Path, corpus: Path, tmp_path: Path, monkeypatch, template, bos, expected
) -> None:
    model = open_model(with_special(huggingface_model(gpt2_run, tmp_path / "m"), template, bos))
    monkeypatch.setattr(module, "_surprise", lambda *_: pytest.fail("measured"))
    assert decided(model, str(corpus), context_length=16).separator == expected


def test_a_run_of_this_house_is_read_as_it_was_trained(
    gpt2_run: Path, corpus: Path, monkeypatch
) -> None:
    model = open_model(gpt2_run)
    monkeypatch.setattr(module, "_surprise", lambda *_: pytest.fail("measured"))
    end = model.reads.end_of_text
    assert decided(model, str(corpus), context_length=16) == Reading(
        after=(end,), context_length=16
    )


def test_a_separator_the_model_has_no_token_for_is_refused(
    tiny_folder: Callable[[str], Path], corpus: Path, cutaway
) -> None:
    code, _, err = cutaway(
        *("extract", tiny_folder("bloom"), "--data", corpus, "--tokens", "100"),
        *("--separator", "both", "--out", "s"),
    )
    model = open_model(tiny_folder("bloom"))
    assert (code == 2) == (model.bos_id is None)
    code, _, err = cutaway(
        *("extract", tiny_folder("llama"), "--data", corpus, "--separator", "comma", "--out", "t")
    )
    assert code == 2
    assert "separator = 'comma': expected one of auto, bos, eos, both, none" in err


# -- records ---------------------------------------------------------------------------------------


def test_a_stopped_extraction_goes_on_as_it_was_begun(
    folder: Path, corpus: Path, tmp_path: Path, monkeypatch
) -> None:
    """Whatever a measurement would say now."""
    whole = made(folder, corpus, tmp_path / "whole", tokens=2_000)
    out = made(folder, corpus, tmp_path / "s", tokens=2_000).path
    manifest = json.loads((out / "manifest.json").read_text())
    manifest |= {"complete": False, "shards": manifest["shards"][:2]}
    (out / "manifest.json").write_text(json.dumps(manifest))
    with Run.resume(out) as run:
        run.save_record(status="running")
    other = "eos" if whole.reading.separator != "eos" else "bos"
    monkeypatch.setattr(module, "_measured", lambda plain, model, _: pytest.fail(other))
    store = extract(recorded(out), out, resume=True)
    assert store.reading == whole.reading
    assert store.manifest["shards"] == whole.manifest["shards"]


def test_a_store_of_before_readings_is_read_as_it_was_made(
    folder: Path, corpus: Path, tmp_path: Path
) -> None:
    settings = {"tokens": 2_000, "bos": True, "separator": "eos"}
    store = made(folder, corpus, tmp_path / "s", **settings)
    manifest = json.loads((store.path / "manifest.json").read_text())
    assert manifest["data"].pop("reading")["after"] == [EOS]
    (store.path / "manifest.json").write_text(json.dumps(manifest))
    old = ActivationStore(store.path)
    assert old.reading == store.reading == Reading((BOS,), after=(EOS,), context_length=32)


def test_a_manifest_with_a_broken_reading_is_refused_in_one_line(
    folder: Path, corpus: Path, tmp_path: Path
) -> None:
    store = made(folder, corpus, tmp_path / "s", tokens=1_000)
    manifest = json.loads((store.path / "manifest.json").read_text())
    for wrong in ({"format": 99}, "bos", {"format": 1, "prefix": "5"}):
        manifest["data"]["reading"] = wrong
        (store.path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(UserError, match="reading"):
            _ = ActivationStore(store.path).reading


# -- a real model ----------------------------------------------------------------------------------


@pytest.mark.skipif(not STORIES.is_dir(), reason="needs the shared data")
def test_a_real_model_is_found_to_be_trained_with_bos_between_stories(tmp_path: Path) -> None:
    from cutaway.features.effects import sample

    model = open_model(STORIES)
    written = sample(model, model.tokens("Once upon a time").repeat(10, 1), 150, seed=1)
    texts = [model.reads.decode(row[1:]) for row in written.tolist()]
    data = tmp_path / "stories.jsonl"
    data.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    found = decided(model, str(data), context_length=512)
    assert (found.prefix, found.separator) == ((1,), "bos")
    assert found.measured["eos"] > found.measured["bos"] + 0.1
