"""Pictures of probes show what their tables hold, whatever is missing from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cutaway.base.errors import UserError
from cutaway.figures.look import save
from cutaway.probes.charts.report import (
    CONTROLS,
    accuracy_by_layer,
    confusion_figure,
    probes_figures,
    reliability_diagram,
)
from cutaway.probes.states.report_rows import best_site
from cutaway.runs.record import RunRecord

LAYERED = ("shuffled", "token_type", "untrained", "mass_mean")


def layer_rows(sites: Sequence[str], **changes: Any) -> list[dict[str, Any]]:
    return [
        {"step": 0, "site": site, "layer": -1 if site == "embed" else int(site.split(".")[1]),
         "method": "exact", "balanced_accuracy": 0.7 + 0.02 * index, "low": 0.68 + 0.02 * index,
         "high": 0.72 + 0.02 * index, "validation_balanced_accuracy": 0.7, **changes}
        for index, site in enumerate(sites)
    ]  # fmt: skip


def control_rows(sites: Sequence[str]) -> list[dict[str, Any]]:
    rows = [
        {**row, "control": name, "balanced_accuracy": 0.5 + 0.03 * place, "low": 0.48, "high": None}
        for place, name in enumerate(LAYERED)
        for row in layer_rows(sites)
    ]
    return rows + [
        {"step": 0, "site": None, "layer": None, "control": name, "balanced_accuracy": value,
         "low": None, "high": math.nan}
        for name, value in (("current_token", 0.66), ("model", 0.91))
    ]  # fmt: skip


def bin_rows(site: str, predicted: Sequence[float], observed: Sequence[float]):
    return [
        {"step": 0, "site": site, "bin": index, "count": 10 ** (4 - index % 4), "predicted": p,
         "observed": y, "low": max(0.0, y - 0.02), "high": min(1.0, y + 0.03)}
        for index, (p, y) in enumerate(zip(predicted, observed, strict=True))
    ]  # fmt: skip


def count_rows(site: str, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"step": 0, "site": site, "odds": odds, "label": label, "predicted": predicted,
         "count": 90 if label == predicted else 10}
        for odds in ("even", "natural")
        for label in names
        for predicted in names
    ]  # fmt: skip


def words(figure) -> set[str]:
    from matplotlib.text import Text

    return {text.get_text() for text in figure.findobj(Text) if text.get_text()}


@pytest.mark.parametrize("count", [2, 5, 26])
def test_every_layer_and_control_is_drawn_and_named(count: int, tmp_path) -> None:
    sites = [f"residual.{layer}" for layer in range(count)]
    figure = accuracy_by_layer(layer_rows(sites), control_rows(sites))
    save(figure, tmp_path / "layers.png")
    (axes,) = figure.axes
    lines = {tuple(line.get_ydata()) for line in axes.lines}
    assert tuple(row["balanced_accuracy"] for row in layer_rows(sites)) in lines
    assert (0.91, 0.91) in lines
    assert (0.5, 0.5) in {tuple(line.get_ydata()) for line in axes.lines}  # chance
    text = {word.replace("\n", " ") for word in words(figure)}
    assert {"probe", "chance", *(words for words, _ in CONTROLS.values())} <= text


def test_embeddings_are_layer_minus_one_of_the_residual_stream() -> None:
    figure = accuracy_by_layer(layer_rows(["embed", "residual.0", "residual.3"]))
    (axes,) = figure.axes
    assert axes.lines[0].get_xdata().tolist() == [-1, 0, 3]
    assert axes.get_xlabel() == "layer (−1: embeddings)"


def test_attention_and_mlp_have_charts_of_their_own() -> None:
    sites = ["embed", "residual.0", "residual.1", "attention.0", "attention.1", "mlp.0", "mlp.1"]
    figure = accuracy_by_layer(layer_rows(sites), control_rows(sites))
    assert [axes.get_title("left") for axes in figure.axes] == ["residual", "attention", "mlp"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert [axes.get_xlabel() for axes in figure.axes][1:] == ["layer", "layer"]


def test_one_layer_is_values_below_each_other(tmp_path) -> None:
    site = ["residual.6"]
    figure = accuracy_by_layer(layer_rows(site), control_rows(site))
    save(figure, tmp_path / "one.png")
    (axes,) = figure.axes
    assert len(axes.get_yticks()) == 7
    assert {"0.700", "0.910", "0.660"} <= words(figure)
    assert axes.get_title("left") == "Balanced accuracy, residual.6"


def test_missing_controls_and_intervals_leave_the_rest(tmp_path) -> None:
    rows = layer_rows(["residual.0", "residual.1", "residual.2"], low=math.nan, high=None)
    rows[1]["balanced_accuracy"] = math.nan
    figure = accuracy_by_layer(rows, classes=4)
    save(figure, tmp_path / "layers.png")
    (axes,) = figure.axes
    assert not axes.collections  # no band
    assert axes.lines[0].get_xdata().tolist() == [0, 2]
    assert 0.25 in axes.lines[1].get_ydata()
    with pytest.raises(UserError, match="no layer has a balanced accuracy"):
        accuracy_by_layer(layer_rows(["embed"], balanced_accuracy=None))


def test_the_best_site_is_that_of_validation_before_test() -> None:
    rows = layer_rows(["residual.0", "residual.1"])
    rows[0]["validation_balanced_accuracy"] = 0.8
    assert best_site(rows) == "residual.0"
    rows = layer_rows(["residual.0", "residual.1"], validation_balanced_accuracy=None)
    assert best_site(rows) == "residual.1"
    assert best_site(None) is None


RARE = np.geomspace(0.001, 0.8, 12)
FAIR = np.linspace(0.2, 0.8, 12)


@pytest.mark.parametrize(("predicted", "scale"), [(RARE, "logit"), (FAIR, "linear")])
def test_reliability_stretches_its_axes_for_a_rare_class(predicted, scale: str, tmp_path) -> None:
    figure = reliability_diagram(bin_rows("residual.1", predicted, predicted * 0.9))
    save(figure, tmp_path / "reliability.png")
    above, axes = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == scale
    assert axes.get_xlim() == axes.get_ylim() == above.get_xlim()
    dots = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, np.stack([predicted, predicted * 0.9], 1))
    low, high = axes.get_xlim()
    assert low < predicted.min() < predicted.max() < high
    assert len(above.lines) == 12  # a count for each bin


def test_reliability_shows_what_its_axes_cannot_at_their_edge(tmp_path) -> None:
    rows = bin_rows("embed", [1e-9, 0.3, 1 - 1e-9], [0.0, 0.5, 1.0])
    axes = reliability_diagram(rows).axes[1]
    marks = [line.get_marker() for line in axes.lines if line.get_marker() in "ov^"]
    assert marks == ["v", "o", "^"]
    certain = reliability_diagram(bin_rows("embed", [0.0, 1.0], [0.0, 1.0]))
    save(certain, tmp_path / "certain.png")


@pytest.mark.parametrize(("count", "charts"), [(1, 1), (3, 3), (6, 6), (7, 1)])
def test_up_to_six_layers_are_beside_each_other_and_of_more_the_best(count, charts) -> None:
    sites = [f"residual.{layer}" for layer in range(count)]
    layers = layer_rows(sites)
    layers[-1]["validation_balanced_accuracy"] = 0.9
    rows = [row for site in sites for row in bin_rows(site, RARE, RARE)]
    figure = reliability_diagram(rows, layers)
    assert len(figure.axes) == 2 * charts
    assert any(sites[-1] in word for word in words(figure))


def test_confusion_tells_shares_and_counts_at_both_odds(tmp_path) -> None:
    rows = count_rows("residual.0", ["other", " the"])
    rows[7]["count"] = 30  # natural, label ' the' called ' the': 30 of 40
    figure = confusion_figure(rows, "residual.0")
    save(figure, tmp_path / "confusion.png")
    text = words(figure)
    assert {"90.0 %\n90", "75.0 %\n30", "25.0 %\n10", "␣the"} <= text
    assert "Even odds: balanced accuracy 0.900" in text
    assert f"Natural odds: accuracy {120 / 140:.3f}" in text
    with pytest.raises(UserError, match=r"no site 'residual.9'"):
        confusion_figure(rows, "residual.9")


def test_confusion_of_many_classes_has_whole_per_cent_only(tmp_path) -> None:
    names = [f"B-TYPE{index}" for index in range(9)]
    rows = [row for row in count_rows("mlp.1", names) if row["label"] != names[3]]
    rows += [row | {"count": 0} for row in count_rows("mlp.1", names) if row["label"] == names[3]]
    figure = confusion_figure(rows)
    save(figure, tmp_path / "confusion.png")
    assert not any("%\n" in word for word in words(figure))
    assert {"53", "6"} <= words(figure)  # 90 and 10 of 170


def test_all_pictures_come_from_tables_of_either_kind_and_from_runs() -> None:
    sites = ["residual.0", "residual.1"]
    tables = {
        "layers": layer_rows(sites),
        "controls": control_rows(sites),
        "reliability": [row for site in sites for row in bin_rows(site, RARE, RARE)],
        "confusion": [row for site in sites for row in count_rows(site, ["a", "b", "c"])],
    }
    every = {"accuracy_by_layer", "reliability", "confusion"}
    assert probes_figures(tables).keys() == every
    arrow = {name: pa.Table.from_pylist(rows) for name, rows in tables.items()}

    class Run:
        def read(self, table: str = "history") -> pa.Table | None:
            return arrow.get(table)

    figures = probes_figures(Run())
    assert figures.keys() == every
    chance = [list(line.get_ydata()) for line in figures["accuracy_by_layer"].axes[0].lines]
    assert [1 / 3, 1 / 3] in chance  # three classes
    assert probes_figures({"layers": tables["layers"]}).keys() == {"accuracy_by_layer"}
    assert probes_figures({}) == {}


def test_chance_is_named_beside_the_lines_and_not_on_one() -> None:
    sites = [f"residual.{layer}" for layer in range(4)]
    figure = accuracy_by_layer(layer_rows(sites), control_rows(sites))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    (chance,) = (text for text in axes.texts if text.get_text() == "chance")
    assert chance.get_window_extent().x0 > axes.get_window_extent().x1


def test_two_lines_across_at_one_height_are_both_seen() -> None:
    rows = [row for row in control_rows(["residual.0"]) if row["site"] is None]
    rows = [row | {"balanced_accuracy": 0.8} for row in rows]
    figure = accuracy_by_layer(layer_rows(["residual.0", "residual.1"]), rows)
    across = [line for line in figure.axes[0].lines if list(line.get_ydata()) == [0.8, 0.8]]
    patterns = {str(line._unscaled_dash_pattern) for line in across}
    assert len(patterns) == len(across) == 2


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ("documents", "95 % over documents"),
        ("stretches", "95 % over stretches of the test documents' text"),
        (None, "95 % interval"),
    ],
)
def test_a_note_says_what_intervals_are_over(over: str | None, said: str, tmp_path) -> None:
    changes = {} if over is None else {"interval_over": over}
    rows = layer_rows(["residual.0", "residual.1"], **changes)
    assert f"band: {said}" in words(accuracy_by_layer(rows))
    assert f"bar: {said}" in words(accuracy_by_layer(rows[:1]))
    both = [*rows, *layer_rows(["mlp.0", "mlp.1"], **changes)]
    figure = accuracy_by_layer(both, control_rows(["residual.0", "residual.1"]))
    save(figure, tmp_path / "kinds.png")
    assert f"band: {said}" in words(figure)
    bins = bin_rows("residual.0", [0.001, 0.3, 0.5], [0.0, 0.3, 0.5])
    (note,) = (word for word in words(reliability_diagram(bins, rows)) if "bin of" in word)
    assert f"bar: {said}" in note.replace("\n", " ")


def test_triangles_are_explained_where_there_are_any() -> None:
    def note(observed: Sequence[float]) -> str:
        figure = reliability_diagram(bin_rows("embed", [0.001, 0.3, 0.99], observed))
        (text,) = (word for word in words(figure) if "dot: a bin" in word)
        return text.replace("\n", " ")

    assert "▼▲ observed share 0 % or 100 %" in note([0.0, 0.5, 1.0])
    assert "▼ observed share 0 %" in note([0.0, 0.5, 0.9])
    assert "▼" not in note([0.002, 0.5, 0.9])


def test_labels_of_a_stretched_axis_do_not_touch() -> None:
    rows = [row for site in ("mlp.0", "mlp.1", "mlp.2")
            for row in bin_rows(site, [1e-5, 0.3, 0.995], [0.0, 0.3, 1.0])]  # fmt: skip
    figure = reliability_diagram(rows)
    figure.draw_without_rendering()
    for axes in (one for one in figure.axes if one.get_xlabel()):
        boxes = [text.get_window_extent() for text in axes.get_xticklabels() if text.get_text()]
        assert len(boxes) > 2
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_titles_name_the_task_and_the_model_of_a_run() -> None:
    sites = ["residual.0", "residual.1"]
    tables = {
        "layers": layer_rows(sites),
        "reliability": [row for site in sites for row in bin_rows(site, RARE, RARE)],
        "confusion": count_rows("residual.0", ["other", " the"]),
    }
    record = RunRecord(name="p", study="probe")
    assert "Balanced accuracy by layer" in words(
        probes_figures(tables, record=record)["accuracy_by_layer"]
    )
    record.resolved = {"task": "next", "target": " the", "classes": ["other", " the"]}
    record.parents = [{"kind": "run", "id": "/some/where/docs-gpt2"}]
    of = "next token ' the', docs-gpt2"
    figures = probes_figures(tables, record=record)
    assert f"Balanced accuracy by layer: {of}" in words(figures["accuracy_by_layer"])
    assert f"Reliability: {of}" in words(figures["reliability"])
    assert any(of in word for word in words(figures["confusion"]))
    record.resolved = {"task": "labels", "target": None, "classes": ["O", "PER"]}
    record.parents = [{"kind": "huggingface", "id": "EleutherAI/pythia-70m"}]
    figure = probes_figures(tables, record=record)["accuracy_by_layer"]
    assert "Balanced accuracy by layer: PER or O, pythia-70m" in words(figure)
