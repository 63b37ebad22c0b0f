"""Public functions that take numbers beside a model or a table refuse every number that does not do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from cutaway.base import hardware
from cutaway.base.errors import CutawayError

NUMBERS = [-1, 0, 1, 2**70, -(2**70), 10**12, 1.5, -0.5, float("nan"), float("inf"), float("-inf")]
OTHERS = [None, "", "x", "0", [], [None], {}, b"x", "two\nlines", "\0", object()]


@pytest.fixture(scope="module")
def backpack(backpack_run: Path) -> Any:
    from cutaway.nets import load

    return load(backpack_run).model


@pytest.fixture(scope="module")
def model(backpack_run: Path) -> Any:
    from cutaway.nets import open_model

    return open_model(backpack_run)


TOKENS = torch.tensor([[1, 2, 3]])


def _drawn(backpack: Any, model: Any) -> Callable[..., Any]:
    from cutaway.language import sample

    return lambda length=2, temperature=1.0, top_k=3, seed=0: sample(
        backpack, TOKENS, length, temperature=temperature, top_k=top_k, seed=seed
    )


def _predicts(backpack: Any, model: Any) -> Callable[..., Any]:
    from cutaway.language import predicts

    return lambda token=3, top=2: predicts(backpack, token, top)


def _evoked_by(backpack: Any, model: Any) -> Callable[..., Any]:
    from cutaway.language import evoked_by

    return lambda target=3, top=2: evoked_by(backpack, target, top)


def _attribute(backpack: Any, model: Any) -> Callable[..., Any]:
    from cutaway.language import attribute

    return lambda target=3, position=-1: attribute(backpack, TOKENS[0], target, position)


def _capture(backpack: Any, model: Any) -> Callable[..., Any]:
    from cutaway.activations import capture

    return lambda sites="0": capture(model, TOKENS, sites)


def _splice(backpack: Any, model: Any) -> Callable[..., Any]:
    from cutaway.activations import splice, steer

    def spliced(site="0", strength=1.0):
        with splice(model, {site: steer(torch.ones(model.width), strength)}):
            return model.logits(TOKENS)

    return spliced


def _phases(backpack: Any, model: Any) -> Callable[..., Any]:
    from cutaway.grokking import phases

    steps = list(range(20))
    table = pa.table({"step": steps, "train_acc": [1.0] * 20, "test_acc": [n / 19 for n in steps]})
    return lambda train_threshold=0.9, test_threshold=0.9, sustain=2: phases(
        table,
        train_threshold=train_threshold,
        test_threshold=test_threshold,
        sustain=sustain,
    )


def _split(backpack: Any, model: Any) -> Callable[..., Any]:
    from cutaway.grokking import split

    return lambda p=7, operation="add", train_frac=0.5, data_seed=0: split(
        p, operation, train_frac, data_seed
    )


def _tokenizer(backpack: Any, model: Any) -> Callable[..., Any]:
    from cutaway.text.tokenizers import train

    return lambda vocab_size=260: train(["some text " * 20], vocab_size)


def _packed(backpack: Any, model: Any) -> Callable[..., Any]:
    from cutaway.text.packing import packed
    from cutaway.text.sources import source

    return lambda tokens=100, context_length=8: packed(
        source("docstrings"), model.reads, context_length, tokens=tokens
    )


FUNCTIONS = {
    "sample": (_drawn, ("length", "temperature", "top_k", "seed")),
    "predicts": (_predicts, ("token", "top")),
    "evoked_by": (_evoked_by, ("target", "top")),
    "attribute": (_attribute, ("target", "position")),
    "capture": (_capture, ("sites",)),
    "splice": (_splice, ("site", "strength")),
    "phases": (_phases, ("train_threshold", "test_threshold", "sustain")),
    "split": (_split, ("p", "operation", "train_frac", "data_seed")),
    "tokenizers.train": (_tokenizer, ("vocab_size",)),
    "packed": (_packed, ("tokens", "context_length")),
}
CASES = [(name, field) for name, (_, fields) in FUNCTIONS.items() for field in fields]


@pytest.mark.parametrize(("name", "field"), CASES, ids=[".".join(case) for case in CASES])
def test_a_number_is_taken_or_refused_in_words(name, field, backpack, model, monkeypatch) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda on=None: 10**9)
    function = FUNCTIONS[name][0](backpack, model)
    function()
    escaped = []
    for value in (*NUMBERS, *OTHERS):
        try:
            function(**{field: value})
        except (CutawayError, TypeError):
            continue
        except Exception as error:
            escaped.append(f"{field} = {value!r}: {type(error).__name__}: {str(error)[:120]}")
    assert not escaped, "\n".join(escaped)
