"""Probes beside their controls: what is planted is found, and where nothing is nothing is claimed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.nets.untrained import untrained
from cutaway.probes.data.examples import ProbeData
from cutaway.probes.data.request import CONTROLS, Asked, chosen_controls
from cutaway.probes.fitting import controls
from cutaway.probes.fitting.layers import SCORES, probe_layers
from cutaway.probes.fitting.methods import fit_mass_mean
from cutaway.probes.scores.evaluation import drawn_groups, judge
from cutaway.probes.states import inputs as inputs_module
from cutaway.probes.states.collecting import States, states_of
from cutaway.probes.states.inputs import Inputs, inputs_of
from probes.planted import SITES, planted, planted_data

NAMES = [str(site) for site in SITES]
STRENGTHS = (1e-2, 1e-1, 1.0)


@pytest.fixture(scope="module")
def model(gpt2_run: Path) -> Model:
    return open_model(gpt2_run, device="cpu")


@pytest.fixture(scope="module")
def data(model: Model) -> ProbeData:
    return planted_data(model.reads)


@pytest.fixture(scope="module")
def real(model: Model, probe_data: Path) -> Inputs:
    """Examples of " the" with the tiny model's own states."""
    return inputs_of(ProbeData.load(probe_data).reading(), model, "embed,0")


def asked(*controls: str, **over: Any) -> Asked:
    return Asked(**{"strengths": STRENGTHS, "controls": controls, **over})


def rows_of(found, control: str) -> list[dict[str, Any]]:
    return [row for row in found.controls if row["control"] == control]


# -- what is there is found ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "mass_mean"])
def test_a_planted_direction_is_found_at_the_layers_it_was_planted_in(model, data, method) -> None:
    signal = (0.0, 1.0, 0.0, 3.0)
    found = probe_layers(planted(model, data, signal=signal), asked(method=method))
    by_site = {row["site"]: row for row in found.layers}
    assert list(by_site) == NAMES
    for site, size in zip(NAMES, signal, strict=True):
        row = by_site[site]
        if size:
            # two Gaussians, their means ‖size·(d₁ − d₀)‖ apart: Φ of half that is the best there is
            direction = found.probe(site).direction
            half = size * float(directions(data).diff(dim=0).norm()) / 2
            best = float(torch.distributions.Normal(0, 1).cdf(torch.tensor(half)))
            assert row["balanced_accuracy"] == pytest.approx(best, abs=0.06)
            assert row["low"] < row["balanced_accuracy"] < row["high"]
            truth = torch.nn.functional.normalize(directions(data).diff(dim=0)[0], dim=0)
            assert float(direction @ truth) > 0.85
        else:
            assert row["low"] - 0.03 < 0.5 < row["high"] + 0.03
    assert found.best.about.site == "residual.0"


def directions(data: ProbeData) -> torch.Tensor:
    """Those that `Planted` plants."""
    fixed = torch.Generator().manual_seed(99)
    of_class = torch.randn(len(data.classes), 12, generator=fixed)
    return torch.nn.functional.normalize(of_class - of_class.mean(0), dim=-1)


def test_probabilities_are_those_of_natural_shares(model, data) -> None:
    found = probe_layers(planted(model, data, signal=(1.0,) * 4), asked())
    for row in found.layers:
        # balanced training alone would put half of the mass on what is 30 %
        assert row["expected_calibration_error"] < 0.08
        mean = sum(
            one["count"] * one["predicted"]
            for one in found.reliability
            if one["site"] == row["site"]
        )
        assert mean / row["n_test"] == pytest.approx(0.3, abs=0.04)
    assert found.best.about.prior == pytest.approx((0.7, 0.3))
    assert found.best.about.trained_prior == pytest.approx((0.5, 0.5))


def test_several_classes_are_found_too(model) -> None:
    several = planted_data(model.reads, classes=3)
    found = probe_layers(planted(model, several, signal=(0, 0, 0, 4.0)), asked("shuffled"))
    assert found.layers[-1]["balanced_accuracy"] > 0.9
    assert found.layers[0]["balanced_accuracy"] == pytest.approx(1 / 3, abs=0.09)
    for row in rows_of(found, "shuffled"):
        assert row["balanced_accuracy"] == pytest.approx(1 / 3, abs=0.07)
    assert found.layers[-1]["specificity"] != found.layers[-1]["specificity"]  # NaN: of two only
    assert {row["predicted"] for row in found.confusion} == {"a", "b", "c"}


