"""After a run: what it saw, with the field to change; nothing where nothing is wrong."""

from __future__ import annotations

import pyarrow as pa
import pytest

from cutaway.language.advice import advice
from cutaway.language.config import LanguageConfig

CONFIG = LanguageConfig(max_iters=1000, eval_interval=100)


def history(losses: list[float], every: int = 100) -> pa.Table:
    return pa.table({"step": [i * every for i in range(len(losses))], "val_loss": losses})


def words(activations: list[float]) -> pa.Table:
    return pa.table({"step": [100] * len(activations), "activation": activations})


GOOD = history([9.0, 8.0, 7.0, 6.5, 6.2, 6.0, 5.9, 5.85, 5.82, 5.8, 5.79])


def test_a_good_run_is_left_alone() -> None:
    assert advice(GOOD, words([2.0, 1.4, 0.9]), CONFIG) == []


@pytest.mark.parametrize(
    ("table", "said", "field"),
    [
        (history([9.0] * 11), "flat", "learning_rate"),
        (history([6.2, 7.0, 50.0, 153.0, 153.0, 153.8]), "diverged", "lower learning_rate"),
        (history([9.0, 7.0, 6.99]), "too coarse", "eval_interval"),
        (history([9.0, 6.0, 5.0, 5.2, 5.5, 6.0]), "rose from 5.000 at step 200", "max_iters"),
        (history([9.0, 8.0, 7.0, 6.0, 5.0, 4.0]), "still falling", "--extra-steps"),
    ],
)
def test_curves(table, said, field) -> None:
    notes = advice(table, words([2.0, 1.0]), CONFIG)
    assert any(said in note and field in note for note in notes), notes


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        (None, {}, "raise eval_iters"),
        (words([2.0, 1.0]), {"words_interval": 5000}, "words_interval"),
        (words([1.01, 1.005, 1.0]), {}, "within"),
    ],
)
def test_no_words_and_why(table, change, said) -> None:
    notes = advice(GOOD, table, CONFIG.model_copy(update=change))
    assert any(said in note for note in notes), notes


def test_a_gpt2_run_is_not_scolded_for_having_no_words() -> None:
    assert advice(GOOD, None, CONFIG.model_copy(update={"model": "gpt2"})) == []
