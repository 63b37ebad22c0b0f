"""Every public function that takes columns gives for each kind of column what it gives for a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from column_kinds import KINDS, TABLES
from cutaway.base.errors import UserError
from cutaway.stats import bootstrap, logistic, scores, softmax

LABELS = [0, 1, 1, 0, 1, 0, 0, 1]
CALLED = [0, 1, 0, 0, 1, 1, 0, 1]
CHANCES = [0.1, 0.8, 0.4, 0.3, 0.9, 0.6, 0.2, 0.7]
GROUPS = [0, 0, 1, 1, 2, 2, 3, 3]
STATES = [[float(n % 3), float(n % 5) - n / 9] for n in range(8)]
Make = Callable[[list], Any]

DOORS: dict[str, Callable[[Make], Any]] = {
    **{
        name: lambda make, name=name: getattr(scores, name)(make(LABELS), make(CALLED))
        for name in ("accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1")
    },
    "confusion": lambda make: scores.confusion(make(LABELS), make(CALLED)).tp,
    "class_counts": lambda make: scores.class_counts(make(LABELS), make(CALLED), 2),
    **{
        name: lambda make, name=name: getattr(scores, name)(make(LABELS), make(CHANCES))
        for name in ("auroc", "average_precision", "brier", "expected_calibration_error")
    },
    "weighted": lambda make: scores.auroc(make(LABELS), make(CHANCES), make(CHANCES)),
    "mean_interval": lambda make: bootstrap.mean_interval(make(CHANCES), make(GROUPS))[1],
    "group_draws": lambda make: bootstrap.group_draws(make(GROUPS), 5)[1],
    "seed_interval": lambda make: torch.tensor(bootstrap.seed_interval(make(CHANCES))),
    "paired_difference": lambda make: torch.tensor(
        bootstrap.paired_difference(make(CHANCES), make(CALLED))
    ),
    "fit_logistic": lambda make: logistic.fit_logistic(STATES, make(LABELS)).weight,
    "fit_softmax": lambda make: softmax.fit_softmax(STATES, make(LABELS), 2).weight,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", DOORS)
def test_statistics_read_every_kind_of_column_by_position(door, kind) -> None:
    wanted, found = DOORS[door](torch.tensor), DOORS[door](KINDS[kind])
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("door", ["accuracy", "auroc", "mean_interval", "fit_logistic"])
def test_what_holds_no_numbers_is_refused_in_a_line(door) -> None:
    with pytest.raises(UserError, match="expected numbers"):
        DOORS[door](lambda values: [str(one) for one in values])


TOKENS = [3, 1, 4, 1, 5, 9]


@pytest.mark.parametrize("kind", [one for one in KINDS if one != "generator"])
def test_models_read_every_kind_of_tokens(kind, tiny_folder) -> None:
    from cutaway.activations.capture import capture
    from cutaway.nets.reference import open_model

    model = open_model(tiny_folder("llama"), device="cpu")
    row = KINDS[kind](TOKENS)
    wanted = model.logits(torch.tensor([TOKENS]))
    assert torch.equal(model.logits([row]), wanted)
    (site,) = (states := capture(model, [row], "1"))
    assert torch.equal(states[site], capture(model, torch.tensor([TOKENS]), "1")[site])


def test_rows_of_tokens_of_different_lengths_are_refused(tiny_folder) -> None:
    from cutaway.nets.reference import open_model

    model = open_model(tiny_folder("llama"), device="cpu")
    for tokens, said in (
        ([[1, 2], [3]], "tokens: rows of different lengths"),
        (["a text"], "tokens: .* expected numbers"),
        ([[1, None]], "tokens: .*expected numbers"),
        ([1, 2], "expected an integer tensor"),
        ([[0.5, 1.0]], "expected an integer tensor"),
    ):
        with pytest.raises(UserError, match=said):
            model.logits(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_draw_every_kind_of_column(kind) -> None:
    from cutaway.figures.bars import horizontal_bars
    from cutaway.figures.curves import Series, curves

    make = KINDS[kind]
    figure = curves([Series("a", make(GROUPS), make(CHANCES))], x_label="x", y_label="y")
    (line,) = (one for one in figure.axes[0].lines if len(one.get_xdata()) == len(GROUPS))
    assert list(line.get_ydata()) == pytest.approx(CHANCES)
    bars = horizontal_bars(make(GROUPS), make(CHANCES), x_label="x")
    assert [patch.get_width() for patch in bars.axes[0].patches] == pytest.approx(CHANCES)


@pytest.mark.parametrize("kind", TABLES)
def test_histories_and_tables_of_pictures_may_be_any_table(kind) -> None:
    from cutaway.grokking.phases import phases
    from cutaway.probes.states.report_rows import rows_of

    history = {
        "step": list(range(0, 1000, 50)),
        "train_acc": [min(1.0, n / 4) for n in range(20)],
        "test_acc": [min(1.0, n / 10) for n in range(20)],
    }
    assert phases(TABLES[kind](history)).grokked == 500
    rows = rows_of(TABLES[kind]({"site": ["embed", "residual.0"], "low": [0.1, 0.2]}))
    assert [row["site"] for row in rows] == ["embed", "residual.0"]
