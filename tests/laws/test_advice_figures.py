"""A figure that advice prints under a field's name is that field's value, in every room."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cutaway.dictionaries.training.advice import advice as of_dictionary
from cutaway.dictionaries.training.config import DictionaryConfig
from cutaway.grokking.advice import advice as of_grokking
from cutaway.grokking.config import GrokkingConfig
from cutaway.language.advice import advice as of_language
from cutaway.language.config import LanguageConfig

_NUMBER = r"([0-9][0-9,.e+-]*[0-9]|[0-9])"
# `name (it is 3)`, `name is 3 of ...`, `name = 3`, `name (3)`
_FIGURE = re.compile(rf"\b([a-z][a-z0-9_]*) (?:\(it is |is |= |\(){_NUMBER}")
# `set name: 5 (it is 3)`, `set name to 5 (it is 3)`, `raise name to 1.0-2.0 (it is 0.1)`
_SET = re.compile(rf"\b([a-z][a-z0-9_]*)(?:: | to )[^,;:(]+ \(it is {_NUMBER}")


def figures(line: str) -> Iterator[tuple[str, float]]:
    for name, value in [*_FIGURE.findall(line), *_SET.findall(line)]:
        yield name, float(value.replace(",", ""))


def told(lines: list[str], config: Any) -> set[str]:
    """The fields that were printed with a figure; each as it is in the config."""
    fields = type(config).model_fields
    found = set()
    for line in lines:
        for name, value in figures(line):
            if name in fields:
                assert value == pytest.approx(getattr(config, name), rel=1e-5), line
                found.add(name)
        named = [name for name, _ in figures(line) if name in fields]
        assert len(named) >= line.count("(it is "), line  # none is of another thing
    return found


def test_dictionaries() -> None:
    seen: set[str] = set()
    levels = {
        "val_l0": (3.0, 17.0, 90.5, 400.0),
        "val_dead_share": (0.0, 0.4),
        "dead_share": (0.0, 0.4),
        "val_normalised_mse": (0.05, 0.7),
        "seconds": (60.0, 9000.0),
    }
    for values in itertools.product(*levels.values()):
        last = dict(zip(levels, values, strict=True))
        for rise, architecture in itertools.product((0.0, 0.05), ("jumprelu", "topk", "gated")):
            rows = [
                {"step": 100 * n, "val_explained_variance": 0.3 + rise * n, **last}
                for n in range(10)
            ]
            settings = {"lambda_sparse": 0.3} if architecture == "gated" else {"target_l0": 64}
            given = DictionaryConfig(
                architecture=architecture, target_recon_loss=0.1, dead_after=200_000, **settings
            )
            config = given.sized(768, 100_000)
            for held_out in (500, config.eval_tokens):
                lines = of_dictionary(pa.Table.from_pylist(rows), config, held_out=held_out)
                seen |= told(lines, config)
    assert {"target_l0", "d_hidden", "dead_after", "eval_tokens", "target_recon_loss"} <= seen


STEPS = np.arange(0, 2001, 50)


def test_grokking() -> None:
    seen: set[str] = set()
    ends = (0.1, 0.6, 1.0)
    for train, test, loss, rising in itertools.product(ends, ends, (0.0, 4.57), (False, True)):
        shape = np.linspace(0, 1, len(STEPS)) if rising else np.ones(len(STEPS))
        for fall in (1.0, 0.08):  # what becomes of it from the middle on
            later = np.where(STEPS > 1000, fall, 1.0)
            table = pa.table({
                "step": STEPS,
                "train_acc": train * shape * later,
                "test_acc": test * shape * later,
                "train_loss": np.full(len(STEPS), loss),
            })  # fmt: skip
            for decay, lr, warm, p in itertools.product(
                (0.0, 1e-3, 5.0), (1e-7, 3e-3), (0, 4000), (17, 97)
            ):
                config = GrokkingConfig(
                    weight_decay=decay, lr=lr, warmup_epochs=warm, p=p, hidden_dim=60, beta2=0.999
                )
                seen |= told(of_grokking(table, config), config)
    assert {"weight_decay", "lr", "hidden_dim", "warmup_epochs", "beta2"} <= seen


@pytest.mark.parametrize("curve", ["flat", "rose", "overfits", "falls", "coarse"])
def test_language(curve: str) -> None:
    losses = {
        "flat": [9.0] * 8,
        "rose": [5.0, 4.0, 9.0, 12.0, 30.0],
        "overfits": [9.0, 5.0, 4.0, 4.5, 5.0, 6.0],
        "falls": [9.0, 7.0, 6.0, 5.0, 4.0, 3.0],
        "coarse": [9.0, 3.0, float("nan")],
    }[curve]
    table = pa.table({"step": [100 * n for n in range(len(losses))], "val_loss": losses})
    seen: set[str] = set()
    for decay, rate in itertools.product((0.1, 10.0), (3e-4, 0.3)):
        config = LanguageConfig(
            data="docstrings", model="gpt2", weight_decay=decay, learning_rate=rate
        )
        lines = of_language(table, None, config)
        assert lines
        seen |= told(lines, config)
        if curve == "flat":
            first = lines[0].partition("): ")[2]
            wanted = "weight_decay" if decay > 1 else "learning_rate"
            word = "lower" if decay > 1 or rate > 0.1 else "raise"
            assert first.startswith(f"{word} {wanted} (it is ")
    if curve == "falls":
        assert not seen
