"""Probe data mean the same however they are stored, chosen from or packed, and say when damaged."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from activations.tiny_models import small_tokenizer
from cutaway.base.errors import UserError
from cutaway.probes.data.examples import FORMAT, PARTS, Examples, ProbeData, from_contexts
from cutaway.text.tokenizers import Tokenizer

_TOKENIZER: list[Tokenizer] = []


def tokenizer() -> Tokenizer:
    if not _TOKENIZER:
        _TOKENIZER.append(small_tokenizer())
    return _TOKENIZER[0]


@st.composite
def examples(draw: st.DrawFn) -> Examples:
    """A few contexts of unequal length, some with several examples, some with none."""
    contexts = draw(
        st.lists(st.lists(st.integers(0, 299), min_size=2, max_size=6), min_size=1, max_size=5)
    )
    rows = []
    for _ in range(draw(st.integers(1, 8))):
        context = draw(st.integers(0, len(contexts) - 1))
        last = draw(st.integers(0, len(contexts[context]) - 2))
        first = draw(st.integers(0, last))
        rows.append((context, first, last, draw(st.integers(0, 1)), draw(st.integers(0, 3))))
    return from_contexts(contexts, *(list(column) for column in zip(*rows, strict=True)))


def meaning(found: Examples) -> list[tuple]:
    """Every example in full: the tokens of its context, where it reads, its label and document."""
    told = []
    for row in range(len(found)):
        context = int(found.context[row])
        begin, end = int(found.begin[context]), int(found.end[context])
        rest = [int(getattr(found, name)[row]) for name in ("first", "last", "label", "document")]
        told.append((tuple(found.tokens[begin:end].tolist()), *rest))
    return told


def data_of(*parts: Examples, **over: object) -> ProbeData:
    known = {
        "name": "drawn",
        "task": "next",
        "classes": ("other", " the"),
        "prevalence": (0.9, 0.1),
        "documents": ("a", "b", "c", "d"),
        "target": " the",
        "target_id": 7,
        "context_length": 5,
    }
    named = dict(zip(PARTS, parts, strict=True))
    return ProbeData(parts=named, tokenizer=tokenizer(), **{**known, **over})


# -- examples --------------------------------------------------------------------------------------


@given(examples(), st.data())
def test_chosen_examples_are_those_of_the_rows_in_their_order(found: Examples, data) -> None:
    rows = data.draw(st.lists(st.integers(0, len(found) - 1), min_size=1, max_size=10))
    told = meaning(found)
    chosen = found.chosen(rows)
    assert meaning(chosen) == [told[row] for row in rows]
    assert len(chosen.begin) == len({int(found.context[row]) for row in rows})


@given(examples(), st.data())
def test_packed_examples_mean_the_same_and_hold_nothing_else(found: Examples, data) -> None:
    rows = data.draw(st.lists(st.integers(0, len(found) - 1), min_size=1, max_size=10))
    chosen = found.chosen(rows)
    packed = chosen.compact()
    assert meaning(packed) == meaning(chosen)
    assert len(packed.tokens) == int(chosen.lengths.sum())


def test_no_examples_pack_to_none() -> None:
    nothing = from_contexts([[1, 2], [3]], [0], [0], [0], [1], [0]).chosen([])
    assert (len(nothing), len(nothing.compact().tokens)) == (0, 0)


# -- tasks -----------------------------------------------------------------------------------------


@given(examples())
def test_the_two_tasks_read_neighbouring_tokens_and_not_the_answer(found: Examples) -> None:
    data = data_of(found, found, found)
    before, at = data.reading("next").parts["test"], data.reading("current").parts["test"]
    assert torch.equal(before.token(), found.token())
    assert torch.equal(at.token(), found.token(1))
    whole = meaning(found)
    for mine, all_of_it in zip(meaning(before), whole, strict=True):
        assert mine == (all_of_it[0][:-1], *all_of_it[1:])
    for mine, all_of_it in zip(meaning(at), whole, strict=True):
        assert mine == (all_of_it[0][1:], *all_of_it[1:])


def test_data_are_read_for_their_own_task_where_none_is_named() -> None:
    part = from_contexts([[1, 2, 3]], [0], [1], [1], [1], [0])
    data = data_of(part, part, part, task="current")
    read = data.reading()
    assert read.task == "current"
    assert read.parts["train"].token().tolist() == [3]
    assert (data.fingerprint, read.fingerprint) == ("", data.sha256())


def test_data_already_read_are_not_trimmed_again() -> None:
    part = from_contexts([[1, 2, 3]], [0], [1], [1], [1], [0])
    read = data_of(part, part, part).reading()
    assert meaning(read.reading().parts["train"]) == meaning(read.parts["train"])
    with pytest.raises(UserError, match="task = 'current': drawn is already being read for 'next'"):
        read.reading("current")


def test_tasks_that_the_data_cannot_serve_are_refused() -> None:
    part = from_contexts([[1, 2, 3]], [0], [1], [1], [1], [0])
    tokens, labels = data_of(part, part, part), data_of(part, part, part, task="labels")
    read = labels.reading()
    assert read.parts is labels.parts
    assert read.fingerprint == labels.sha256()
    for data, task in ((tokens, "labels"), (labels, "next"), (labels, "current")):
        with pytest.raises(UserError, match=f"task = '{task}': drawn holds examples of the task"):
            data.reading(task)
    with pytest.raises(UserError, match="task = 'previous': expected one of next, current, labels"):
        tokens.reading("previous")


# -- on disk ---------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(examples(), examples(), examples())
def test_what_is_saved_is_loaded(train: Examples, validation: Examples, test: Examples) -> None:
    data = data_of(train, validation, test, source={"data": "here"}, seed=3, balanced=True)
    with tempfile.TemporaryDirectory() as folder:
        kept = ProbeData.load(data.save(Path(folder) / "data"))
        said = json.loads((Path(folder) / "data" / "metadata.json").read_text())
    for name in PARTS:
        assert meaning(kept.parts[name]) == meaning(data.parts[name])
        assert kept.parts[name].tokens.dtype == torch.int32
    same = ("name", "task", "classes", "prevalence", "documents", "target", "target_id")
    for name in (*same, "context_length", "balanced", "seed", "source", "counts"):
        assert getattr(kept, name) == getattr(data, name)
    assert kept.sha256() == data.sha256() == said["sha256"]
    assert kept.tokenizer.encode("the river") == data.tokenizer.encode("the river")
    assert said["counts"] == data.counts
    assert said["prevalence"] == [0.9, 0.1]
    assert said["tokenizer"]["sha256"] == data.tokenizer.sha256()


@given(examples(), st.data())
def test_the_hash_tells_any_other_examples_apart(found: Examples, data) -> None:
    name = data.draw(st.sampled_from(["first", "last", "label", "document", "tokens"]))
    # of tokens only those that some context holds count
    place = int(found.begin[0]) if name == "tokens" else 0
    values = getattr(found, name).clone()
    values[place] += 1
    changed = replace(found, **{name: values})
    whole = data_of(found, found, found)
    assert data_of(found, changed, found).sha256() != whole.sha256()
    for over in ({"task": "current"}, {"classes": ("a", "b")}, {"prevalence": (0.8, 0.2)}):
        assert data_of(found, found, found, **over).sha256() != whole.sha256()


@given(examples())
def test_the_hash_is_the_same_however_the_examples_lie(found: Examples) -> None:
    assert data_of(*[found] * 3).sha256() == data_of(*[found.compact()] * 3).sha256()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    part = from_contexts([[1, 2, 3], [4, 5]], [0, 1], [1, 0], [1, 0], [1, 0], [0, 1])
    return data_of(part, part, part).save(tmp_path / "data")


def cut(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-3])


def turned(folder: Path) -> None:
    content = bytearray((folder / "test.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "test.safetensors").write_bytes(content)


def said(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "metadata.json").read_text()) | changes
        kept = {key: value for key, value in content.items() if value is not ...}
        (folder / "metadata.json").write_text(json.dumps(kept))

    return change


def exchanged(tensors: dict[str, torch.Tensor]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        kept = load_file(folder / "train.safetensors")
        save_file({**kept, **tensors}, folder / "train.safetensors")

    return change


@pytest.mark.parametrize(
    "harm",
    [
        cut("train.safetensors"),
        turned,
        lambda folder: (folder / "validation.safetensors").unlink(),
        lambda folder: (folder / "metadata.json").write_text("{"),
        lambda folder: (folder / "metadata.json").write_text("[]"),
        lambda folder: (folder / "metadata.json").write_bytes(b"\xff\xfe"),
        said(prevalence=[0.5, 0.5]),
        said(prevalence=0.5),
        said(classes=...),
        said(format=...),
        said(sha256=...),
        exchanged({"end": torch.tensor([3, 500])}),
        exchanged({"begin": torch.tensor([0, 3, 9])}),
        exchanged({"more": torch.zeros(1)}),
        exchanged({"label": torch.zeros(2)}),
    ],
)
def test_damage_is_found(saved: Path, harm: Callable[[Path], None]) -> None:
    harm(saved)
    with pytest.raises(UserError, match="damaged probe data"):
        ProbeData.load(saved)


def test_another_tokenizer_in_the_folder_is_found(saved: Path) -> None:
    from cutaway.text.tokenizers import train

    other = train(["quite other words are in here, and they are many " * 20], 280)
    other.save(saved / "tokenizer")
    with pytest.raises(UserError, match="damaged probe data: its files are not those"):
        ProbeData.load(saved)


def test_a_newer_format_is_refused(saved: Path) -> None:
    said(format=FORMAT + 1)(saved)
    with pytest.raises(UserError, match=rf"format {FORMAT + 1} is newer than this cutaway reads"):
        ProbeData.load(saved)


def test_a_folder_without_data_names_the_command_that_makes_some(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no probe data .*`cutaway probe data`"):
        ProbeData.load(tmp_path)


def test_nothing_is_overwritten_and_an_empty_folder_is_taken(saved: Path, tmp_path: Path) -> None:
    data = ProbeData.load(saved)
    with pytest.raises(UserError, match="not empty"):
        data.save(saved)
    (tmp_path / "empty").mkdir()
    assert ProbeData.load(data.save(tmp_path / "empty")).sha256() == data.sha256()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["data", "empty"]


@pytest.mark.parametrize("by", [(-1, 0), (0, 10**9), (10**30, 0), (0, -(10**30))])
def test_contexts_are_not_moved_out_of_their_tokens(by, probe_data: Path) -> None:
    part = ProbeData.load(probe_data).parts["train"]
    with pytest.raises(UserError, match="would not lie within"):
        part.moved(*by)
    assert part.moved(0, 0).begin.tolist() == part.begin.tolist()
