"""Words of every kind of tokenizer, prompts that end in them, and the states they are read from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch

from activations.tiny_models import save_model
from cutaway.activations.capture import capture
from cutaway.base.errors import RunFailed, UserError
from cutaway.evaluations.suite.letters import (
    TEST,
    TRAIN,
    VALIDATION,
    choose_words,
    prompts,
    vocabulary_words,
    word_states,
)
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.text.tokenizers import Tokenizer, pretrained, train
from evaluations.suite.spelling_models import made_up_words, table_model, word_tokenizer

TEXT = ["the cat sees the river and the Old king paints 12 quiet seas, it's été " * 30]


def wordpiece(*more: str) -> Tokenizer:
    """As BERT has it: no spaces, `##` before what continues a word."""
    pieces = ["[SEP]", "[UNK]", "the", "cat", "##s", "##ing", "12", "é", "[CLS]", ",", ":", *more]
    vocabulary = {piece: id for id, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece()
    return Tokenizer(backend, 0, "wordpiece")


def sentencepiece() -> Tokenizer:
    """As Llama has it: `▁` for a space, also before the text's first word."""
    pieces = ["</s>", "<unk>", "<0x0A>", "▁", "▁the", "▁cat", "s", "▁Old", "▁12", "the", "▁c", "▁s"]
    letters = sorted(set("thecatOld12"))
    vocabulary = [(piece, -1.0) for piece in pieces] + [(letter, -9.0) for letter in letters]
    backend = tokenizers.Tokenizer(
        tokenizers.models.Unigram(vocabulary, unk_id=1, byte_fallback=True)
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(
        replacement="▁", prepend_scheme="first", split=False
    )
    backend.decoder = tokenizers.decoders.Metaspace()
    return Tokenizer(backend, 0, "sentencepiece")


# -- words ---------------------------------------------------------------------------------------


def test_byte_level_words_are_the_tokens_after_a_space():
    tokenizer = train(TEXT, 320)
    words = vocabulary_words(tokenizer)
    assert {"the", "cat", "Old", "king"} <= set(words)
    assert not {"12", "été", "seas,"} & set(words)
    for text, id in words.items():
        assert tokenizer.encode(f" {text}") == [id]


def test_wordpiece_words_are_the_tokens_that_begin_one():
    assert vocabulary_words(wordpiece()) == {"the": 2, "cat": 3}


def test_sentencepiece_words_are_the_tokens_after_its_mark():
    assert vocabulary_words(sentencepiece()) == {"the": 4, "cat": 5, "Old": 7, "c": 10, "s": 11}


def test_a_tokenizer_of_characters_has_no_words():
    vocabulary = {letter: id for id, letter in enumerate("abc|")}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="|"))
    with pytest.raises(UserError, match="no token that is a whole word"):
        choose_words(Tokenizer(backend, 3, "characters"))


def test_gpt2_has_tens_of_thousands_of_words(data_folder):
    words = choose_words(pretrained(data_folder / "gpt2-bpe"))
    assert len(words) > 25_000
    assert set(words.letters.tolist()) == set(range(26))


@pytest.fixture
def data_folder() -> Path:
    folder = Path(__file__).resolve().parents[4] / "shared" / "data"
    if not (folder / "gpt2-bpe").is_dir():
        pytest.skip("../shared/data/gpt2-bpe is not here")
    return folder


@pytest.fixture(scope="module")
def listed() -> list[str]:
    words = made_up_words(10)
    return words + [word.capitalize() for word in words[::3]]


def test_every_letter_has_its_share_of_each_part(listed):
    words = choose_words(word_tokenizer(listed), listed)
    assert sorted(words.texts) == sorted(listed)
    for letter in range(26):
        spelled = {
            part: {
                text.lower()
                for text, p, its in zip(words.texts, words.parts, words.letters, strict=True)
                if its == letter and p == part
            }
            for part in (TRAIN, VALIDATION, TEST)
        }
        assert [len(spelled[part]) for part in (TRAIN, VALIDATION, TEST)] == [6, 2, 2]
        assert not spelled[TRAIN] & spelled[TEST]  # whatever their case


def test_words_of_a_file_are_kept_whatever_their_case(listed, tmp_path):
    (tmp_path / "words.txt").write_text("\r\n".join([*listed[:20], "not-a-token", "", listed[30]]))
    words = choose_words(word_tokenizer(listed), tmp_path / "words.txt")
    wanted = {word.lower() for word in [*listed[:20], listed[30]]}
    assert sorted(words.texts) == sorted(word for word in listed if word.lower() in wanted)
    assert {word for word in words.texts if word[0].isupper()}


def test_seeds_draw_other_parts_and_a_limit_draws_fewer(listed):
    tokenizer = word_tokenizer(listed)
    first, again, other = (choose_words(tokenizer, seed=seed, limit=100) for seed in (0, 0, 1))
    assert first.texts == again.texts
    assert np.array_equal(first.parts, again.parts)
    assert len(first) == len(other) == 100
    assert set(first.texts) != set(other.texts)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"words": ["zzzzzz"]}, "none of the 1 given"),
        ({"words": "/no/such/list.txt"}, "no such file"),
        ({"limit": 0}, "limit = 0"),
    ],
)
def test_words_that_cannot_be_had_are_refused(listed, given, problem):
    with pytest.raises(UserError, match=problem):
        choose_words(word_tokenizer(listed), **given)


# -- prompts -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speller(listed) -> Model:
    """Its tokenizer knows the words, capital letters, and what the published template says."""
    tokenizer = word_tokenizer([*listed, "has", "the", "first", "letter"])
    return table_model(torch.zeros(tokenizer.vocab_size, 4), tokenizer)


