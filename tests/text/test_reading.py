"""Readings: what they say, what they compare, and that old and foreign records keep theirs."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from cutaway.base.errors import UserError
from cutaway.text.documents import Document
from cutaway.text.packing import packed
from cutaway.text.reading import FORMAT, Reading
from cutaway.text.tokenizers import Tokenizer

WORDS = {"<s>": 0, "</s>": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "c": 6}
FULL = Reading(
    (0,),
    (3,),
    (0,),
    (1,),
    12,
    chat="f" * 64,
    chat_date="2026-11-30",
    reply_only=True,
    measured={"bos": 1.5},
)


def tokenizer(folder: Path, before: str = "", after: str = "", **config: object) -> Tokenizer:
    """Words of one letter, between special tokens; with what tokenizer_config.json says."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="a"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = [token for token in (before, after) if token]
    if special:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{before} $A {after}".strip(), special_tokens=[(s, WORDS[s]) for s in special]
        )
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", **config}))
    return Tokenizer.load(folder)


class Listed:
    name = "listed"

    def __init__(self, *texts: str):
        self.texts = texts

    def documents(self):
        return (Document(str(n), text) for n, text in enumerate(self.texts))

    def fingerprint(self) -> str:
        return "of " + "|".join(self.texts)

    def size(self) -> int:
        return sum(map(len, self.texts))


@pytest.mark.parametrize(
    ("template", "config", "expected"),
    [
        (("", ""), {}, ((), ())),
        (("<s>", ""), {}, ((0,), ())),
        (("[CLS]", "[SEP]"), {}, ((2,), (3,))),
        (("<s>", ""), {"bos_token": "<s>", "add_bos_token": False}, ((0,), ())),
        (("", ""), {"bos_token": "<s>", "add_bos_token": True}, ((), ())),
    ],
)
def test_special_tokens_are_those_transformers_puts(tmp_path, template, config, expected) -> None:
    import transformers

    made = tokenizer(tmp_path / "a", *template, **config)
    assert made.special == expected
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    assert theirs("a b").input_ids == [*expected[0], 4, 5, *expected[1]]
    made.save(tmp_path / "b")
    assert Tokenizer.load(tmp_path / "b").special == expected
    assert made.encode("a b") == [4, 5]  # which never has any


def test_a_context_stands_between_special_tokens_that_belong_to_no_document(tmp_path) -> None:
    words = tokenizer(tmp_path / "t")
    how = Reading((2,), (3,), (0,), (1,))
    text = packed(Listed("a b", "c"), words, 5, tokens=6, reading=how, cache=tmp_path)
    found = text.contexts(0, text.n_contexts)
    # the text is <s> a b </s> <s> c </s>, of which two payloads of three are full
    assert found.tokens.tolist() == [[2, 0, 4, 5, 3], [2, 1, 0, 6, 3]]
    assert found.documents.tolist() == [[-1, -1, 0, 0, -1], [-1, 0, -1, 1, -1]]
    assert (text.payload, text.n_tokens, text.inside) == (3, 6, slice(1, 4))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((), (), [4, 5, 6, 4]),
        ((0,), (), [0, 4, 5, 0, 6, 0, 4]),
        ((), (1,), [4, 5, 1, 6, 1, 4, 1]),
        ((0,), (1,), [0, 4, 5, 1, 0, 6, 1, 0, 4, 1]),
    ],
)
def test_separators_stand_between_documents(tmp_path, before, after, expected) -> None:
    words, documents = tokenizer(tmp_path / "t"), Listed("a b", "c", "a")
    how = Reading(before=before, after=after)
    text = packed(documents, words, 2, tokens=100, reading=how, cache=tmp_path)
    assert text.ids.tolist() == expected
    starts = text.starts.tolist()
    assert [expected[place] for place in starts] == ([0] * 3 if before else [4, 6, 4])


def test_each_way_of_reading_has_tokens_of_its_own_in_the_cache(tmp_path) -> None:
    words, documents = tokenizer(tmp_path / "t"), Listed("a b c a b c", "c a b")
    ways = [Reading(after=(1,)), Reading(before=(0,)), Reading(), Reading(before=(0,), after=(1,))]
    made = [packed(documents, words, 2, tokens=8, reading=w, cache=tmp_path) for w in ways]
    again = [packed(documents, words, 2, tokens=8, reading=w, cache=tmp_path) for w in ways]
    assert len({text.fingerprint for text in made}) == 4
    for one, other in zip(made, again, strict=True):
        assert np.array_equal(one.ids, other.ids)
        assert one.fingerprint == other.fingerprint
    # and the way of before readings is found under the key it had
    assert packed(documents, words, 2, tokens=8, cache=tmp_path).fingerprint == made[0].fingerprint


def test_a_context_without_room_for_text_is_refused(tmp_path) -> None:
    words = tokenizer(tmp_path / "t")
    with pytest.raises(UserError, match="context_length = 2: expected 3 or more"):
        packed(Listed("a b"), words, 2, tokens=2, reading=Reading((0,), (1,)), cache=tmp_path)


def test_readings_round_trip_and_compare() -> None:
    again = Reading.from_json(json.loads(json.dumps(FULL.to_json())))
    assert again == FULL
    assert again.measured == FULL.measured
    assert Reading.from_json(Reading().to_json()) == Reading()
    assert FULL.separator == "both"
    assert [
        Reading(before=b, after=a).separator for b, a in (((), ()), ((1,), ()), ((), (1,)))
    ] == [*("none", "bos", "eos")]


def test_whatever_changes_tokens_is_told_and_nothing_else() -> None:
    plain = Reading()
    told = {
        one.name: plain.differences(Reading(**{one.name: getattr(FULL, one.name)}))
        for one in fields(Reading)
    }
    silent = {name for name, lines in told.items() if not lines}
    assert silent == {"context_length", "skip_first", "measured"}
    assert told["prefix"] == ["special tokens before a text: none, not #0"]


@pytest.mark.parametrize(
    "content",
    [
        *(None, [], 3, {}, {"format": "1"}),
        {"format": FORMAT, "prefix": "1"},
        {"format": FORMAT, "suffix": [1.5]},
        {"format": FORMAT, "before": [-1]},
        {"format": FORMAT, "after": [True]},
    ],
)
def test_what_is_no_reading_is_refused_in_one_line(content) -> None:
    with pytest.raises(UserError, match="reading") as error:
        Reading.from_json(content)
    assert "\n" not in str(error.value)


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(UserError, match=f"newer than this cutaway reads \\({FORMAT}\\)"):
        Reading.from_json({**FULL.to_json(), "format": FORMAT + 1})
