"""Probes judged on other data score what they would if someone counted by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.probes import fit
from cutaway.probes.data.examples import PARTS, ProbeData
from cutaway.probes.data.labels import label_data
from cutaway.probes.data.request import Asked
from cutaway.probes.fitting.layers import SCORES, Findings, probe_layers
from cutaway.probes.other_data.evaluating import evaluate, examples_for
from cutaway.probes.states.inputs import inputs_of
from cutaway.probes.states.probe import Probe
from cutaway.text.sources import source


@pytest.fixture(scope="module")
def model(gpt2_run: Path) -> Model:
    return open_model(gpt2_run, device="cpu")


@pytest.fixture(scope="module")
def found(model: Model, probe_data: Path) -> Findings:
    data = ProbeData.load(probe_data).reading()
    return probe_layers(inputs_of(data, model, "embed,0"), Asked(controls=()))


def other(probe: Probe, **about: object) -> list[Probe]:
    return [replace(probe, about=replace(probe.about, **about))]


def test_on_the_test_part_it_gives_the_scores_of_the_training_run(found, model, probe_data) -> None:
    examples = examples_for(found.probes, model, str(probe_data))
    rows = evaluate(found.probes, model, examples)
    for row, before in zip(rows, found.layers, strict=True):
        assert {name: row[name] for name in ("site", "layer", "method", "n_test")} == {
            name: before[name] for name in ("site", "layer", "method", "n_test")
        }
        for name in SCORES:
            assert row[name] == pytest.approx(before[name], abs=1e-5, nan_ok=True)


def test_every_part_may_be_judged_on_and_all_of_them(found, model, probe_data) -> None:
    data = ProbeData.load(probe_data)
    every = {
        part: examples_for(found.probes, model, str(probe_data), part=part)
        for part in (*PARTS, "all")
    }
    for part in PARTS:
        assert every[part].label.bincount().tolist() == list(data.counts[part].values())
    assert len(every["all"]) == sum(len(every[part]) for part in PARTS)
    assert torch.equal(every["all"].token(), torch.cat([every[part].token() for part in PARTS]))
    assert torch.equal(every["all"].document, torch.cat([every[part].document for part in PARTS]))
    rows = {part: evaluate(found.probes, model, one)[0] for part, one in every.items()}
    hits = {part: rows[part]["accuracy"] * len(one) for part, one in every.items()}
    assert hits["all"] == pytest.approx(sum(hits[part] for part in PARTS))


@pytest.mark.parametrize("task", ["next", "current"])
def test_a_text_labels_itself(found, model, corpus, task: str) -> None:
    """Against the text's tokens, counted through one by one."""
    probes = other(found.probes[0], task=task)
    text = corpus / "text-03.txt"
    examples = examples_for(probes, model, str(text), tokens=400)
    stream = model.reads.encode(text.read_text())
    target, length = probes[0].about.target_id, 12
    expected = []
    for begin in range(0, 500, length + 1):
        for place in range(begin + length // 2, begin + length):
            asked = place + 1 if task == "next" else place
            expected.append(
                (stream[begin : begin + length], place - begin, stream[asked] == target)
            )
    got = []
    for row in range(len(examples)):
        context = int(examples.context[row])
        begin, end = int(examples.begin[context]), int(examples.end[context])
        tokens = examples.tokens[begin:end].tolist()
        got.append((tokens, int(examples.last[row]), bool(examples.label[row])))
    assert got == expected[: len(got)]
    assert len(got) >= 400 // (length + 1) * (length - length // 2)
    assert 3 < sum(hit for *_, hit in got) < len(got) / 2
    assert torch.equal(examples.first, examples.last)
    assert evaluate(probes, model, examples)[0]["n_test"] == len(got)


@pytest.mark.parametrize("task", ["next", "current"])
def test_places_of_a_text_are_those_a_training_could_have(found, model, corpus, task: str) -> None:
    """Documents, counted through one by one: no window goes beyond one, none asks for its end."""
    probes = other(found.probes[0], task=task)
    examples = examples_for(probes, model, str(corpus), tokens=3000)
    after, length, half = int(task == "next"), 12, 6
    expected, read = [], 0
    for number, document in enumerate(source(str(corpus)).documents()):
        ids = model.reads.encode(document.text)
        ids = ids[: 3003 - read]  # 231 windows of 13 is where the text is cut
        read += len(ids) + 1  # and its end of text
        for begin in range(0, len(ids), length + 1):
            for place in range(begin + half, min(begin + length, len(ids) - after)):
                expected.append((ids[begin : place + 1], number, ids[place + after]))
        if read >= 3003:
            break
    end, target = model.reads.end_of_text, probes[0].about.target_id
    starts = examples.begin[examples.context]
    got = [
        (examples.tokens[begin : begin + last + 1].tolist(), document, label)
        for begin, last, document, label in zip(
            *(one.tolist() for one in (starts, examples.last, examples.document, examples.label)),
            strict=True,
        )
    ]
    assert got == [(read, number, int(asked == target)) for read, number, asked in expected]
    assert {number for _, number, _ in got} == {0, 1, 2}
    assert not any(end in tokens for tokens, _, _ in got)
    assert end not in examples.chosen(range(len(examples))).compact().tokens


def test_texts_of_several_documents_are_told_apart(found, model, corpus) -> None:
    examples = examples_for(found.probes, model, str(corpus), tokens=5000)
    assert len(examples.document.unique()) > 3
    (row, _) = evaluate(found.probes, model, examples)
    assert row["low"] < row["balanced_accuracy"] < row["high"]
    assert row["balanced_accuracy"] > 0.7


def test_a_context_is_no_longer_than_the_model_reads(found, model, corpus) -> None:
    for length, used in ((500, 16), (None, 16), (8, 8)):
        probes = other(found.probes[0], context_length=length)
        examples = examples_for(probes, model, str(corpus / "text-03.txt"), tokens=300)
        assert int(examples.lengths.max()) == used
        assert int(examples.last.min()) == used // 2


def test_probes_of_labels_are_judged_on_labelled_texts(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    texts = [
        f"{number} {'the river flows' if number % 2 else 'the old king sees'}"
        for number in range(80)
    ]
    labels = ["river" if number % 2 else "king" for number in range(80)]
    model = open_model(tiny_folder("llama"), device="cpu")
    report = fit(model, texts, labels, layers="1", controls="none")
    rows = [
        {"text": f"{number} {text[text.index(' ') + 1 :]}", "label": label}
        for number, (text, label) in enumerate(zip(texts, labels, strict=True), 500)
    ]
    file = tmp_path / "other.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    examples = examples_for(report.probes, model, str(file))
    assert len(examples) == 80
    (row,) = evaluate(report.probes, model, examples)
    assert row["balanced_accuracy"] > 0.8
    # labels mean the same whatever order the file has them in
    turned = other(report.probes[0], classes=("river", "king"))
    assert torch.equal(examples_for(turned, model, str(file)).label, 1 - examples.label)


def test_probes_of_words_are_judged_on_other_words(tiny_folder, tmp_path: Path) -> None:
    def conll(name: str, first: int) -> Path:
        lines = []
        for number in range(first, first + 120):
            who = ("Anna", "Bert", "Carl")[number % 3]
            tagged = [("the", "O"), ("king", "O"), ("sees", "O"), (who, "B-PER"), (".", "O")]
            lines += [f"{word}\t{tag}" for word, tag in tagged] + [""]
        file = tmp_path / name
        file.write_text("\n".join(lines))
        return file

    model = open_model(tiny_folder("llama"), device="cpu")
    data = label_data(conll("here.conll", 0), model.reads, label="PER")
    report = fit(model, data, layers="1", controls="none")
    examples = examples_for(report.probes, model, str(conll("there.conll", 1)))
    assert len(examples) == 600
    assert float(examples.label.float().mean()) == pytest.approx(0.2)
    (row,) = evaluate(report.probes, model, examples)
    assert row["balanced_accuracy"] > 0.9


def test_labels_the_probes_do_not_know_are_refused(tiny_folder, tmp_path: Path) -> None:
    texts = [f"{number} the {'river' if number % 2 else 'king'}" for number in range(80)]
    model = open_model(tiny_folder("llama"), device="cpu")
    report = fit(model, texts, [number % 2 for number in range(80)], layers="1", controls="none")
    file = tmp_path / "other.jsonl"
    rows = [{"text": text, "label": f"{n % 2 + 1}"} for n, text in enumerate(texts)]
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="has examples of '2', and the probes know '0', '1'"):
        examples_for(report.probes, model, str(file))


def test_another_target_is_refused(found, model, probe_data) -> None:
    probes = other(found.probes[0], target=" of", target_id=9)
    with pytest.raises(UserError, match="its target is ' the', and the probes' is ' of'"):
        examples_for(probes, model, str(probe_data))


def test_data_of_another_tokenizer_are_refused(found, tiny_folder, probe_data) -> None:
    model = open_model(tiny_folder("llama"), device="cpu")
    with pytest.raises(UserError, match=r"made with the tokenizer .* reads with another"):
        examples_for(found.probes, model, str(probe_data))


def test_data_of_another_kind_of_task_are_refused(found, model, probe_data) -> None:
    with pytest.raises(UserError, match=r"task = 'labels': .* holds examples of the task 'next'"):
        examples_for(other(found.probes[0], task="labels"), model, str(probe_data))


@pytest.mark.parametrize("part", ["tests", "", "TRAIN"])
def test_parts_there_are_not_are_refused(found, model, probe_data, part: str) -> None:
    with pytest.raises(UserError, match=f"part = '{part}': expected all, train, validation, test"):
        examples_for(found.probes, model, str(probe_data), part=part)


def test_documents_too_short_for_a_place_are_refused(found, model, tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text("the cat")
    with pytest.raises(UserError, match="no document is longer than the 7 tokens"):
        examples_for(found.probes, model, str(tmp_path))


def test_a_text_shorter_than_a_context_is_refused(found, model, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("the river")
    with pytest.raises(UserError, match=r"short"):
        examples_for(found.probes, model, str(tmp_path / "short.txt"))
