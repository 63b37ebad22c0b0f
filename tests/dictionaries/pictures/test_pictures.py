from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.patches import ConnectionPatch

from cutaway.base.errors import UserError
from cutaway.dictionaries.pictures.runs import NAMES, PICTURES
from cutaway.dictionaries.pictures.sweeps import sweep_pictures
from cutaway.evaluations.evaluate import DENSITY_EDGES, Evaluation
from cutaway.evaluations.pictures import density, ev_against_l0, layer_bars
from cutaway.figures.look import save
from cutaway.runs.record import RunRecord, write

STEPS = np.arange(0, 1000, 20)


@dataclass
class Log:
    name: str
    history: pa.Table
    path: Path = field(default=Path("nowhere"))


def history(best: float = 0.9, **changes) -> pa.Table:
    fall = np.exp(-STEPS / 200)
    now_and_then = [value % 200 == 0 for value in STEPS]
    columns = {
        "train_loss": 5 + 80 * fall,
        "reconstruction_loss": 4 + 78 * fall,
        "sparsity_loss": 1 + 0 * fall,
        "auxiliary_loss": [None, *[0.2] * (len(STEPS) - 1)],
        "l0": 64 + 60 * fall,
        "dead_share": 0.1 * fall,
        "sparsity_weight": 2 - fall,
        "threshold": 1 - 0.5 * fall,
        "tau": 0.1 + 0.2 * fall,
        "pair_cosine_mean": 0.2 + 0.1 * fall,
        "pair_cosine_std": 0.1 + 0 * fall,
        "pair_overlap": 0.5 - 0.2 * fall,
    }
    for name, values in {
        "val_l0": 64 + 50 * fall,
        "val_explained_variance": best - fall,
        "val_normalised_mse": 0.1 + fall,
        "val_dead_share": 0.2 * fall,
    }.items():
        columns[name] = [float(v) if due else None for v, due in zip(values, now_and_then)]
    return pa.table({"step": STEPS, **(columns | changes)})


def evaluation(
    site: str = "residual.0", l0: float = 64.0, ev: float = 0.9, **changes
) -> Evaluation:
    names = ("l0", "explained_variance", "normalised_mse", "cosine", "ce", "ce_recovered")
    base = dict.fromkeys((*names, "kl", "kl_recovered"), 0.5) | {"l0": round(l0)}
    counts = np.zeros(len(DENSITY_EDGES) - 1, int)
    counts[10:14] = [10, 20, 30, 40]
    figures = {
        **dict.fromkeys(("ce_clean", "ce_spliced", "ce_zero", "ce_mean", "kl", "kl_zero"), 1.0),
        **dict.fromkeys(("dead_share", "normalised_mse", "kl_recovered"), 0.1),
        **dict.fromkeys(("cosine", "ce_recovered", "explained_variance_with_first"), 0.95),
    }
    made = Evaluation(
        site=site,
        architecture="jumprelu",
        d_hidden=200,
        tokens=1000,
        l0=l0,
        explained_variance=ev,
        density_counts=counts.tolist(),
        baselines={
            "pca": base,
            "random": base | {"explained_variance": 0.1},
            "random_scaled": base | {"explained_variance": 0.3},
        },
        **figures,
    )
    return replace(made, **changes)


def lines(axes) -> list:
    return [line for line in axes.lines if len(line.get_xdata()) and line.get_linewidth() > 0.5]


def words(figure) -> set[str]:
    found = {text.get_text() for axes in figure.axes for text in axes.texts}
    for box in figure.legends:
        found |= {text.get_text() for text in box.get_texts()}
    return found


# the map of pairs needs a run's table: in test_experiments_pictures.py
@pytest.mark.parametrize("name", [name for name in PICTURES if name != "pair_cosines"])
def test_every_picture_of_a_run_is_drawn_and_saved(name, tmp_path):
    figure = PICTURES[name](Log("a run", history()))
    path = save(figure, tmp_path / f"{name}.png")
    assert path.stat().st_size > 5000


@pytest.mark.parametrize("name", PICTURES)
def test_a_run_that_recorded_none_of_it_has_no_picture(name):
    assert PICTURES[name](Log("other", pa.table({"step": [0, 1], "seconds": [0.0, 1.0]}))) is None


def test_the_loss_shows_its_parts_and_no_penalty_that_was_always_zero():
    figure = PICTURES["loss"](Log("run", history(auxiliary_loss=np.zeros(len(STEPS)))))
    assert [axes.get_ylabel() for axes in figure.axes] == [NAMES["loss"], "penalties"]
    assert {"whole loss", "squared error", "sparsity"} <= words(figure)
    assert "dead features" not in words(figure)
    drawn = [line.get_ydata()[-1] for line in lines(figure.axes[0])]
    assert drawn == pytest.approx([5 + 80 * np.exp(-980 / 200), 4 + 78 * np.exp(-980 / 200)])


def test_a_loss_that_comes_and_goes_has_gaps_and_is_left_out_of_the_whole():
    revived = [0.2 if place % 7 in (1, 2) else None for place in range(len(STEPS))]
    whole = 5 + 80 * np.exp(-STEPS / 200)
    combed = whole + [one or 0.0 for one in revived]
    figure = PICTURES["loss"](
        Log("run", history(auxiliary_loss=revived, train_loss=combed.tolist()))
    )
    assert {"whole loss, no AuxK", "dead features"} <= words(figure)
    assert "whole loss" not in words(figure)
    assert lines(figure.axes[0])[0].get_ydata() == pytest.approx(whole)
    (drawn,) = (line for line in lines(figure.axes[1]) if np.isnan(line.get_ydata()).any())
    assert np.isfinite(drawn.get_ydata()).tolist() == [one is not None for one in revived]


