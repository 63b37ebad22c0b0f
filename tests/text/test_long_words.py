"""Words without an end are read in pieces, and the tokens of ordinary text stay what they were."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from conftest import DATA, sentences
from cutaway.text import long_words
from cutaway.text.encoding import encoded
from cutaway.text.files import FilesSource
from cutaway.text.packing import packed
from cutaway.text.sources import source
from cutaway.text.tokenizers import END_OF_TEXT, Tokenizer, train

DRAW = random.Random(0)
DNA = "".join(DRAW.choices("ACGT", k=20_000))
LONG = {
    "DNA": DNA,
    "a hash": "0123456789abcdef" * 300,
    "digits": "31415926535897932384" * 100,
    "a rule": "-" * 3000,
    "blanks": "a" + " " * 5000 + "b",
    "in a text": f"Gene one is {DNA[:3000]} and it's here.\n\n{DNA[:600]}\n",
    "letters of three bytes": "語" * 2500,
    "marks": "e\u0301" * 2000,
}


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train([sentences(n, 60) for n in range(10)], 500)


def ordinary() -> list[str]:
    """Real texts: of this machine's Python, and of the shared corpora where they are."""
    texts = [document.text for document in source("docstrings").documents()][:150]
    texts += [
        "漢字仮名交じり文を、点で区切る。" * 60,
        "ไทยไม่มีช่องว่าง " * 50,
        "=" * 80 + "\n" + " " * 120,
    ]
    for folder in ("gutenberg", "europarl", "wikipedia"):
        for path in sorted((DATA / folder).rglob("*.txt"))[:6]:
            texts.append(path.read_text(encoding="utf-8", errors="replace")[:200_000])
    return texts


def test_tokens_of_ordinary_text_stay_what_they_were(trained: Tokenizer) -> None:
    texts = ordinary()
    whole = trained._backend.encode_batch_fast(texts, add_special_tokens=False)
    cut = trained._for_long_words.encode_batch_fast(texts, add_special_tokens=False)
    assert [one.ids for one in cut] == [one.ids for one in whole]
    assert trained.encode_batch(texts) == [one.ids for one in whole]
    assert trained.pieces == 0


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_long_word_is_read_in_pieces_and_comes_back_whole(trained, text, capsys) -> None:
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    told = "were read in" in capsys.readouterr().err
    assert told == (long_words.count(text) > 0)
    pretokens = trained._for_long_words.pre_tokenizer.pre_tokenize_str(text)
    assert max(end - start for _, (start, end) in pretokens) <= long_words.LONGEST
    pieces = list(long_words.pieces(text))
    assert "".join(pieces) == text
    assert [id for piece in pieces for id in trained.encode(piece)] == ids


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_hugging_face_reads_a_saved_tokenizer_to_the_same_tokens(trained, text, tmp_path) -> None:
    from transformers import AutoTokenizer

    trained.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(text, add_special_tokens=False)["input_ids"] == trained.encode(text)
    ours = Tokenizer.load(tmp_path)
    assert ours.sha256() == trained.sha256()
    assert ours.encode(text) == trained.encode(text)
    assert ours.has_exact_cuts


def test_a_tokenizer_saved_before_there_were_pieces_is_the_same_one(trained, tmp_path) -> None:
    trained.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["pre_tokenizer"]["pretokenizers"][0]["type"] == "Split"
    saved["pre_tokenizer"] = saved["pre_tokenizer"]["pretokenizers"][1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    before = Tokenizer.load(tmp_path)
    assert before.sha256() == trained.sha256()
    for text in (*LONG.values(), sentences(3, 30)):
        assert before.encode(text) == trained.encode(text)


@pytest.mark.parametrize("own", ["whitespace", "none"])
def test_other_pretokenizers_are_bounded_too(own: str, capsys) -> None:
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit() if own == "whitespace" else None
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=[END_OF_TEXT, "<unk>"], show_progress=False
    )
    backend.train_from_iterator([sentences(n, 20) for n in range(5)], trainer)
    tokenizer = Tokenizer(backend, 0, "other")
    code = "f(a,b){x=a+b};" * 2000
    assert tokenizer.decode(tokenizer.encode(code)).replace(" ", "") != ""
    assert tokenizer.pieces >= len(code) // 4096
    assert "were read in" in capsys.readouterr().err
    prose = sentences(9, 40)
    assert tokenizer.encode(prose) == backend.encode(prose, add_special_tokens=False).ids


@pytest.mark.parametrize("own", ["byte level", "metaspace", "in a sequence"])
def test_no_space_is_put_between_pieces(own: str, tmp_path) -> None:
    """Some pretokenizers put a space before every piece they are given."""
    from transformers import PreTrainedTokenizerFast

    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = {
        "byte level": (bytes_, decoders.ByteLevel()),
        "metaspace": (
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            decoders.Metaspace(prepend_scheme="always"),
        ),
        "in a sequence": (
            pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), bytes_]),
            decoders.ByteLevel(),
        ),
    }[own]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END_OF_TEXT, "<unk>"],
        show_progress=False,
        initial_alphabet=sorted({*pre_tokenizers.ByteLevel.alphabet(), "▁"}),
    )
    backend.train_from_iterator([sentences(n, 20) for n in range(5)], trainer)
    tokenizer = Tokenizer(backend, 0, own)
    tokenizer.save(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).sha256() == tokenizer.sha256()
    for text in (DNA[:9000], "a" + " " * 9000 + "b", f"the {DNA[:700]} cat", sentences(3, 30)):
        ids = tokenizer.encode(text)
        whole = backend.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == backend.decode(whole, skip_special_tokens=False)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids


@pytest.mark.parametrize("separator", "\x1c\x1d\x1e\x1f")
def test_what_only_python_counts_as_white_space_hides_no_run(separator: str) -> None:
    text = f"!{separator}" * 600
    assert long_words.count(text) == len(text) // long_words.LONGEST
    assert list(map(len, long_words.pieces(text))) == [512, 512, 176]


def test_no_run_is_overlooked() -> None:
    draw = random.Random(1)
    for length in (511, 512, 513, 700, 1023, 1024):
        for _ in range(20):
            before = "word " * draw.randrange(300) + "x" * draw.randrange(5)
            text = before + " " + DNA[:length] + " " + "after " * draw.randrange(200)
            assert long_words.may_hold_one(text) or length < long_words.LONGEST
            assert (long_words.count(text) > 0) == (length >= long_words.LONGEST)


def test_training_learns_from_pieces_what_it_learns_from_lines() -> None:
    lines = "\n".join(DNA[start : start + 512] for start in range(0, len(DNA), 512))
    whole, cut = (train([text], 300) for text in (DNA, lines))
    assert whole.encode(DNA[:500]) == cut.encode(DNA[:500])


def test_a_corpus_says_once_in_how_many_pieces_it_was_read(trained, tmp_path: Path, capsys) -> None:
    text = f"{sentences(1, 20)}\n{DNA}\n{sentences(2, 20)}"
    ids = [part for _, part in encoded([("train", text)], trained)]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert f"{len(DNA) // 512} pieces" in told[0]
    assert sum(map(len, ids)) == len(trained.encode(text)) + 1
    capsys.readouterr()
    (tmp_path / "dna.txt").write_text(text)
    packed(FilesSource(tmp_path / "dna.txt"), trained, 32, tokens=2000, cache=tmp_path / "cache")
    assert "were read in" in capsys.readouterr().err
