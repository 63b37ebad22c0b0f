"""Labels of texts and of words: what is read, and that nothing is read twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import DATA, sentences
from cutaway.base.errors import UserError
from cutaway.labelled.texts import LabelledTexts
from cutaway.probes.data.examples import PARTS, ProbeData
from cutaway.probes.data.labels import data_of, label_data, text_data, word_data
from cutaway.text.tokenizers import Tokenizer, train

PEOPLE = ["Ada", "Bo", "Cleo", "Dmitri"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([sentences(seed, 200) for seed in range(5)], 400)


@pytest.fixture(scope="module")
def conll(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty sentences with people in all and places in half of them."""
    lines = []
    for n in range(60):
        lines += ["(\tO", f"{PEOPLE[n % 4]}\tB-PER", "Ode\tI-PER", ")\tO", "sees\tO", "the\tO"]
        lines += ["Rome\tB-LOC" if n % 2 else "river\tO", f"{n}\tO", ".\tO", ""]
    path = tmp_path_factory.mktemp("conll") / "small.conll02"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def texts() -> LabelledTexts:
    return LabelledTexts(
        "animals",
        [f"{'the cat' if n % 2 else 'a small dog'} sees {n} rivers" for n in range(80)],
        ["cat" if n % 2 else "dog" for n in range(80)],
        [f"book {n // 4}" for n in range(80)],
    )


def examples(data: ProbeData) -> list[tuple[list[int], int, int, str, str]]:
    """Tokens, first and last position read, class and document of each example."""
    found = []
    for part in data.parts.values():
        for row in range(len(part)):
            context = int(part.context[row])
            tokens = part.tokens[part.begin[context] : part.end[context]].tolist()
            label, document = int(part.label[row]), int(part.document[row])
            where = int(part.first[row]), int(part.last[row])
            found.append((tokens, *where, data.classes[label], data.documents[document]))
    return found


def groups(data: ProbeData, part: str) -> set[str]:
    return {data.documents[one] for one in data.parts[part].document.tolist()}


def test_a_word_is_read_at_its_last_token(conll, tokenizer) -> None:
    data = word_data(conll, tokenizer)
    found = examples(data)
    assert len(found) == 60 * 9
    ends: dict[str, set[str]] = {}
    for tokens, first, last, label, _ in found:
        assert first == last
        ends.setdefault(tokenizer.decode(tokens[: last + 1]), set()).add(label)
    # the text up to the end of each word, and the label of that word
    assert ends["(Ada"] == ends["(Ada Ode"] == {"PER"}
    assert ends["(Ada Ode)"] == ends["(Ada Ode) sees"] == ends["("] == {"O"}
    assert ends["(Bo Ode) sees the Rome"] == {"LOC"}
    assert ends["(Ada Ode) sees the river 0"] == ends["(Ada Ode) sees the river 0."] == {"O"}
    assert data.classes == ("O", "LOC", "PER")


def test_words_stand_as_in_running_text(conll, tokenizer) -> None:
    found = {tokenizer.decode(tokens) for tokens, *_ in examples(word_data(conll, tokenizer))}
    assert "(Ada Ode) sees the river 0." in found
    assert len(found) == 60


def test_one_type_makes_two_classes_b_and_i_alike(conll, tokenizer) -> None:
    data = word_data(conll, tokenizer, label="PER")
    assert data.classes == ("O", "PER")
    assert sum(counts["PER"] for counts in data.counts.values()) == 120
    assert sum(counts["O"] for counts in data.counts.values()) == 60 * 7
    train = data.counts["train"]
    assert data.prevalence[1] == pytest.approx(train["PER"] / sum(train.values()))
    assert not data.balanced


def test_ten_neighbouring_sentences_stay_together(conll, tokenizer) -> None:
    data = word_data(conll, tokenizer)
    sides = [groups(data, part) for part in PARTS]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 6


def test_words_beyond_the_context_are_left_out_and_said(conll, tokenizer, capsys) -> None:
    data = word_data(conll, tokenizer, context_length=6)
    assert max(last for _, _, last, _, _ in examples(data)) == 5
    assert max(int(part.lengths.max()) for part in data.parts.values()) == 6
    kept = data.source["words"]
    assert f"{60 * 9 - kept:,} words beyond the first 6 tokens" in capsys.readouterr().err


def test_a_text_is_read_as_its_mean_or_at_its_last_token(texts, tokenizer) -> None:
    for read in ("mean", "last"):
        found = examples(text_data(texts, tokenizer, read=read))
        assert len(found) == 80
        for tokens, first, last, label, document in found:
            text = tokenizer.decode(tokens)
            assert text in texts.texts
            assert label in text
            assert texts.groups[texts.texts.index(text)] == document
            assert last == len(tokens) - 1
            assert first == (last if read == "last" else 0)


def test_texts_of_a_group_stay_together(texts, tokenizer) -> None:
    data = text_data(texts, tokenizer)
    sides = [groups(data, part) for part in PARTS]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 20
    assert len(data.parts["train"]) == 64


def test_long_texts_are_cut_and_empty_ones_left_out(tokenizer, capsys) -> None:
    long = [f"{n} " + "the cat " * 9 for n in range(40)] + [""] * 3
    labels = ["even" if n % 2 == 0 else "odd" for n in range(43)]
    data = data_of(long, labels, tokenizer, context_length=5, groups=range(43))
    assert sum(map(len, data.parts.values())) == 40
    assert all((part.lengths == 5).all() for part in data.parts.values())
    said = capsys.readouterr().err
    assert "3 texts have no text and are left out" in said
    assert "40 of 40 texts cut after 5 tokens" in said


