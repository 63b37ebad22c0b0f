"""Packing: documents one after another in full contexts, any of which can be reached again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cutaway.base.errors import UserError
from cutaway.text import encoding
from cutaway.text import tokenizers as tokenizers_module
from cutaway.text.documents import Document
from cutaway.text.packing import packed
from cutaway.text.sources import source
from cutaway.text.tokenizers import Tokenizer


class Listed:
    """A source of given texts."""

    name = "listed"

    def __init__(self, texts: list[str]):
        self.texts = texts

    def documents(self) -> Iterator[Document]:
        for number, text in enumerate(self.texts):
            yield Document(str(number), text)

    def fingerprint(self) -> str:
        return f"listed {hash(tuple(self.texts))}"

    def size(self) -> int | None:
        return None


class Endless(Listed):
    """A source that never ends."""

    name = "endless"

    def documents(self) -> Iterator[Document]:
        return (Document(str(n), "the old king sees a red house. " * 3) for n in itertools.count())


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> Tokenizer:
    return tokenizers_module.train((one.text for one in source(corpus).documents()), 300)


def whole(corpus: Path, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """All ids and their documents, encoded document by document."""
    ids, owners = [], []
    for number, document in enumerate(source(corpus).documents()):
        mine = [*tokenizer.encode(document.text), tokenizer.end_of_text]
        ids += mine
        owners += [number] * len(mine)
    return ids, owners


def test_contexts_hold_the_documents_one_after_another(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    text = packed(source(corpus), tokenizer, 32, tokens=5_000, cache=tmp_path)
    ids, owners = whole(corpus, tokenizer)
    assert text.n_contexts == 157  # 5,000 tokens rounded up
    got = text.contexts(0, text.n_contexts)
    assert got.tokens.ravel().tolist() == ids[: 157 * 32]
    assert got.documents.ravel().tolist() == owners[: 157 * 32]
    assert got.positions[3].tolist() == list(range(32))
    assert len(set(owners[: 157 * 32])) > 3


def test_a_bos_token_begins_each_context_and_belongs_to_no_document(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    text = packed(source(corpus), tokenizer, 32, tokens=620, bos=7, cache=tmp_path)
    got = text.contexts(0, text.n_contexts)
    ids, _ = whole(corpus, tokenizer)
    assert got.tokens.shape == (20, 32)
    assert (got.tokens[:, 0] == 7).all()
    assert (got.documents[:, 0] == -1).all()
    assert got.tokens[:, 1:].ravel().tolist() == ids[:620]


def test_any_context_can_be_reached_at_once(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    text = packed(source(corpus), tokenizer, 16, tokens=1_000, cache=tmp_path)
    every = text.contexts(0, text.n_contexts).tokens
    again = packed(source(corpus), tokenizer, 16, tokens=1_000, cache=tmp_path)
    assert (again.contexts(41, 43).tokens == every[41:43]).all()
    assert (again.chosen(np.array([9, 2])).tokens == every[[9, 2]]).all()


def test_the_tokens_are_encoded_once(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = packed(source(corpus), tokenizer, 16, tokens=1_000, cache=tmp_path)
    monkeypatch.setattr("cutaway.text.packing.encoded", lambda *_: pytest.fail("encoded again"))
    again = packed(source(corpus), tokenizer, 16, tokens=1_000, cache=tmp_path)
    assert (first.ids == again.ids).all()
    assert first.fingerprint == again.fingerprint


def test_a_damaged_cache_is_made_again(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = np.array(packed(source(corpus), tokenizer, 16, tokens=1_000, cache=tmp_path).ids)
    (file,) = tmp_path.glob("packed/*/tokens.bin")
    file.write_bytes(file.read_bytes()[:-8])
    again = packed(source(corpus), tokenizer, 16, tokens=1_000, cache=tmp_path)
    assert (first == again.ids).all()


def test_an_endless_source_is_read_as_far_as_needed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = packed(Endless([]), tokenizer, 64, tokens=3_000, cache=tmp_path)
    assert text.n_tokens == 47 * 64
    assert not text.exhausted


def test_a_document_that_comes_in_pieces_stays_one(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_PART", 200)
    monkeypatch.setattr(encoding, "_BATCH", 500)
    texts = ["the cat sees the river. " * 200, "at night", "a small dog paints. " * 100]
    text = packed(Listed(texts), tokenizer, 8, tokens=10**6, cache=tmp_path)
    lengths = [len(tokenizer.encode(one)) + 1 for one in texts]
    assert text.starts.tolist() == [0, lengths[0], lengths[0] + lengths[1]]


def test_fewer_tokens_than_asked_for_are_what_there_is_and_said(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    text = packed(source(corpus), tokenizer, 32, tokens=10**7, cache=tmp_path)
    assert text.exhausted
    assert text.n_contexts == len(whole(corpus, tokenizer)[0]) // 32
    assert "10,000,000 were asked for" in capsys.readouterr().err


def test_train_and_validation_contexts_share_no_document(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    text = packed(source(corpus), tokenizer, 32, tokens=10**7, cache=tmp_path)
    train, validation = text.border(0.1)
    before = set(text.contexts(0, train).documents.ravel().tolist())
    after = set(text.contexts(validation, text.n_contexts).documents.ravel().tolist())
    assert not before & after
    assert 0.05 < (text.n_contexts - validation) / text.n_contexts < 0.15


@pytest.mark.parametrize(
    ("texts", "length", "tokens", "said"),
    [
        ([], 16, 100, "empty corpus"),
        (["at night"], 16, 100, "fewer than one context"),
        (["at night"], 16, 0, "tokens = 0"),
        (["at night"], 1, 10, "context_length = 1"),
    ],
)
def test_what_cannot_be_packed_is_refused_in_one_line(
    tokenizer: Tokenizer, tmp_path: Path, texts: list[str], length: int, tokens: int, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        packed(Listed(texts), tokenizer, length, tokens=tokens, cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_one_document_cannot_be_divided(tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = packed(Listed(["the cat sees. " * 99]), tokenizer, 8, tokens=64, cache=tmp_path)
    with pytest.raises(UserError, match="by document"):
        text.border(0.1)