def test_prompts_show_other_training_words_with_their_letter_and_end_with_the_word(speller, listed):
    tokenizer = speller.reads
    words, contexts, after = prompts(
        choose_words(tokenizer, listed), speller, "{word} has", examples=4
    )
    assert (len(words), after) == (len(listed), 0)  # a causal model needs not read on
    training = {t for t, part in zip(words.texts, words.parts, strict=True) if part == TRAIN}
    shown_to: dict[str, list[str]] = {}
    for text, ids in zip(words.texts, contexts, strict=True):
        assert ids[0] == 0
        empty, *shown, last = "".join(map(tokenizer.token, ids[1:])).split("\n")
        assert (empty, last) == ("", f" {text}")
        examples = []
        for line in shown:
            example, has, letter = line.split()
            assert (has, letter) == ("has", example[0].upper())
            examples.append(example)
        assert len({example.lower() for example in examples}) == 4
        assert set(examples) <= training
        assert text.lower() not in {example.lower() for example in examples}
        shown_to[text] = examples
    assert len({tuple(examples) for examples in shown_to.values()}) > 100


def test_the_plain_form_is_the_word_after_the_start_of_a_text(speller, listed):
    words, contexts, after = prompts(choose_words(speller.reads, listed), speller, None)
    assert contexts == [[0, id] for id in words.ids]
    assert after == 0


@pytest.mark.parametrize("tokenizer", [wordpiece(), sentencepiece()], ids=lambda t: t.name)
def test_prompts_find_the_word_in_tokenizers_with_other_marks(tokenizer):
    model = table_model(torch.zeros(tokenizer.vocab_size, 4), tokenizer)
    words, contexts, _ = prompts(choose_words(tokenizer), model, "the {word}:", examples=0)
    assert {"the", "cat"} <= set(words.texts)
    for id, ids in zip(words.ids, contexts, strict=True):
        assert ids[-1] == id


def test_words_that_are_no_single_token_in_the_prompt_are_left_out():
    tokenizer = wordpiece("The", "Seas")  # which it never writes: it makes all letters small
    model = table_model(torch.zeros(tokenizer.vocab_size, 4), tokenizer)
    chosen = choose_words(tokenizer)
    assert sorted(chosen.texts) == ["Seas", "The", "cat", "the"]
    kept, contexts, _ = prompts(chosen, model, "{word}:", examples=0)
    assert sorted(kept.texts) == ["cat", "the"]
    assert [ids[-1] for ids in contexts] == kept.ids.tolist()
    with pytest.raises(UserError, match="no word is a single token in it"):
        prompts(choose_words(tokenizer, ["seas"]), model, "{word}:", examples=0)


@pytest.mark.parametrize(
    ("template", "examples", "problem"),
    [("no place", 4, "a text with one"), ("{word}", 1000, "examples = 1000: only"),
     ("{word}", -1, "examples = -1")],
)  # fmt: skip
def test_prompts_that_cannot_be_made_are_refused(speller, listed, template, examples, problem):
    with pytest.raises(UserError, match=problem):
        prompts(choose_words(speller.reads, listed), speller, template, examples=examples)


# -- states --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(listed, tmp_path_factory) -> Callable[[str], Model]:
    def model(layout: str) -> Model:
        tokenizer = word_tokenizer([*listed[:20], "has", "the"])
        folder = tmp_path_factory.mktemp("speller") / layout
        return open_model(save_model(layout, folder, tokenizer=tokenizer), device="cpu")

    return model


@pytest.mark.parametrize("layout", ["gpt2", "llama", "bert"])
def test_states_are_those_of_the_word_in_the_whole_prompt(layout, listed, opened):
    model = opened(layout)
    site = model.site("residual.1")
    words, contexts, after = prompts(
        choose_words(model.reads, listed[:20]), model, "{word} has the", examples=2
    )
    assert after == (0 if model.causal else 2)
    states = word_states(model, site, contexts, after, batch_size=3)
    tail = [] if after else model.reads.encode(" has the")
    for state, id, ids in zip(states, words.ids, contexts, strict=True):
        whole = torch.tensor([[*ids, *tail]])
        assert whole[0, -3] == id
        assert torch.allclose(state, capture(model, whole, [site])[site][0, -3], atol=1e-5)


def test_states_come_in_the_order_of_their_prompts_whatever_their_length(opened):
    model = opened("gpt2")
    site = model.site("residual.0")
    contexts = [[0, 4], [0, 2, 5], [0, 6], [0, 3, 2, 7], [0, 8]]
    states = word_states(model, site, contexts, 0, batch_size=2)
    for state, ids in zip(states, contexts, strict=True):
        alone = capture(model, torch.tensor([ids]), [site])[site][0, -1]
        assert torch.allclose(state, alone, atol=1e-5)


def test_prompts_longer_than_the_model_reads_are_refused(opened):
    model = opened("gpt2")
    with pytest.raises(UserError, match=r"prompts of up to 30 tokens.*at most 24"):
        word_states(model, model.site(0), [[0] * 30], 0)


def test_states_that_are_not_finite_end_the_run():
    tokenizer = word_tokenizer(["cat", "dog"])
    states = torch.zeros(tokenizer.vocab_size, 4)
    states[tokenizer.encode(" dog")[0], 2] = float("nan")
    model = table_model(states, tokenizer)
    with pytest.raises(RunFailed, match="states of 1 words"):
        word_states(model, model.site(0), [[0, 3], [0, 4]], 0)