def test_the_best_layer_is_the_best_on_validation_whatever_test_says(model, data) -> None:
    found = probe_layers(
        planted(model, data, signals={
            "train": (2.0,) * 4, "validation": (1.0, 3.0, 0.0, 0.0), "test": (0, 0, 0, 4.0)
        }),
        asked(),
    )  # fmt: skip
    scores = {row["site"]: row["balanced_accuracy"] for row in found.layers}
    assert max(scores, key=scores.__getitem__) == "residual.0"
    assert found.best.about.site == "attention.0"


# -- where there is nothing ------------------------------------------------------------------------


def test_shuffled_labels_score_at_chance_within_their_interval(model) -> None:
    inside, scores, told = [], [], []
    for seed in range(6):
        data = planted_data(model.reads, seed=seed)
        world = planted(model, data, signal=(2.0,) * 4, by_token=0.5, seed=seed)
        found = probe_layers(world, asked("shuffled", seed=seed))
        told += [row["balanced_accuracy"] for row in found.layers]
        for row in rows_of(found, "shuffled"):
            inside.append(row["low"] <= 0.5 <= row["high"])
            scores.append(row["balanced_accuracy"])
            assert row["low"] < row["balanced_accuracy"] < row["high"]
            assert row["n_test"] == 300
    assert len(inside) == 24
    assert sum(inside) >= 23
    assert np.mean(scores) == pytest.approx(0.5, abs=0.015)
    assert min(told) > 0.75  # where the labels are the true ones


def test_probes_of_noise_are_at_chance_on_documents_they_never_saw(model, data) -> None:
    # every document has a direction of its own, and labels of few documents are alike by chance
    found = probe_layers(planted(model, data), asked())
    for row in found.layers:
        assert row["train_balanced_accuracy"] > row["balanced_accuracy"]
        assert row["balanced_accuracy"] == pytest.approx(0.5, abs=0.09)
        assert row["validation_balanced_accuracy"] == pytest.approx(0.5, abs=0.09)


# -- controls --------------------------------------------------------------------------------------


def test_random_labels_of_token_types_are_learnt_where_states_show_the_token(model) -> None:
    data = planted_data(model.reads, types=10)
    found = {
        by_token: probe_layers(
            planted(model, data, signal=(2.0,) * 4, by_token=by_token, width=40),
            asked("token_type"),
        )
        for by_token in (0.0, 3.0)
    }
    for row in rows_of(found[3.0], "token_type"):
        assert row["balanced_accuracy"] > 0.9
        assert row["selectivity"] < 0.1
    for row in rows_of(found[0.0], "token_type"):
        assert row["balanced_accuracy"] < 0.6
        assert row["selectivity"] > 0.2


def test_selectivity_is_of_examples_whose_token_training_saw(model) -> None:
    data = planted_data(
        model.reads, types=250, sizes={"train": 200, "validation": 200, "test": 200}
    )
    world = planted(model, data, signal=(3.0,) * 4)
    found = probe_layers(world, asked("token_type"))
    trained = set(data.parts["train"].token().tolist())
    test = data.parts["test"]
    seen = torch.tensor([one in trained for one in test.token().tolist()])
    assert 20 < int(seen.sum()) < 180
    states = world.states("test")[0].values
    for row, values in zip(rows_of(found, "token_type"), states, strict=True):
        assert row["n_test"] == int(seen.sum())
        right = found.probe(row["site"]).even(values).argmax(-1) == test.label
        task = np.mean([float(right[seen & (test.label == one)].double().mean()) for one in (0, 1)])
        assert row["selectivity"] == pytest.approx(task - row["balanced_accuracy"], abs=1e-6)


def test_a_control_that_cannot_be_made_is_left_out_and_said(model) -> None:
    data = planted_data(model.reads, types=1)
    found = probe_layers(planted(model, data, signal=(2.0,) * 4), asked("shuffled", "token_type"))
    assert {row["control"] for row in found.controls} == {"shuffled"}
    assert len(found.layers) == 4
    assert any("token_type: left out: " in line for line in found.warnings)


