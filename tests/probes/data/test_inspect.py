"""What is planted in probe data is found, and what is sound is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conftest import sentences
from cutaway.base.errors import UserError
from cutaway.probes.data.examples import ProbeData, from_contexts
from cutaway.probes.data.inspect import Inspection, inspect
from cutaway.text.repeats import RUN
from cutaway.text.tokenizers import Tokenizer, train

LENGTH = 40


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([sentences(seed, 200) for seed in range(5)], 400)


def windows(tokenizer: Tokenizer, ids: dict[str, list[list[int]]], **changes: object) -> ProbeData:
    """Data whose contexts are given by part, half of them before the target, a document each."""
    target = tokenizer.encode(" the")[0]
    parts, documents = {}, []
    for name, contexts in ids.items():
        whole = [
            [*one, target if n % 2 else tokenizer.encode(" a")[0]] for n, one in enumerate(contexts)
        ]
        rows = range(len(whole))
        last = [len(one) - 2 for one in whole]
        numbers = [len(documents) + row for row in rows]
        documents += [f"{name} {row}" for row in rows]
        parts[name] = from_contexts(whole, rows, last, last, [row % 2 for row in rows], numbers)
    settings = {
        "name": "made",
        "task": "next",
        "classes": ("other", " the"),
        "prevalence": (0.9, 0.1),
        "target": " the",
        "target_id": target,
        "context_length": LENGTH,
        "balanced": True,
        **changes,
    }
    return ProbeData(documents=tuple(documents), parts=parts, tokenizer=tokenizer, **settings)


@pytest.fixture(scope="module")
def ids(tokenizer: Tokenizer) -> dict[str, list[list[int]]]:
    """Sixty contexts for training and twenty for the others, none like another."""
    numbers = {"train": 60, "validation": 20, "test": 20}
    made, seed = {}, 0
    for name, count in numbers.items():
        made[name] = []
        for _ in range(count):
            made[name].append(tokenizer.encode(sentences(seed, 12))[:LENGTH])
            seed += 1
    return made


def rows(found: Inspection, part: str) -> dict:
    return next(row for row in found.contexts if row["part"] == part)


def test_sound_data_have_no_problem(tokenizer, ids) -> None:
    found = inspect(windows(tokenizer, ids))
    assert (found.problems, found.errors) == ([], [])
    assert [row["examples"] for row in found.balance] == [30, 30, 10, 10, 10, 10]
    assert found.balance[1] == {
        "part": "train",
        "class": " the",
        "examples": 30,
        "share": 0.5,
        "natural": 0.1,
    }
    assert rows(found, "test") == {
        "part": "test",
        "contexts": 20,
        "documents": 20,
        "repeated": 0,
        "shortest": LENGTH,
        "median": LENGTH,
        "longest": LENGTH,
        "in_train": 0,
        "overlap": 0,
    }


def test_a_document_in_two_parts_is_an_error(tokenizer, ids) -> None:
    data = windows(tokenizer, ids)
    test = data.parts["test"]
    document = test.document.clone()
    document[3] = data.parts["train"].document[0]
    leaky = replace(data, parts={**data.parts, "test": replace(test, document=document)})
    assert inspect(leaky).errors == ["1 documents in train and in test: train 0"]


def test_a_document_of_two_numbers_and_one_name_is_found(tokenizer, ids) -> None:
    data = windows(tokenizer, ids)
    names = ["train 5" if name == "validation 2" else name for name in data.documents]
    assert inspect(replace(data, documents=tuple(names))).errors == [
        "1 documents in train and in validation: train 5"
    ]


def test_a_text_under_two_names_shows_as_equal_contexts(tokenizer, ids) -> None:
    copied = {**ids, "test": ids["test"][:15] + ids["train"][:5]}
    found = inspect(windows(tokenizer, copied))
    assert rows(found, "test")["in_train"] == 5
    assert not found.errors
    assert any(
        "test: 5 of 20 contexts (25.0%) have an equal one" in one.message for one in found.problems
    )


def test_a_text_under_two_names_is_found_where_its_windows_are_shifted(tokenizer, ids) -> None:
    # each window of test ends three tokens before a training window does
    shifted = [[9, 9, 9, *one[:-3]] for one in ids["train"][:7]]
    found = inspect(windows(tokenizer, {**ids, "test": ids["test"][:13] + shifted}))
    assert (rows(found, "test")["in_train"], rows(found, "test")["overlap"]) == (0, 7)
    assert any("7 of 20 contexts (35.0%) end with" in one.message for one in found.problems)


def test_a_run_across_two_training_contexts_is_no_overlap(tokenizer, ids) -> None:
    half = RUN // 2
    across = [
        [7] * (LENGTH - RUN) + a[-half:] + b[:half] for a, b in zip(ids["train"], ids["train"][1:])
    ]
    found = inspect(windows(tokenizer, {**ids, "test": across[:20]}))
    assert rows(found, "test")["overlap"] == 0


def test_repeats_within_a_part_are_counted(tokenizer, ids) -> None:
    repeated = {**ids, "train": ids["train"][:50] + ids["train"][:10]}
    assert rows(inspect(windows(tokenizer, repeated)), "train")["repeated"] == 10


def test_ids_out_of_range_are_an_error_and_are_shown(tokenizer, ids) -> None:
    wrong = {**ids, "train": [[*one[:-1], 4000] for one in ids["train"]]}
    found = inspect(windows(tokenizer, wrong), samples=1)
    assert found.errors == [
        f"train: 60 token ids out of range (0 to {tokenizer.vocab_size - 1} under "
        f"{tokenizer.name}), the first 4000"
    ]
    assert "⟨no token 4000⟩" in found.samples[0]["read"]


def test_labels_out_of_range_and_against_the_token_are_errors(tokenizer, ids) -> None:
    data = windows(tokenizer, ids)
    label = data.parts["train"].label.clone()
    label[0], label[1] = 7, 0
    wrong = {**data.parts, "train": replace(data.parts["train"], label=label)}
    assert inspect(replace(data, parts=wrong)).errors == [
        "train: 1 labels that are none of 2 classes",
        "train: 2 labels do not say whether the token is ' the'",
    ]


def test_positions_outside_of_a_context_are_an_error(tokenizer, ids) -> None:
    data = windows(tokenizer, ids)
    part = data.parts["test"]
    wrong = {**data.parts, "test": replace(part, last=part.last + 2)}
    assert inspect(replace(data, parts=wrong)).errors == [
        "test: 20 examples read outside of their context"
    ]


def test_few_examples_imbalance_and_sections_are_warnings(tokenizer, ids) -> None:
    data = windows(tokenizer, {**ids, "test": ids["test"][:8]}, source={"split": "sections"})
    data = replace(
        data,
        parts={**data.parts, "train": data.parts["train"].chosen([*range(40), *range(0, 60, 2)])},
    )
    found = inspect(data)
    said = " / ".join(one.message for one in found.problems if one.severity == "warning")
    assert "split by sections" in said
    assert "test: 4 examples of ' the', too few" in said
    assert "train: classes are said to be balanced and are not: [50, 20]" in said
    assert not found.errors


@pytest.mark.parametrize("task", ["next", "current"])
def test_samples_show_what_is_read_and_what_comes_next(tokenizer, ids, task) -> None:
    data = windows(tokenizer, ids, task=task)
    found = inspect(data, samples=4, part="test", seed=1)
    assert [row["class"] for row in found.samples] == ["other"] * 4 + [" the"] * 4
    for row in found.samples:
        number = int(row["document"].split()[1])
        context = ids["test"][number]
        if task == "next":
            assert row["read"] == tokenizer.token(context[-1])
            assert row["next"] == (" the" if row["class"] == " the" else " a")
            assert tokenizer.decode(context[:-1]).endswith(row["before"])
        else:
            assert row["read"] == (" the" if row["class"] == " the" else " a")
            assert "next" not in row
    assert found.samples == inspect(data, samples=4, part="test", seed=1).samples
    assert found.samples != inspect(data, samples=4, part="test", seed=2).samples


def test_data_that_are_read_already_are_looked_at_the_same_way(tokenizer, ids) -> None:
    data = windows(tokenizer, ids, task="current")
    assert inspect(data.reading()).to_json() == inspect(data).to_json()


def test_what_cannot_be_shown_is_refused(tokenizer, ids) -> None:
    data = windows(tokenizer, ids)
    with pytest.raises(UserError, match="samples = -1"):
        inspect(data, samples=-1)
    with pytest.raises(UserError, match="part = 'val': expected one of train, validation, test"):
        inspect(data, part="val")


def test_a_footnote_says_what_the_columns_of_contexts_are(tokenizer, ids) -> None:
    said = inspect(windows(tokenizer, ids)).footnote
    assert all(f"{name}: " in said for name in ("repeated", "in_train", "overlap"))
    assert f"{RUN} tokens" in said
    short = {name: [one[: RUN // 2] for one in contexts] for name, contexts in ids.items()}
    found = inspect(windows(tokenizer, short))
    assert rows(found, "test")["overlap"] is None
    assert "overlap" not in found.footnote
