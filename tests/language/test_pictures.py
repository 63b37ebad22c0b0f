from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cutaway.base.errors import UserError
from cutaway.figures.look import save
from cutaway.language.pictures import (
    PICTURES,
    last_reading,
    loss_curves,
    metric_curves,
    weight_norms,
    words_bars,
    words_evolution,
)
from cutaway.runs.foreign import open_log


@dataclass
class Log:
    name: str
    history: pa.Table
    words: pa.Table | None = None


def history(steps: int = 1000, final: float = 4.0, **columns) -> pa.Table:
    at = np.arange(0, steps + 1, 10)
    noise = np.random.default_rng(0).normal(0, 0.05, at.size)
    smooth = final + 5 * np.exp(-np.sqrt(at / 60))
    validation = [float(v) if s % 100 == 0 else None for s, v in zip(at, smooth, strict=True)]
    return pa.table({"step": at, "train_loss": smooth + noise, "val_loss": validation, **columns})


def words(readings: dict[int, list[tuple]]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"step": step, "token_id": token, "word": word, "activation": activation}
            for step, rows in readings.items()
            for token, word, activation in rows
        ]
    )


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_one_run_names_training_and_validation_with_their_last_values():
    log = Log("tiny", history())
    figure = loss_curves([log])
    last = log.history["val_loss"].to_pylist()[-1]
    train = log.history["train_loss"].to_pylist()[-1]
    assert texts(figure) == [f"training {train:.2f}", f"validation {last:.2f}"]
    light, strong = figure.axes[0].lines[:2]
    assert strong.get_linewidth() > 1.5 * light.get_linewidth()
    assert len(strong.get_xdata()) == 11  # rows without an evaluation are no gaps
    assert np.isfinite(strong.get_ydata()).all()


def test_many_runs_have_a_colour_each_and_say_their_validation_loss():
    logs = [Log("a", history(final=4.0)), Log("b", history(final=4.5))]
    figure = loss_curves(logs, ["Backpack", "GPT-2"])
    lasts = [log.history["val_loss"].to_pylist()[-1] for log in logs]
    assert texts(figure) == [f"Backpack {lasts[0]:.2f}", f"GPT-2 {lasts[1]:.2f}"]
    colors = [line.get_color() for line in figure.axes[0].lines[:4]]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    key = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert key == ["validation", "training"]


def test_a_run_without_validation_is_named_by_its_training_loss():
    only = Log("foreign", pa.table({"step": [0, 1], "train_loss": [3.0, 2.5]}))
    null = Log("ours", history())
    assert texts(loss_curves([only])) == ["training 2.50"]
    assert "foreign 2.50" in texts(loss_curves([null, only]))


def test_a_loss_that_ended_as_nan_is_named_by_its_last_finite_value():
    log = Log("x", pa.table({"step": [0, 1, 2], "train_loss": [3.0, 2.5, float("nan")]}))
    assert texts(loss_curves([log])) == ["training 2.50"]


@pytest.mark.parametrize(
    ("logs", "options", "message"),
    [
        ([], {}, "no runs"),
        ([Log("a", history())], {"labels": ["x", "y"]}, "2 given for 1 runs"),
        ([Log("a", history())], {"labels": []}, "0 given for 1 runs"),
        ([Log("a", history())], {"x": "stepp"}, "a: no column 'stepp'.*did you mean 'step'"),
        ([Log("a", pa.table({"step": [1], "test_acc": [0.5]}))], {}, "a: no finite train_loss"),
        ([Log("a", pa.table({"step": [1], "val_loss": [float("nan")]}))], {}, "a: no finite"),
    ],
)
def test_loss_curves_refuse_what_they_cannot_draw(logs, options, message):
    with pytest.raises(UserError, match=message):
        loss_curves(logs, **options)


def test_any_recorded_number_can_be_drawn_and_others_are_refused_by_name():
    rates = pa.array(np.linspace(1e-3, 1e-5, 101))
    log = Log("a", history(learning_rate=rates, note=pa.array(["x"] * 101)))
    figure = metric_curves([log, log], "learning_rate", ["one", "two"])
    assert figure.axes[0].get_ylabel() == "learning rate"
    assert sorted(texts(figure)) == ["one", "two"]
    assert metric_curves([log], "train_loss").axes[0].get_ylabel().startswith("training loss")
    with pytest.raises(UserError, match=r"a: no column 'learnig_rate'.*'learning_rate'"):
        metric_curves([log], "learnig_rate")
    with pytest.raises(UserError, match="no column 'note' of numbers"):
        metric_curves([log], "note")