def test_a_control_that_fails_leaves_the_layers_and_says_so(real: Inputs, monkeypatch) -> None:
    def gone(*rest: object) -> None:
        raise UserError("the model has moved")

    monkeypatch.setattr("cutaway.probes.fitting.layers.untrained", gone)
    found = probe_layers(real, asked("untrained", "shuffled"))
    assert len(found.layers) == len(real.sites)
    assert {row["control"] for row in found.controls} == {"shuffled"}
    assert "untrained: left out: the model has moved" in found.warnings


def test_controls_are_what_they_are_by_hand(real: Inputs) -> None:
    found = probe_layers(real, asked("mass_mean", "current_token", "model"))
    read = {part: real.states(part, own=True) for part in ("train", "test")}
    (states, train), (held, test) = read["train"], read["test"]
    groups = drawn_groups(test.document)[0]

    def scored(even: Tensor) -> float:
        return float(judge(even, even, test.label, groups).balanced_accuracy)

    for index, row in enumerate(rows_of(found, "mass_mean")):
        fits = fit_mass_mean(states.values[index], train.label[None], 2)
        assert row["balanced_accuracy"] == scored(fits.even(held.values[index])[0])
    (row,) = rows_of(found, "current_token")
    counted = controls.current_token(train.token(), train.label, test.token(), 2)
    assert row["balanced_accuracy"] == scored(counted)
    (row,) = rows_of(found, "model")
    assert row["balanced_accuracy"] == scored(
        controls.model_reference(states.own, train.label, held.own)[0]
    )


def test_the_verdict_names_what_is_no_better_than_the_current_token(real: Inputs) -> None:
    found = probe_layers(real, asked("current_token", "model"))
    best = next(row for row in found.layers if row["site"] == found.best.about.site)
    (token,) = rows_of(found, "current_token")
    for reached, said in ((best["low"] + 0.01, True), (best["low"] - 0.01, False)):
        token["balanced_accuracy"] = reached
        told = found.verdict()
        assert told.startswith(
            f"{best['site']}, best on validation: {best['balanced_accuracy']:.1%}"
        )
        assert f"the current token alone: {reached:.1%}" in told
        assert ("no sign here" in told) is said


def test_what_is_trained_by_steps_has_no_control_of_solved_labels(real: Inputs, capsys) -> None:
    solved = probe_layers(real, asked("shuffled", "token_type"))
    trained = [replace(one, about=replace(one.about, method="minibatch")) for one in solved.probes]
    found = probe_layers(real, replace(asked(*CONTROLS), method="minibatch"), given=trained)
    assert not {"shuffled", "token_type"} & {row["control"] for row in found.controls}
    assert rows_of(found, "mass_mean")


def test_an_untrained_model_s_control_is_the_probe_of_that_model(real: Inputs, model) -> None:
    found = probe_layers(real, asked("untrained", seed=3))
    fresh = untrained(model, model.reference.id, 3)
    alone = probe_layers(Inputs(real.data, fresh, real.sites), asked(seed=3))
    rows = rows_of(found, "untrained")
    assert [row["site"] for row in rows] == ["embed", "residual.0"]
    for row, own, trained in zip(rows, alone.layers, found.layers, strict=True):
        for name in ("balanced_accuracy", "low", "high", "n_test"):
            assert row[name] == pytest.approx(own[name])
        assert row["balanced_accuracy"] != trained["balanced_accuracy"]


def test_the_model_s_own_probability_is_cut_where_training_has_it_best(real: Inputs) -> None:
    found = probe_layers(real, asked("model"))
    (row,) = rows_of(found, "model")
    odds = {part: real.states(part, own=True)[0].own for part in ("train", "test")}
    label = {part: real.data.parts[part].label for part in odds}

    def balanced(part: str, threshold: float) -> float:
        called = (odds[part] > threshold).long()
        return float(
            np.mean([(called == one)[label[part] == one].double().mean() for one in (0, 1)])
        )

    edges = odds["train"].sort().values
    best = max(balanced("train", float(one)) for one in (edges[1:] + edges[:-1]) / 2)
    reached = {
        balanced("test", float(one))
        for one in (edges[1:] + edges[:-1]) / 2
        if balanced("train", float(one)) == pytest.approx(best)
    }
    assert (row["site"], row["layer"], row["selectivity"]) == (None, None, None)
    assert any(row["balanced_accuracy"] == pytest.approx(one) for one in reached)
    assert row["balanced_accuracy"] > 0.6


