"""What a grokking run may be asked for: penalties, Grokfast, bfloat16, a name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.dynamics import WeightCurvature, exact, weight_hessian_trace
from cutaway.grokking.config import GrokkingConfig
from cutaway.grokking.spectrum import spectral_smoothness
from cutaway.grokking.study import GrokkingStudy
from cutaway.grokking.task import GrokkingTask
from cutaway.runs.folder import Run
from cutaway.studies.settings import resolve
from cutaway.studies.train import train
from cutaway.training import fit
from cutaway.training.instruments import Moment
from cutaway.training.precision import autocast
from cutaway.training.task import Part

TINY = {"p": 11, "hidden_dim": 16, "n_heads": 2, "epochs": 20, "log_every": 5, "train_frac": 0.6}


def config(**over) -> GrokkingConfig:
    return resolve(GrokkingConfig, {**TINY, **over})


def task(**over) -> GrokkingTask:
    return GrokkingStudy().prepare(config(**over)).task


@pytest.mark.parametrize(
    "over",
    [
        {"routing_regularizer": "entropy", "lambda_routing": 0.5, "model_type": "routed"},
        {"routing_regularizer": "sparsity", "lambda_routing": 0.5, "model_type": "routed"},
        {"routing_regularizer": "gini", "lambda_routing": 0.5, "model_type": "routed"},
        {"routing_regularizer": "consistency", "lambda_routing": 0.5, "model_type": "routed"},
        {"lambda_spectral": 2.0},
        {"lambda_jacobian": 0.1},
        {"lambda_jacobian": 0.1, "model_type": "baseline"},
    ],
)
def test_a_regulariser_adds_to_the_loss_and_is_recorded(over) -> None:
    torch.manual_seed(0)
    made, plain = task(precision="float64", **over), task(precision="float64")
    if over.get("model_type"):
        plain = task(precision="float64", model_type=over["model_type"])
    loss = made.loss(made.batch(0))
    parts = loss.parts()
    (penalty,) = (value for name, value in parts.items() if name.endswith("penalty"))
    assert penalty.item() != 0
    expected = plain.loss(plain.batch(0)).total.item()
    assert parts["train_task_loss"].item() == pytest.approx(expected, abs=1e-12)
    assert loss.total.item() == pytest.approx(expected + penalty.item(), abs=1e-12)
    loss.total.backward()
    assert all(p.grad.isfinite().all() for p in made.parameters() if p.grad is not None)


def test_the_spectral_penalty_is_what_smoothness_lacks() -> None:
    made = task(precision="float64", lambda_spectral=0.3)
    penalty = made.loss(made.batch(0)).parts()["spectral_penalty"]
    expected = 0.3 * (1 - spectral_smoothness(made.output_table()))
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_curvature_of_the_consistency_penalty_is_that_of_all_pairs() -> None:
    """Its mean is over all pairs: four parts, each with a mean of its own, curve otherwise."""
    over = {"routing_regularizer": "consistency", "lambda_routing": 10.0, "n_heads": 3}
    made = task(p=17, train_frac=0.9, model_type="routed", hidden_dim=6, n_layers=1, gate_dim=4,
                precision="float64", **over)  # fmt: skip
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "gate" in name or "embedding" in name:
                parameter.mul_(3)
    truth, in_parts = (
        sum(
            exact.weight_hessian_trace(made, batch).item() * len(batch.labels) / 260
            for batch in (made.batch(0, Part(index, count)) for index in range(count))
        )
        for count in (1, 4)
    )
    assert in_parts > 1.05 * truth
    loop = made.config.loop()
    at = Moment(0, made, made.batch(0), made.loss(made.batch(0)), made.updater([loop]),
                torch.zeros(()), [torch.Generator().manual_seed(0)], [loop])  # fmt: skip
    row = WeightCurvature(1, relative_error=0.0, most=40).read(at)
    whole, error = weight_hessian_trace(
        made, 0, [torch.Generator().manual_seed(0)], chunks=1, relative_error=0.0, most=40
    )
    assert row["weight_hessian_trace"].item() == whole.item()
    assert abs(whole.item() - truth) < 4 * error.item()


def test_a_consistency_penalty_may_not_be_cut_into_parts(tmp_path) -> None:
    made = task(model_type="routed", routing_regularizer="consistency")
    loop = replace(made.config.loop(), parts=2)
    with (
        Run.create(tmp_path / "run", study="grokking", config={}) as run,
        pytest.raises(UserError, match="cannot be cut into parts"),
    ):
        fit(made, loop, [run])
    assert task(model_type="routed", routing_regularizer="entropy").separable


def test_an_entropy_penalty_makes_the_gates_decide(tmp_path) -> None:
    ends = {}
    for weight in (0.0, 2.0):
        over = {"routing_regularizer": "entropy", "lambda_routing": weight}
        made = config(model_type="routed", epochs=150, log_every=50, lr=0.01, **over)
        run = train("grokking", made, tmp_path / str(weight))
        ends[weight] = run.read()["routing_entropy"].to_pylist()[-1]
    assert ends[2.0] < 0.5 * ends[0.0]


def test_grokfast_reaches_the_update() -> None:
    """Adam's first moment after two steps is that of g + λ · EMA(g), by hand."""
    made = task(grokfast_lambda=2.0, grokfast_alpha=0.75, grad_clip=None)
    loop = made.config.loop()
    updater = made.updater([loop])
    slow = first = 0.0
    for step, gradient in enumerate((1.0, 5.0)):
        for parameter in made.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        updater.clip()
        updater.step([1e-3])
        slow = 0.75 * slow + 0.25 * gradient if step else gradient
        first = loop.beta1 * first + (1 - loop.beta1) * (gradient + 2 * slow)
    for name, parameter in made.named_parameters():
        moment = updater.moments(name)["exp_avg"]
        assert torch.allclose(moment, torch.full_like(parameter, first)), name