def test_words_are_the_top_of_the_last_reading_and_absent_ones_leave_gaps():
    table = words(
        {
            50: [(1, " the", 9.0), (2, "of", 1.5)],
            100: [(2, "of", 2.0), (3, "\n", 3.0)],
            150: [(2, "of", 2.5), (3, "\n", 2.0), (4, "of", 1.2), (2, "of", 0.5)],
        }
    )
    assert [row["token_id"] for row in last_reading(table)] == [2, 3, 4]
    figure = words_evolution(table, top=2)
    assert texts(figure)[:2] == ["1 = attended to as by chance", "of"]
    of, newline = figure.axes[0].lines[:2]
    assert of.get_ydata().tolist() == [1.5, 2.0, 2.5]  # the strongest sense counts
    assert np.isnan(newline.get_ydata()[0])
    assert newline.get_ydata()[1:].tolist() == [3.0, 2.0]
    assert "chance" not in " ".join(texts(words_evolution(table, chance=False)))
    same = texts(words_evolution(table, top=3, chance=False))
    assert sorted(same) == ["of #2", "of #4", "⏎"]


def test_words_as_bars_show_whitespace_and_stop_at_top():
    rows = [{"word": " the", "activation": 2.0}, {"word": "of", "activation": 1.0}]
    axes = words_bars(rows, top=1).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["␣the"]


def test_no_words_is_refused():
    empty = words({1: [(1, "a", 1.0)]}).slice(0, 0)
    for draw in (words_evolution, last_reading):
        with pytest.raises(UserError, match="no words"):
            draw(empty)
    with pytest.raises(UserError, match="no words"):
        words_bars([])


def norms(blocks: int) -> pa.Table:
    names = [f"blocks.{i}.{part}" for i in range(blocks) for part in ("attention", "mlp")]
    columns = {f"weight_norm.{name}": pa.array([3.0, None, 4.0]) for name in ["embedding", *names]}
    return pa.table({"step": [0, 10, 20], "gradient_norm": [3.0, 1.0, 0.2], **columns})


def test_norms_of_many_blocks_add_up_to_one_line_each():
    few = weight_norms(norms(2))
    assert len(few.axes[0].lines) == 5
    many = weight_norms(norms(9))
    lines = {text.get_text(): i for i, text in enumerate(many.axes[0].texts)}
    assert sorted(lines) == ["attention, all blocks", "embedding", "mlp, all blocks"]
    attention = many.axes[0].lines[lines["attention, all blocks"]]
    assert attention.get_ydata().tolist() == pytest.approx([9.0, 12.0])  # √(9 · 3²), √(9 · 4²)
    assert attention.get_xdata().tolist() == [0, 20]
    with pytest.raises(UserError, match="gradient_norm"):
        weight_norms(history())


LOGS = {
    "full": Log("full", norms(2), words({10: [(1, "a", 2.0)]})),
    "losses only": Log("losses", history()),
    "one point": Log("point", pa.table({"step": [5], "train_loss": [2.0], "val_loss": [2.1]})),
    "two thousand evaluations": Log("long", history(200_000)),
    "nothing": Log("nothing", pa.table({"step": pa.array([], pa.int64())})),
}


@pytest.mark.parametrize("kind", LOGS)
@pytest.mark.parametrize("picture", PICTURES)
def test_every_picture_renders_or_says_there_is_nothing(picture, kind, tmp_path):
    figure = PICTURES[picture](LOGS[kind])
    if figure is not None:
        assert save(figure, tmp_path / f"{picture}.png").stat().st_size > 1000
    expected = {
        "loss": kind not in ("full", "nothing"),
        "weight_norms": kind == "full",
    }.get(picture, kind == "full")
    assert (figure is not None) == expected


def test_a_training_log_written_by_anyone_draws(tmp_path):
    file = tmp_path / "training_log.json"
    file.write_text(
        '{"iterations": [0, 100, 200], "train_loss": [4.5, 3.2, 2.8], "val_loss": [4.6, 3.3, 2.9],'
        ' "top_activating_words": [{"iteration": 100, "words":'
        ' [{"token_id": 123, "word": "hello", "activation": 0.85}]}]}'
    )
    log = open_log(Path(file))
    assert texts(loss_curves([log])) == ["training 2.80", "validation 2.90"]
    assert "hello" in texts(words_evolution(log.words))