def test_what_controls_there_are_and_what_columns(real: Inputs) -> None:
    found = probe_layers(real, asked(*CONTROLS))
    where = {name: [row["site"] for row in rows_of(found, name)] for name in CONTROLS}
    both = ["embed", "residual.0"]
    assert where == {
        **dict.fromkeys(("shuffled", "token_type", "untrained", "mass_mean"), both),
        **{name: [None] for name in ("current_token", "model")},
    }
    for row in found.controls:
        assert set(row) == {
            *("step", "site", "layer", "control", "balanced_accuracy", "low", "high"),
            *("selectivity", "n_test"),
        }
        assert (row["selectivity"] is not None) == (row["control"] == "token_type")
        assert (row["layer"] is None) == (row["site"] is None)
    for row, site, layer in zip(found.layers, both, (-1, 0), strict=True):
        assert set(row) == {
            *("step", "site", "layer", "method", "strength", "n_test", *SCORES),
            *("n_documents", "interval_over"),
            *("validation_balanced_accuracy", "train_balanced_accuracy"),
        }
        assert (row["site"], row["layer"], row["method"]) == (site, layer, "exact")
        assert row["strength"] in [pytest.approx(one) for one in STRENGTHS]
        assert row["n_test"] == len(real.data.parts["test"])
    columns = {"step", "site", "bin", "count", "predicted", "observed", "low", "high"}
    assert all(set(row) == columns for row in found.reliability)
    assert all(set(row) == {"step", "site", "odds", "label", "predicted", "count"}
               for row in found.confusion)  # fmt: skip
    counts = real.data.counts["test"]
    for site in both:
        for odds in ("even", "natural"):
            for label, count in counts.items():
                row_sum = sum(
                    row["count"]
                    for row in found.confusion
                    if (row["site"], row["odds"], row["label"]) == (site, odds, label)
                )
                assert row_sum == count
        bins = [row["count"] for row in found.reliability if row["site"] == site]
        assert sum(bins) == sum(counts.values())
    for table in found.tables.values():
        assert {row["step"] for row in table} == {0}


def test_only_the_controls_asked_for_are_run(model, data) -> None:
    for name in ("shuffled", "mass_mean", "current_token"):
        found = probe_layers(planted(model, data), asked(name))
        assert {row["control"] for row in found.controls} == {name}
    assert probe_layers(planted(model, data), asked()).controls == []


def test_controls_that_mean_nothing_for_the_task_are_passed_over(model, probe_data) -> None:
    data = ProbeData.load(probe_data).reading("current")
    found = probe_layers(inputs_of(data, model, "embed"), asked("model", "current_token"))
    # the token read is the target itself: by itself it says everything
    ((name, score),) = [(row["control"], row["balanced_accuracy"]) for row in found.controls]
    assert (name, score) == ("current_token", 1.0)
    assert found.layers[0]["balanced_accuracy"] > 0.97


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ("all", list(CONTROLS)),
        ("none", []),
        ("", []),
        ("model, shuffled", ["model", "shuffled"]),
        ("token-type", ["token_type"]),
        (["untrained", "untrained"], ["untrained"]),
    ],
)
def test_controls_are_chosen_by_name(names, chosen) -> None:
    assert chosen_controls(names) == chosen


def test_an_unknown_control_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"controls = 'shufled': expected all, none, .*'shuffled'"):
        chosen_controls("shufled")


# -- what a probe carries --------------------------------------------------------------------------


def test_a_probe_carries_what_it_scored_and_where_it_is_from(real: Inputs, model) -> None:
    found = probe_layers(real, asked())
    for probe, row in zip(found.probes, found.layers, strict=True):
        about = probe.about
        assert {name: about.scores[name] for name in SCORES} == {name: row[name] for name in SCORES}
        assert about.reference == model.reference
        assert about.strength == row["strength"]
        assert (about.task, about.target, about.dtype, about.read) == (
            *("next", " the", "float32", "token"),
        )
        states, examples = real.states("test")
        values = states.values[found.probes.index(probe)]
        right = probe.even(values).argmax(-1) == examples.label
        recall, specificity = (
            float(right[examples.label == one].double().mean()) for one in (1, 0)
        )
        assert row["recall"] == pytest.approx(recall)
        assert row["specificity"] == pytest.approx(specificity)
    assert found.probe(0) is found.probes[1]
    with pytest.raises(UserError, match=r"site = '5': there are probes of embed, residual\.0"):
        found.probe(5)