def test_l0_is_drawn_with_the_target_its_run_recorded(tmp_path):
    record = RunRecord(name="r", study="dictionary", resolved={"settings": {"target_l0": 64.0}})
    write(record, tmp_path)
    figure = PICTURES["l0"](Log("run", history(), tmp_path))
    assert "target 64" in words(figure)
    levels = [line for line in figure.axes[0].lines if list(line.get_ydata()) == [64.0, 64.0]]
    assert len(levels) == 1
    assert "target 64" not in words(PICTURES["l0"](Log("foreign", history())))


def test_a_price_that_never_moved_is_not_drawn():
    moving = PICTURES["threshold"](Log("run", history()))
    fixed = PICTURES["threshold"](Log("run", history(sparsity_weight=np.full(len(STEPS), 3.0))))
    assert len(moving.axes) == 2
    assert [axes.get_ylabel() for axes in fixed.axes] == [NAMES["threshold"]]


def test_a_sweep_shows_where_its_runs_ended_by_l0():
    logs = [Log("a", history(0.9)), Log("b", history(0.8, val_l0=np.full(len(STEPS), 32.0)))]
    figures = sweep_pictures(logs, ["one", "two"])
    assert set(figures) == {"explained_variance", "explained_variance_by_l0"}
    (first, second) = lines(figures["explained_variance_by_l0"].axes[0])
    assert second.get_xdata().tolist() == [32.0]
    assert first.get_ydata().tolist() == pytest.approx([0.9 - np.exp(-800 / 200)])
    assert sweep_pictures([Log("empty", pa.table({"step": [0]}))], ["one"]) == {}


def test_density_is_the_share_of_features_by_how_often_they_fire():
    figure = density([evaluation(), evaluation("residual.1")])
    first = lines(figure.axes[0])[0]
    assert first.get_ydata().sum() == pytest.approx(100 / 200)  # the rest is dead
    assert first.get_ydata().max() == pytest.approx(70 / 200)
    low, high = DENSITY_EDGES[12], DENSITY_EDGES[14]
    peak = first.get_xdata()[first.get_ydata().argmax()]
    assert low < peak < high
    assert {"residual.0", "residual.1"} <= words(figure)


def test_dictionaries_of_one_site_are_told_apart():
    figure = density([evaluation(l0=16), evaluation(l0=64)])
    assert {"residual.0 L0 16", "residual.0 L0 64"} <= words(figure)


def test_points_of_a_site_are_joined_by_rising_l0_and_baselines_stand_beside():
    found = [evaluation(l0=64, ev=0.9), evaluation(l0=16, ev=0.6), evaluation("residual.1", l0=32)]
    figure = ev_against_l0(found)
    drawn = [line.get_xdata().tolist() for line in lines(figure.axes[0])]
    assert [16.0, 64.0] in drawn
    assert [32.0] in drawn
    assert {"jumprelu", "PCA", "random, scaled", "random"} <= words(figure)
    assert {"residual.0", "residual.1"} <= words(figure)
    axes = figure.axes[0]
    assert axes.get_title(loc="left") or axes.get_title()
    assert not any(isinstance(one, ConnectionPatch) for one in axes.get_children())


def test_features_per_token_by_layer_begin_at_0_with_their_target():
    found = [evaluation("residual.0", l0=8.0), evaluation("residual.1", l0=8.07)]
    for target, names in ((8.0, {"target 8"}), (None, set())):
        figure = layer_bars(found, target)
        (axes,) = (one for one in figure.axes if one.get_ylabel() == NAMES["l0"])
        assert axes.get_ylim()[0] == 0
        assert axes.get_ylim()[1] > 8.5
        assert {text.get_text() for text in axes.texts} == names


def test_ticks_of_densities_are_all_powers_of_ten():
    axes = density([evaluation(density_counts=[1] * (len(DENSITY_EDGES) - 1))]).axes[0]
    ticks = axes.xaxis.get_major_formatter().format_ticks([1e-4, 1e-3, 1e-2, 0.1])
    assert ticks == ["10⁻⁴", "10⁻³", "10⁻²", "10⁻¹"]


def test_layers_are_drawn_in_order_at_whole_numbers():
    figure = layer_bars([evaluation("residual.1", ev=0.7), evaluation("embed", ev=0.9)])
    first = lines(figure.axes[0])[0]
    assert first.get_xdata().tolist() == [-1, 1]
    assert first.get_ydata().tolist() == [0.9, 0.7]
    for axes in figure.axes:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
    assert {"jumprelu", "PCA", "random, scaled"} <= words(figure)


def test_one_site_is_bars_with_their_numbers():
    figure = layer_bars([evaluation(ev=0.9)])
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names[0] == "jumprelu"
    assert names[1] == "PCA, L0 64"
    assert "0.900" in words(figure)


def test_what_a_model_does_not_have_is_left_out():
    nothing = {
        name: dict.fromkeys(one, float("nan")) | {"l0": 64, "explained_variance": 0.5}
        for name, one in evaluation().baselines.items()
    }
    found = [
        evaluation(site, ce_recovered=float("nan"), baselines=nothing)
        for site in ("residual.0", "residual.1")
    ]
    labels = [axes.get_ylabel() for axes in layer_bars(found).axes]
    assert "explained variance" in labels
    assert "cross-entropy recovered" not in labels


@pytest.mark.parametrize("draw", [density, ev_against_l0, layer_bars])
def test_nothing_to_draw_is_said(draw):
    with pytest.raises(UserError, match="nothing to draw"):
        draw([])