@pytest.mark.parametrize(
    "over",
    [
        {"model_type": "baseline", "lambda_spectral": 0.1},
        {"model_type": "routed", "routing_regularizer": "consistency"},
        {"model_type": "transformer"},
    ],
)
def test_a_run_in_bfloat16_trains_and_is_measured(over, tmp_path) -> None:
    shared = {"p": 17, "lr": 0.01, "epochs": 30, "log_every": 10}
    rough = train("grokking", config(**shared, **over, precision="bfloat16"), tmp_path / "a").read()
    fine = train("grokking", config(**shared, **over), tmp_path / "b").read()
    assert rough.column_names == fine.column_names
    begun = [one.to_pylist()[0] for one in (rough, fine)]
    for column in ("train_loss", "test_loss", "spectral_smoothness", "jacobian_norm"):
        assert begun[0][column] == pytest.approx(begun[1][column], rel=0.02), column
    losses = [one["train_loss"].to_pylist() for one in (rough, fine)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    assert rough["train_loss"][-1].as_py() < 0.96 * rough["train_loss"][0].as_py()


def test_softmax_in_float32_is_no_coarser_in_a_bfloat16_run() -> None:
    made = task(model_type="baseline", softmax_precision="float32")
    with autocast(torch.device("cpu"), "bfloat16"):
        assert made.loss(made.batch(0)).total.dtype == torch.float32


@pytest.mark.parametrize("name", ["", "  ", ".", "..", "a/b", "a\\b", "a\nb", "a\tb", "a\x00b"])
def test_a_name_that_is_no_folder_s_is_refused_in_one_line(name) -> None:
    with pytest.raises(UserError, match="expected a folder's name") as error:
        config(name=name)
    assert str(error.value).startswith("name = ")
    assert str(error.value).isprintable()


def test_names_of_folders_are_taken() -> None:
    for name in ("run 2", "läuft", "a.b", "...", "p97_wd1.0"):
        assert config(name=name).name == name