def test_the_same_settings_give_the_same_figures(model, data) -> None:
    first, again = (
        probe_layers(planted(model, data, signal=(1.0,) * 4), asked(*CONTROLS[:3]))
        for _ in range(2)
    )
    assert first.controls == again.controls
    assert first.layers == again.layers


# -- states and data that cannot be probed ---------------------------------------------------------


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let states come out changed, as those of a broken model would."""

    def install(change: Callable[[torch.Tensor], None], part: int | None = None) -> None:
        def read(model: Model, examples, *args: Any, **kwargs: Any) -> States:
            found = states_of(model, examples, *args, **kwargs)
            if part is None or len(examples) == part:
                change(found.values)
            return replace(found, finite=found.values.float().sum(-1).isfinite().all(0))

        monkeypatch.setattr(inputs_module, "states_of", read)

    return install


def test_states_that_are_not_finite_are_counted_and_left_out(real, spoilt, capsys) -> None:
    clean = probe_layers(real, asked("model"))
    spoilt(lambda values: values[1, 3:6].fill_(torch.nan))
    found = probe_layers(real, asked("model"))
    told = capsys.readouterr().err
    for part in ("train", "validation", "test"):
        count = len(real.data.parts[part])
        assert f"{part}: 3 of {count:,} examples have states that are not finite" in told
    assert "(embed: 0, residual.0: 3)" in told
    for row, before in zip(found.layers, clean.layers, strict=True):
        assert row["n_test"] == before["n_test"] - 3
        assert row["balanced_accuracy"] == pytest.approx(before["balanced_accuracy"], abs=0.05)
    assert rows_of(found, "model")[0]["n_test"] == len(real.data.parts["test"]) - 3


def test_where_no_state_is_finite_that_is_said_by_site(real, spoilt) -> None:
    spoilt(lambda values: values[1].fill_(torch.inf))
    count = len(real.data.parts["train"])
    with pytest.raises(UserError, match=rf"train: not one .*embed: 0, residual\.0: {count:,}\)"):
        probe_layers(real, asked())


def test_where_a_class_has_no_finite_state_that_is_said(real, spoilt) -> None:
    test = real.data.parts["test"]

    def change(values: torch.Tensor) -> None:
        values[:, test.label == 1] = torch.nan

    spoilt(change, len(test))
    with pytest.raises(UserError, match=r"test holds one class only .'other'"):
        probe_layers(real, asked())


def test_states_that_are_all_the_same_are_refused_by_name(real, spoilt) -> None:
    spoilt(lambda values: values[1].copy_(values[1, :1].expand_as(values[1]).clone()))
    with pytest.raises(UserError, match=r"residual\.0: all .* states of train are the same"):
        probe_layers(real, asked())


def test_a_probe_that_says_one_thing_only_is_a_failure(model, data) -> None:
    """Its states in test lie far on one side of those it was trained on."""
    world = planted(model, data, signal=(2.0,) * 4)
    normal = type(world).states

    class Moved(type(world)):
        def states(self, part: str, **rest: Any):
            found, examples = normal(self, part, **rest)
            if part == "test":
                found.values[2] += 60 * (directions(data)[1] - directions(data)[0])
            return found, examples

    found = probe_layers(Moved(**world.__dict__), asked("shuffled"))
    assert found.failures == ["mlp.0: predicts only ' the'"]
    assert found.layers[2]["balanced_accuracy"] == 0.5
    assert found.layers[2]["specificity"] == 0
    assert len(found.layers) == len(found.probes) == 4


def test_methods_trained_by_steps_are_refused_here(model, data) -> None:
    for method in ("minibatch", "mlp", "magic"):
        with pytest.raises(UserError, match=f"method = '{method}': expected exact or mass_mean"):
            probe_layers(planted(model, data), asked(method=method))
