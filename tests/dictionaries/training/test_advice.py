"""What a finished dictionary shows against its targets is told, with the field to change."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from cutaway.dictionaries.training.advice import advice, verdict
from cutaway.dictionaries.training.config import DictionaryConfig


def history(**last: float) -> pa.Table:
    """Ten evaluations that end, level, with these figures."""
    figures = {"val_l0": 64.0, "val_dead_share": 0.02, "val_normalised_mse": 0.05}
    figures |= {"val_explained_variance": 0.9, "seconds": 60.0, **last}
    return pa.Table.from_pylist([{"step": 100 * n, **figures} for n in range(10)])


SIZED = DictionaryConfig(target_l0=64, target_recon_loss=0.1).sized(768, 100_000)


def said(table: pa.Table, config: DictionaryConfig = SIZED, **how: Any) -> list[str]:
    return advice(table, config, held_out=500, **how)


def test_nothing_is_said_where_all_is_well() -> None:
    assert said(history()) == []
    assert [one.met for one in verdict(history().to_pylist()[-1], SIZED)] == [True] * 3


@pytest.mark.parametrize(
    ("figures", "what", "parts"),
    [
        (
            {"val_l0": 90.0},
            "features per token",
            ["90.0 features per token, 64 aimed at", "raise epochs (it is 20)"],
        ),
        ({"val_l0": 40.0}, "features per token", ["40.0 features per token"]),
        (
            {"val_dead_share": 0.3},
            "dead features",
            ["30% of the features", "500 held-out tokens", "d_hidden (it is 4096)"],
        ),
        (
            {"val_normalised_mse": 0.2},
            "normalised MSE",
            ["0.200 misses target_recon_loss = 0.1", "raise d_hidden (it is 4096)"],
        ),
    ],
)
def test_a_missed_target_is_told_with_the_field_to_change(figures, what, parts) -> None:
    (line,) = said(history(**figures))
    assert all(part in line for part in parts), line
    missed = [one.what for one in verdict(history(**figures).to_pylist()[-1], SIZED) if not one.met]
    assert missed == [what]


def test_the_best_step_is_what_is_told_of_and_named() -> None:
    rows = history(val_dead_share=0.3).to_pylist()
    rows[3] |= {"val_l0": 90.0, "val_dead_share": 0.02}
    table = pa.Table.from_pylist(rows)
    (line,) = said(table, best=300)
    assert line.startswith("at step 300, the best one, 90.0 features per token")
    for best in (900, None):
        (line,) = said(table, best=best)
        assert line.startswith("30% of the features")


def test_an_accepted_range_is_what_counts() -> None:
    config = DictionaryConfig(target_sparsity_min=50, target_sparsity_max=100).sized(768, 100_000)
    for l0, met in ((49.0, False), (51.0, True), (99.0, True), (101.0, False)):
        assert verdict({"val_l0": l0, "val_dead_share": 0.0}, config)[0].met is met


def test_a_run_that_has_not_converged_is_told_so() -> None:
    rows = history().to_pylist()
    for place, row in enumerate(rows):
        row["val_explained_variance"] = 0.5 + 0.03 * place
    (line,) = said(pa.Table.from_pylist(rows))
    assert "still rose by 0.030" in line
    assert "raise epochs (it is 20)" in line
    config = SIZED.model_copy(update={"max_steps": 1000})
    (line,) = said(pa.Table.from_pylist(rows), config, length="max_steps")
    assert "raise max_steps (it is 1000)" in line


def test_a_run_of_hours_is_told_what_is_faster() -> None:
    config = SIZED.model_copy(update={"batch_size": 256, "streaming": True})
    (line,) = said(history(seconds=7200.0), config)
    assert "took 2.0 hours, 32 states a second" in line
    assert "a larger batch_size (it is 256), a store" in line


def test_features_that_fired_in_training_are_looked_for_on_more_states_first() -> None:
    table = history(val_dead_share=0.3, dead_share=0.01)
    config = SIZED.model_copy(update={"dead_after": 1_000_000})
    (line,) = advice(table, config, held_out=16_384)
    assert "so read more of them first: raise eval_tokens (it is 16,384); or give more" in line
    (line,) = said(table, config)  # all 500 there are
    assert "so read more of them first: give more text, or raise validation_fraction" in line
    (line,) = said(history(val_dead_share=0.3, dead_share=0.3), config)
    assert "first" not in line


def test_each_figure_is_under_its_own_name() -> None:
    (line,) = said(history(val_normalised_mse=0.2, val_l0=60.5))
    assert "at 60.5 features per token" in line
    assert "target_l0 (it is 64)" in line
    rows = history(val_normalised_mse=0.2).to_pylist()
    for place, row in enumerate(rows):
        row["val_explained_variance"] = 0.5 + 0.03 * place
    first, _ = said(pa.Table.from_pylist(rows))
    assert "raise epochs (it is 20), d_hidden (it is 4096) or target_l0" in first
    topk = SIZED.model_copy(update={"architecture": "topk"})
    (line,) = said(history(val_l0=40.0), topk)
    assert "fewer are positive than asked for; lower target_l0 (it is 64)" in line
    (line,) = said(history(val_l0=90.0), topk)
    assert "inference threshold" in line
    assert "raise epochs" in line
