"""Windows before a token, against every window enumerated one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from conftest import sentences
from cutaway.base.errors import UserError
from cutaway.probes.data.examples import PARTS, Examples, ProbeData
from cutaway.probes.data.places import Texts
from cutaway.probes.data.windows import single_token, token_data
from cutaway.text.documents import Document
from cutaway.text.tokenizers import Tokenizer, train

T = 8
MANY = 10**6


class Corpus:
    """Documents at hand as a source."""

    name = "corpus"

    def __init__(self, texts: dict[str, str]):
        self.texts = texts

    def documents(self) -> Iterator[Document]:
        return (Document(id, text) for id, text in self.texts.items())

    def fingerprint(self) -> str:
        return "corpus"

    def size(self) -> int | None:
        return None


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([sentences(seed, 200) for seed in range(5)], 400)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus({f"text {n}": sentences(n, 15 + n % 7) for n in range(30)} | {"short": "A cat."})


@pytest.fixture(scope="module")
def everything(corpus: Corpus, tokenizer: Tokenizer) -> ProbeData:
    """Every place there is, but that training is balanced."""
    limits = {"max_chunks_per_class": MANY, "max_evaluation": MANY}
    return token_data(corpus, tokenizer, " the", context_length=T, **limits)


def contexts(part: Examples) -> list[tuple[int, ...]]:
    return [
        tuple(part.tokens[b:e].tolist()) for b, e in zip(part.begin.tolist(), part.end.tolist())
    ]


def enumerated(corpus: Corpus, tokenizer: Tokenizer, names: set[str]) -> list[tuple[int, ...]]:
    """All windows of these documents, each with the token after it."""
    found = []
    for document in corpus.documents():
        ids = tokenizer.encode(document.text)
        if document.id in names:
            found += [tuple(ids[p - T : p + 1]) for p in range(T, len(ids))]
    return found


def held(data: ProbeData, part: str) -> set[str]:
    return {data.documents[one] for one in data.parts[part].document.tolist()}


def test_evaluation_holds_every_window_of_its_documents_once(everything, corpus, tokenizer) -> None:
    for name in ("validation", "test"):
        wanted = enumerated(corpus, tokenizer, held(everything, name))
        assert Counter(contexts(everything.parts[name])) == Counter(wanted)


def test_training_holds_every_place_of_the_target_and_as_many_others(
    everything, corpus, tokenizer
) -> None:
    wanted = enumerated(corpus, tokenizer, held(everything, "train"))
    part, target = everything.parts["train"], tokenizer.encode(" the")[0]
    found = contexts(part)
    hits = Counter(one for one in wanted if one[-1] == target)
    others = Counter(one for one in wanted if one[-1] != target)
    assert Counter(one for one in found if one[-1] == target) == hits
    drawn = Counter(one for one in found if one[-1] != target)
    assert drawn.total() == hits.total() > 100
    assert drawn <= others  # without replacement


def test_labels_say_whether_the_token_after_the_window_is_the_target(everything, tokenizer) -> None:
    for part in everything.parts.values():
        said = [tokenizer.decode(one[-1:]) == " the" for one in contexts(part)]
        assert part.label.tolist() == [int(one) for one in said]
        assert (part.lengths == T + 1).all()
        assert (part.last == T - 1).all()


def test_windows_come_from_the_document_they_name(everything, corpus, tokenizer) -> None:
    texts = {d.id: tokenizer.encode(d.text) for d in corpus.documents()}
    for part in everything.parts.values():
        for window, document in list(zip(contexts(part), part.document.tolist()))[::7]:
            ids = texts[everything.documents[document]]
            assert any(tuple(ids[p - T : p + 1]) == window for p in range(T, len(ids)))
        assert tokenizer.end_of_text not in part.tokens


def test_no_document_is_in_two_parts(everything) -> None:
    sides = [held(everything, name) for name in PARTS]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 30


def test_the_split_is_80_10_10_of_the_places(everything) -> None:
    places = everything.source["places"]
    total = sum(places.values())
    assert places["train"] / total == pytest.approx(0.8, abs=0.04)
    assert places["test"] / total == pytest.approx(0.1, abs=0.03)


def test_prevalence_is_the_share_over_all_training_places(everything, corpus, tokenizer) -> None:
    wanted = enumerated(corpus, tokenizer, held(everything, "train"))
    share = sum(one[-1] == everything.target_id for one in wanted) / len(wanted)
    assert everything.prevalence == pytest.approx((1 - share, share))
    assert everything.classes == ("other", " the")


def test_next_and_current_read_the_same_examples_one_token_apart(everything) -> None:
    next_, current = everything.reading("next"), everything.reading("current")
    for name in PARTS:
        before, on = contexts(next_.parts[name]), contexts(current.parts[name])
        assert all(len(a) == len(b) == T and a[1:] == b[:-1] for a, b in zip(before, on))
        is_target = current.parts[name].token() == everything.target_id
        assert torch.equal(is_target.long(), everything.parts[name].label)


def test_limits_hold_and_draws_belong_to_the_seed(corpus, tokenizer) -> None:
    def made(seed: int) -> ProbeData:
        limits = {"max_chunks_per_class": 50, "max_evaluation": 200}
        return token_data(corpus, tokenizer, " the", context_length=T, seed=seed, **limits)

    once, again, other = made(0), made(0), made(1)
    assert once.counts["train"] == {"other": 50, " the": 50}
    assert len(once.parts["test"]) == 200
    assert once.sha256() == again.sha256() != other.sha256()


def test_evaluation_has_the_target_as_often_as_its_text(everything, corpus, tokenizer) -> None:
    small = token_data(corpus, tokenizer, " the", context_length=T, max_evaluation=250)
    whole = everything.parts["test"].label.float().mean()
    assert small.parts["test"].label.float().mean() == pytest.approx(float(whole), abs=0.06)


def test_two_documents_are_cut_into_sections_that_share_no_token(tokenizer, capsys) -> None:
    # every word is a number that comes once, so a window says where it is from
    long = [" the ".join(map(str, range(start, start + 900))) for start in (1000, 5000)]
    corpus = Corpus({"one": long[0], "two": long[1]})
    limits = {"max_chunks_per_class": MANY, "max_evaluation": MANY}
    data = token_data(corpus, tokenizer, " the", context_length=12, **limits)
    assert "cut into" in capsys.readouterr().err
    assert data.source["split"] == "sections"
    words = [
        {word for one in contexts(part) for word in tokenizer.decode(one).split(" the ")[1:-1]}
        for part in data.parts.values()
    ]
    assert all(len(one) > 50 for one in words)
    assert sum(map(len, words)) == len(set.union(*words))


def test_of_a_few_documents_the_nearest_split_is_taken(tokenizer) -> None:
    sizes = {"a": 20, "b": 160, "c": 20, "d": 1}
    corpus = Corpus({id: sentences(n, size) for n, (id, size) in enumerate(sizes.items())})
    data = token_data(corpus, tokenizer, " the", context_length=T)
    assert "b" in held(data, "train")
    assert {"a", "c"} <= held(data, "validation") | held(data, "test")


def test_texts_that_repeat_another_are_left_out(tokenizer, corpus, capsys) -> None:
    twice = Corpus(corpus.texts | {"again": corpus.texts["text 3"]})
    data = token_data(twice, tokenizer, " the", context_length=T)
    assert "again" not in data.documents
    assert "1 texts repeat another" in capsys.readouterr().err


def test_texts_that_share_text_stay_on_one_side(tokenizer, corpus) -> None:
    # text 0 within four longer ones, and one with a text of its own at the end
    holders = {f"holder {n}": f"{sentences(90 + n, 9)} {corpus.texts['text 0']}" for n in range(4)}
    holders["other"] = sentences(99, 20)
    data = token_data(Corpus({**corpus.texts, **holders}), tokenizer, " the", context_length=T)
    sides = [part for part in PARTS if held(data, part) & {"text 0", *holders} - {"other"}]
    assert len(sides) == 1
    assert {f"holder {n}" for n in range(4)} | {"text 0"} <= held(data, sides[0])


def test_texts_that_share_text_are_found_among_many_blocks(monkeypatch) -> None:
    import numpy as np

    from cutaway.text import repeats

    draw = np.random.default_rng(0)
    texts = [draw.integers(1, 5000, size) for size in (300, 500, 40, 700, 20, 400)]
    texts[3][200:500] = texts[0]
    texts[5][:35] = texts[1][:35]  # 4 runs of 369: quoted, not related
    end = np.cumsum([len(one) + 1 for one in texts]) - 1
    begin = np.concatenate([[0], end[:-1] + 1])
    ids = np.concatenate([np.append(one, 0) for one in texts])
    groups = repeats.related(ids, begin, end)
    assert [int((groups == one).sum()) for one in groups] == [2, 1, 1, 2, 1, 1]
    assert groups[0] == groups[3]
    monkeypatch.setattr(repeats, "_KEPT", 128)  # sixteen blocks, one run in sixteen
    assert repeats.related(ids, begin, end).tolist() == groups.tolist()


def test_the_draw_of_others_reaches_every_place_without_the_target(tokenizer) -> None:
    import numpy as np

    ids = np.array([0, 0, 9, 9, 0, 9, 1, 2, 3, 9, 9])
    texts = Texts(ids, ("x", "y"), np.array([1, 7]), np.array([5, 4]), np.arange(2), np.arange(2),
                  np.flatnonzero(ids == 9), 1)  # fmt: skip
    numbers = texts.others(np.random.default_rng(0), 100)
    positions = [1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert [positions[n] for n in numbers] == [1, 4, 7, 8]
    assert [positions[n] for n in texts.hits] == [2, 3, 5, 9, 10]


@pytest.mark.parametrize(
    ("target", "settings", "said"),
    [
        ("", {}, "target = '': expected the text of one token"),
        (" the cat", {}, r"2 tokens under .* \(' the', ' cat'\), expected one"),
        (" thy", {}, "expected one"),
        ("☃", {}, r"3 tokens under"),
        (" the", {"train_ratio": 0.5}, "train_ratio = 0.5: expected"),
        (" the", {"train_ratio": 0.99}, "train_ratio = 0.99: expected"),
        (" the", {"max_evaluation": 0}, "max_evaluation = 0: expected 1 or more"),
        (" the", {"max_chunks_per_class": 3}, "raise max_chunks_per_class"),
        (" the", {"max_evaluation": 20}, "raise max_evaluation"),
        (" the", {"context_length": 0}, "context_length = 0"),
        (" the", {"context_length": 5000}, "context_length = 5000: every document of corpus is"),
        (" the", {"task": "labels"}, "task = 'labels': expected next or current"),
        ("Z", {}, "target = 'Z': never seen at the [0-9,]+ places"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(corpus, tokenizer, target, settings, said) -> None:
    with pytest.raises(UserError, match=said) as caught:
        token_data(corpus, tokenizer, target, **{"context_length": T, **settings})
    assert "\n" not in str(caught.value)


def test_a_token_with_or_without_its_space_is_suggested(tokenizer) -> None:
    with pytest.raises(UserError, match="' river' would be one"):
        single_token(tokenizer, "river")


def test_a_rare_target_and_an_empty_corpus_are_refused(tokenizer) -> None:
    texts = {f"{n}": sentences(n, 30) for n in range(10)}
    with pytest.raises(UserError, match=r"target = 'Z': at 1 of .* places"):
        token_data(Corpus({**texts, "z": "cat " * 20 + "Z"}), tokenizer, "Z", context_length=T)
    with pytest.raises(UserError, match="empty corpus"):
        token_data(Corpus({}), tokenizer, " the", context_length=T)
