"""A dictionary is used on text that is read as it was in its training, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from activations.small_stores import BOS, EOS, made
from conftest import settings_args
from cutaway.activations.capture import capture
from cutaway.activations.store import ActivationStore
from cutaway.dictionaries import origin
from cutaway.evaluations.held_out import packed_as_trained
from cutaway.evaluations.suite.encoding import TextReader
from cutaway.features.effects import compare_logits, feature_effect, firing, prompt_ids
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.runs.folder import Run
from cutaway.text.reading import Reading
from cutaway.workbench.session import opened

SMALL = {
    "d_hidden": 48, "target_l0": 4, "batch_size": 64, "max_steps": 30, "eval_every": 10,
    "checkpoint_every": 10, "kernels": "sparse", "precision": "float32", "device": "cpu",
    "dead_after": 2000, "eval_tokens": 400,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(llama_with_bos: Path) -> Path:
    return llama_with_bos


@pytest.fixture(scope="module")
def model(llama_with_bos: Path) -> Model:
    return open_model(llama_with_bos, device="cpu")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [
        {"text": f"the {n} dogs see the old king and {n + 3} of {n * n} cats"} for n in range(400)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module", params=["bos", "eos"])
def trained(request, folder: Path, texts: Path, tmp_path_factory, stand_alone) -> Path:
    """A dictionary on a store of texts with this between documents."""
    place = tmp_path_factory.mktemp("trained")
    how = {"layers": "1", "tokens": 4_000, "separator": request.param}
    store = made(folder, texts, place / "store", **how)
    stand_alone("sae", "train", store.path, *settings_args(SMALL), "--out", place / "sae")
    return place / "sae" / "residual.1"


@pytest.fixture(scope="module")
def stand_alone():
    from cutaway.cli.main import run

    def command(*words: object) -> None:
        assert run(["--quiet", *map(str, words)]) == 0

    return command


def test_it_carries_the_reading_of_its_store(trained: Path, model: Model) -> None:
    dictionary, _ = opened(str(trained), None)
    store = ActivationStore(trained.parents[1] / "store")
    assert origin.reading(dictionary, model) == store.reading
    assert store.reading.prefix == (BOS,)
    assert Run.open(trained).record.resolved["dictionary"]["reading"] == store.reading.to_json()


def test_text_is_read_as_in_training_when_it_is_judged(
    trained: Path, model: Model, texts: Path, cutaway, tmp_path: Path
) -> None:
    dictionary, _ = opened(str(trained), None)
    text = packed_as_trained(dictionary, model, str(texts), 1_000)
    assert text.reading == ActivationStore(trained.parents[1] / "store").reading
    code, out, err = cutaway("sae", "eval", trained, "--json")
    assert code == 0, err
    (figures,) = json.loads(out)
    true = _truth(trained, dictionary, model)
    assert figures["explained_variance"] == pytest.approx(true, abs=1e-4)


def _truth(trained: Path, dictionary, model: Model) -> float:
    """Explained variance over what the evaluation reads: whole contexts of the validation part."""
    from cutaway.evaluations.held_out import held_out

    store = ActivationStore(trained.parents[1] / "store")
    rows = []
    for tokens, _, documents in held_out(store, model):
        (state,) = capture(model, tokens, ["1"]).values()
        kept = documents >= 0
        kept[:, 0] = False
        rows.append(state[kept])
    x = torch.cat(rows)
    error = (x - dictionary.decode(dictionary.encode(x))).double().square().sum()
    return float(1 - error / (x - x.mean(0)).double().square().sum())


def test_prompts_and_texts_begin_as_in_training(trained: Path, model: Model) -> None:
    dictionary, _ = opened(str(trained), None)
    how = origin.reading(dictionary, model)
    ids = model.reads.encode("the old king")
    assert prompt_ids(model, "the old king", how).tolist() == [[BOS, *ids]]
    reader = TextReader(dictionary, model, None, None, 64)
    assert reader.tokenised(["the old king"]) == [[BOS, *ids]]
    (_, x, _) = next(reader.batches(reader.tokenised(["the old king"])))
    (state,) = capture(model, torch.tensor([[BOS, *ids]]), ["1"]).values()
    torch.testing.assert_close(x, state[0, 1:], atol=1e-5, rtol=1e-5)
    for row in firing(model, dictionary, "the old king"):
        assert 1 <= row["position"] <= len(ids)


def test_a_dictionary_of_before_readings_reads_without_special_tokens(
    trained: Path, model: Model
) -> None:
    dictionary, _ = opened(str(trained), None)
    about = dictionary.metadata
    del about["reading"]
    about["bos"] = False
    ids = model.reads.encode("the old king")
    how = origin.reading(dictionary, model)
    assert how == Reading(after=(EOS,), context_length=about["context_length"])
    assert prompt_ids(model, "the old king", how).tolist() == [ids]
    with feature_effect(model, dictionary, None, {0: 5.0}, mode="add"):
        (changed,) = capture(model, torch.tensor([ids]), ["1"]).values()
    (plain,) = capture(model, torch.tensor([ids]), ["1"]).values()
    moved = (changed - plain)[0].norm(dim=1) > 1e-4
    assert moved.tolist() == [False] + [True] * (len(ids) - 1)
    assert compare_logits(model, "the old king", feature_effect(model, dictionary, None, {0: 0.0}))


def test_effects_and_pages_say_how_text_was_read(trained: Path, cutaway) -> None:
    code, out, err = cutaway("sae", "effect", trained, "--feature", 1, "--prompt", "the", "--json")
    assert code == 0, err
    store = ActivationStore(trained.parents[1] / "store")
    assert Reading.from_json(json.loads(out)[0]["reading"]) == store.reading
    code, _, err = cutaway("sae", "features", trained, "--out", "features")
    assert code == 0, err
    place = next(Path().glob("features/features.json"), None) or trained / "features/features.json"
    facts = json.loads(place.read_text())
    assert Reading.from_json(facts["reading"]) == store.reading
    words = store.reading.described(store.tokenizer)
    assert facts["read_with"] == words
    assert "Text is read with" in place.with_suffix(".html").read_text()


@pytest.mark.parametrize("form", ["cutaway", "saelens"])
def test_an_export_keeps_it(trained: Path, model: Model, cutaway, form: str) -> None:
    code, _, err = cutaway("sae", "export", trained, "--format", form, "--out", form)
    assert code == 0, err
    dictionary, _ = opened(Path(form), None)
    store = ActivationStore(trained.parents[1] / "store")
    assert origin.reading(dictionary, model) == store.reading


def test_a_store_read_otherwise_is_told(trained: Path, folder: Path, texts: Path, cutaway) -> None:
    for how in ({"bos": False}, {"separator": "none"}):
        other = made(
            folder, texts, Path("other-" + next(iter(how))), layers="1", tokens=2_000, **how
        )
        code, _, err = cutaway("sae", "eval", trained, "--activations", other.path)
        assert code == 0, err
        assert "read otherwise than that of" in err


def test_a_stream_s_separator_is_kept_in_its_settings(
    folder: Path, texts: Path, cutaway, tmp_path: Path
) -> None:
    file = tmp_path / "stream.yaml"
    values = {
        **SMALL, "study": "dictionary", "max_steps": 12, "streaming": True, "layer": "1",
        "model": str(folder), "data": str(texts), "tokens": 3_000,
    }  # fmt: skip
    file.write_text(json.dumps(values))
    code, _, err = cutaway("train", file, "--out", "run")
    assert code == 0, err
    record = Run.open(tmp_path / "run").record
    decided = Reading.from_json(record.resolved["dictionary"]["reading"])
    assert record.config["separator"] == decided.separator
    assert decided.prefix == (BOS,)
    code, out, err = cutaway("sae", "eval", "run", "--json")
    assert code == 0, err
    assert json.loads(out)
    # a run of before: no separator in its settings, and end of text stood after documents
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    code, _, err = cutaway("train", "run", "--extra-steps", 3)
    assert code == 0, err
    assert Run.open(tmp_path / "run").record.config["separator"] == decided.separator
    assert written["config"]["bos"] is None