def test_labels_at_hand_equal_those_of_a_file(conll, texts, tokenizer) -> None:
    direct = data_of(texts.texts, texts.labels, tokenizer, groups=texts.groups)
    assert direct.sha256() == text_data(texts, tokenizer).sha256()
    lines = [line.split("\t") for line in conll.read_text().split("\n")]
    words = [[w for w, *_ in lines[at : at + 9]] for at in range(0, 600, 10)]
    tags = [[t[-3:] for _, t in lines[at : at + 9]] for at in range(0, 600, 10)]
    direct = data_of(words, tags, tokenizer, groups=[f"sentences {n // 10}" for n in range(60)])
    assert direct.sha256() == word_data(conll, tokenizer).sha256()


def test_a_word_labelled_none_is_read_but_no_example(tokenizer) -> None:
    words = [["the", "cat", "sees", str(n)] for n in range(60)]
    labels = [[None, True, None, False] for _ in words]
    data = data_of(words, labels, tokenizer)
    assert data.classes == ("False", "True")
    assert {
        (tokenizer.decode(tokens[: last + 1]), label)
        for tokens, _, last, label, _ in examples(data)
        if label == "True"
    } == {("the cat", "True")}
    assert data.source["words"] == 120


@pytest.mark.parametrize("none", [None, float("nan"), np.float64("nan")])
def test_texts_and_words_without_a_label_are_no_examples(tokenizer, capsys, none) -> None:
    texts = [f"the {'cat' if n % 2 else 'dog'} sees {n}" for n in range(90)]
    labels = [none if n % 3 == 0 else ("cat", "dog")[n % 2] for n in range(90)]
    data = data_of(texts, labels, tokenizer, groups=range(90))
    assert data.classes == ("cat", "dog")
    assert data.source["texts"] == 60
    assert "labels: 30 texts have no label and are left out" in capsys.readouterr().err
    read = {(tokenizer.decode(tokens), label) for tokens, _, _, label, _ in examples(data)}
    assert read == {(text, label) for text, label in zip(texts, labels) if isinstance(label, str)}
    words = data_of([text.split() for text in texts], [["x", "y", none, "x"]] * 90, tokenizer)
    assert (words.classes, words.source["words"]) == (("x", "y"), 270)


def test_rare_types_are_left_out_and_said(tmp_path, tokenizer, capsys) -> None:
    lines = [f"Ada B-PER\nsees O\n{'Rome B-LOC' if n < 4 else 'it O'}\n" for n in range(40)]
    path = tmp_path / "rare.conll"
    path.write_text("\n".join(lines))
    data = word_data(path, tokenizer)
    assert data.classes == ("O", "PER")
    assert "left out: LOC (4)" in capsys.readouterr().err
    assert data.source["words"] == 40 * 3 - 4


def test_the_place_says_what_is_read(conll, tmp_path, tokenizer) -> None:
    rows = [f'{{"text": "{"cat" if n % 2 else "dog"} {n}", "label": {n % 2}}}' for n in range(60)]
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(rows))
    assert label_data(table, tokenizer, read="last").classes == ("0", "1")
    assert label_data(conll, tokenizer, label="LOC").classes == ("O", "LOC")
    with pytest.raises(UserError, match="label = 'PER': goes with a CoNLL file"):
        label_data(table, tokenizer, label="PER")
    with pytest.raises(UserError, match="read = 'last': goes with labelled texts"):
        label_data(conll, tokenizer, read="last")


def test_a_label_that_no_word_has_is_refused(conll, tokenizer) -> None:
    with pytest.raises(UserError, match=r"'PERS': no word .* did you mean 'PER'\? there are: LOC"):
        word_data(conll, tokenizer, label="PERS")


@pytest.mark.parametrize(
    ("texts", "labels", "settings", "said"),
    [
        (["a"] * 30, ["x"] * 29, {}, "30 texts, 29 labels, 30 groups; expected"),
        (["a b"] * 30, ["x"] * 30, {}, "every text has the label 'x'"),
        ([["a", "b"]] * 30, [["x"]] * 30, {}, "text 0: expected a list of words and as many"),
        ([["a", "b"]] * 30, [["x", None]] * 30, {}, r"1 label\(s\) of 10 words or more"),
        ([["a", "b"]] * 30, [["x", "y"]] * 30, {"groups": [1] * 30}, "no document left"),
        (["a"] * 30, ["x", "y"] * 15, {"read": "middle"}, "read = 'middle'"),
        (["a"] * 30, ["x", "y"] * 15, {"train_ratio": 1.0}, "train_ratio = 1.0"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tokenizer, texts, labels, settings, said) -> None:
    settings = {"groups": range(len(texts)), **settings}
    with pytest.raises(UserError, match=said) as caught:
        data_of(texts, labels, tokenizer, **settings)
    assert "\n" not in str(caught.value)


def test_real_entities_have_every_type_in_every_part(tokenizer) -> None:
    path = DATA / "europarl" / "ner" / "en-europarl.test.conll02"
    if not path.is_file():
        pytest.skip("../shared/data is not there")
    data = label_data(path, tokenizer)
    assert data.classes == ("O", "LOC", "MISC", "ORG", "PER")
    assert min(min(counts.values()) for counts in data.counts.values()) >= 10
    assert data.source["words"] == 22_320
