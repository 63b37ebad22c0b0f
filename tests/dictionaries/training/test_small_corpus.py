"""A corpus with fewer tokens than were asked for is judged by what was kept of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cutaway.activations.extraction import extract
from cutaway.activations.store import MANIFEST, ActivationStore
from cutaway.base.errors import UserError
from cutaway.evaluations.evaluate import Evaluation
from cutaway.nets.reference import open_model
from cutaway.studies.train import train
from cutaway.text.packing import asked_for, packed
from cutaway.text.sources import source
from cutaway.workbench.session import Session

ASKED = 1_000_000  # the default, and many times what the corpus has
SMALL = {"layer": "0", "d_hidden": 64, "target_l0": 6, "batch_size": 64, "max_steps": 5}
SMALL |= {"eval_tokens": 200, "kernels": "sparse", "precision": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def stored(gpt2_run: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `store`, extracted with the default request, and `run`, trained on it."""
    folder = tmp_path_factory.mktemp("stored")
    extract({"model": str(gpt2_run), "data": str(corpus), "layers": "0"}, folder / "store")
    train("dictionary", {**SMALL, "activations": str(folder / "store")}, folder / "run")
    return folder


@pytest.fixture(scope="module")
def streamed(gpt2_run: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"streaming": True, "model": str(gpt2_run), "data": str(corpus), "tokens": ASKED}
    out = tmp_path_factory.mktemp("streamed") / "run"
    train("dictionary", {**SMALL, **settings}, out)
    return out


def judged(run: Path) -> Evaluation:
    return Session(run).evaluation(300)


def with_old_key(place: Path, gpt2_run: Path, corpus: Path, tokens: int = ASKED) -> str:
    """Put the key of the tokens that were asked for where earlier versions recorded it."""
    model = open_model(str(gpt2_run))
    content = json.loads(place.read_text())
    if place.name == MANIFEST:
        key = asked_for(source(str(corpus)), model.reads, tokens, content["data"]["context_length"])
        old, content["data"]["fingerprint"] = content["data"]["fingerprint"], key
    else:
        about = content["resolved"]["dictionary"]
        key = asked_for(source(str(corpus)), model.reads, tokens, about["context_length"])
        old, about["text_sha256"] = about["text_sha256"], key
    assert old != key
    place.write_text(json.dumps(content))
    return key


def test_a_dictionary_of_a_small_corpus_is_judged_after_training(stored: Path) -> None:
    found = judged(stored / "run")
    assert found.held_out is True
    assert found.tokens > 0


def test_one_that_streamed_is_too(streamed: Path) -> None:
    assert judged(streamed).held_out is True


def test_keys_recorded_of_the_request_still_match(
    stored: Path, streamed: Path, gpt2_run: Path, corpus: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(stored / "store", tmp_path / "store")
    with_old_key(old / MANIFEST, gpt2_run, corpus)
    found = Session(stored / "run", activations=old).evaluation(300)
    assert found.tokens == judged(stored / "run").tokens
    run = shutil.copytree(streamed, tmp_path / "run")
    with_old_key(run / "run.json", gpt2_run, corpus)
    assert judged(run).held_out is True
    # an extraction of then goes on
    (before,) = ActivationStore(old).manifest["shards"][:1]
    settings = {"model": str(gpt2_run), "data": str(corpus), "layers": "0"}
    again = extract(settings, old, resume=True)
    assert again.manifest["shards"][0] == before


def test_a_key_of_another_request_or_text_is_still_refused(
    stored: Path, gpt2_run: Path, corpus: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(stored / "store", tmp_path / "store")
    with_old_key(other / MANIFEST, gpt2_run, corpus, tokens=2 * ASKED)
    with pytest.raises(UserError, match="has changed since"):
        Session(stored / "run", activations=other).evaluation(300)


def test_asking_for_more_than_there_is_gives_the_same_fingerprint(
    gpt2_run: Path, corpus: Path
) -> None:
    tokenizer, text = open_model(str(gpt2_run)).reads, source(str(corpus))
    found = [packed(text, tokenizer, 16, tokens=tokens) for tokens in (ASKED, 3 * ASKED)]
    kept = packed(text, tokenizer, 16, tokens=found[0].n_tokens)
    assert found[0].fingerprint == found[1].fingerprint == kept.fingerprint == kept.asked
    assert found[0].asked != found[1].asked
    assert found[0].known_as(found[0].asked)
    fewer = packed(text, tokenizer, 16, tokens=found[0].n_tokens - 16)
    assert fewer.fingerprint not in (kept.fingerprint, kept.asked)
    assert not fewer.known_as(kept.fingerprint)
