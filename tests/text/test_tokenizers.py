"""Tokenizers, trained and pretrained."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import PATIENCE
from cutaway.base.errors import UserError
from cutaway.text import Tokenizer, pretrained, train

TEXT = "The cat sat on the mat. The naïve cat's hat was on the mat, wasn't it? " * 20


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train([TEXT], 280)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_decoding_gives_back_any_text(trained: Tokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text)) == text


def test_a_trained_tokenizer_has_the_end_of_text_first_then_the_bytes(trained: Tokenizer) -> None:
    assert trained.vocab_size == 280
    assert trained.end_of_text == 0
    assert trained.token(0) == "<|endoftext|>"
    assert {id for code in range(128) for id in trained.encode(chr(code))} < set(range(1, 257))
    assert " the" in {trained.token(id) for id in range(280)}


def test_single_tokens_are_readable(trained: Tokenizer) -> None:
    assert [trained.token(id) for id in trained.encode("Ω")] == ["\\xce", "\\xa9"]
    assert "".join(trained.token(id) for id in trained.encode(" cat\n")) == " cat\n"
    with pytest.raises(IndexError, match="ids 0 to 279"):
        trained.token(280)


def test_a_document_cannot_forge_a_boundary(trained: Tokenizer) -> None:
    assert trained.end_of_text not in trained.encode("before <|endoftext|> after")
    assert trained.decode([trained.end_of_text]) == "<|endoftext|>"


def test_batches_equal_single_texts(trained: Tokenizer) -> None:
    texts = ["The cat", "", "mat.\n"]
    assert trained.encode_batch(texts) == [trained.encode(text) for text in texts]


def test_the_same_texts_train_the_same_tokenizer_in_any_process(trained: Tokenizer) -> None:
    code = f"from cutaway.text import train; print(train([{TEXT!r}], 280).sha256())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == trained.sha256()


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match=r"vocab_size = 256: .* at least 257"):
        train([TEXT], 256)
    assert train([TEXT], 257).vocab_size == 257


def test_a_corpus_too_small_for_the_vocabulary_is_said(capsys) -> None:
    assert train(["abc abc"], 5000).vocab_size < 300
    assert "5,000 were asked for" in capsys.readouterr().err


def test_saved_and_pickled_tokenizers_are_the_same(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "ünï code")
    for other in (
        Tokenizer.load(tmp_path / "ünï code"),
        pretrained(tmp_path / "ünï code"),
        pretrained(str(tmp_path / "ünï code" / "tokenizer.json")),
        pickle.loads(pickle.dumps(trained)),
    ):
        assert other.sha256() == trained.sha256()
        assert other.end_of_text == 0
        assert other.encode(TEXT) == trained.encode(TEXT)
        assert other.encode("<|endoftext|>") == trained.encode("<|endoftext|>")
    assert Tokenizer.load(tmp_path / "ünï code").name == trained.name == "bpe-280"


def test_transformers_reads_what_is_saved(trained: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    trained.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXT)["input_ids"] == trained.encode(TEXT)
    assert theirs.eos_token_id == trained.end_of_text
    assert len(theirs) == trained.vocab_size
    assert theirs.decode(trained.encode(TEXT)) == TEXT


def test_gpt2_gives_its_known_ids(shared_data: Path) -> None:
    folder = shared_data / "gpt2-bpe"
    for spec in (folder, str(folder), folder / "encoder.json", folder / "vocab.bpe"):
        gpt2 = pretrained(spec)
        assert gpt2.encode("Hello world") == [15496, 995]
        assert gpt2.encode("Hello, I'm a language model,") == [
            15496, 11, 314, 1101, 257, 3303, 2746, 11,
        ]  # fmt: skip
        assert (gpt2.vocab_size, gpt2.end_of_text, gpt2.token(995)) == (50257, 50256, " world")
        assert gpt2.has_exact_cuts


def test_gpt2_under_its_other_file_names(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").symlink_to(shared_data / "gpt2-bpe" / "encoder.json")
    (tmp_path / "merges.txt").symlink_to(shared_data / "gpt2-bpe" / "vocab.bpe")
    assert pretrained(tmp_path).encode("Hello world") == [15496, 995]


def test_other_kinds_of_tokenizers_work_and_are_not_cut(tmp_path: Path) -> None:
    import tokenizers

    other = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "[SEP]": 7}, "[UNK]")
    )
    other.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    other.save(str(tmp_path / "tokenizer.json"))
    loaded = pretrained(tmp_path)
    assert loaded.encode("a b") == [1, 0]
    assert (loaded.vocab_size, loaded.end_of_text) == (8, 7), "the largest id counts"
    assert loaded.token(1) == "a"
    assert not loaded.has_exact_cuts


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({}, "no tokenizer.json, no encoder.json"),
        ({"encoder.json": "{}"}, "no tokenizer.json, no encoder.json"),
        ({"tokenizer.json": "{"}, "not a readable tokenizer"),
        ({"encoder.json": "{}", "vocab.bpe": "a b c d"}, "not a readable tokenizer"),
        ({"encoder.json": '{"a": 0}', "vocab.bpe": ""}, "no end-of-text token"),
    ],
)
def test_folders_without_a_tokenizer_are_named(tmp_path: Path, files, complaint) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        pretrained(tmp_path)
    assert complaint in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_configuration_names_the_end_of_text(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["eos_token"] = {"content": "a"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert pretrained(tmp_path).token(pretrained(tmp_path).end_of_text) == "a"


def test_missing_paths_and_a_hub_out_of_reach_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        pretrained(tmp_path / "none")
    with pytest.raises(UserError, match="no such file or folder"):
        pretrained("./none")
    code = """
from cutaway.base.errors import UserError
from cutaway.text import pretrained
try:
    pretrained("gpt2")
except UserError as error:
    print(error)
"""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert run.stdout.startswith(
        "tokenizer = 'gpt2': no such folder here, and the Hugging Face hub"
    )
    assert run.stdout.count("\n") == 1
    assert not run.stderr


@pytest.mark.parametrize(
    "texts",
    [
        {"text": ["the cat"]},
        [{"text": "the cat"}],
        "the cat",
        b"the cat",
        [["the"]],
        [None],
        [b"a"],
    ],
)
def test_a_table_or_what_is_no_text_is_not_learnt_from(trained: Tokenizer, texts) -> None:
    for read in (lambda given: train(given, 300), trained.encode_batch):
        with pytest.raises((UserError, TypeError), match="texts: "):
            read(texts)


def test_text_that_no_file_can_hold_is_not_learnt_from() -> None:
    with pytest.raises(UserError, match="expected text in UTF-8"):
        train(["fine", "\udcff"], 300)
