"""What the loop promises, on a regression small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import LOOP, Regression

from cutaway.base.errors import RunFailed, UserError
from cutaway.runs.folder import Run
from cutaway.training import AdamW, fit
from cutaway.training.instruments import Stateless
from cutaway.training.schedule import learning_rate


def new_run(folder: Path) -> Run:
    return Run.create(folder / "run", study="toy", config={})


def trained(folder: Path, task: Regression, config=LOOP, instruments=()) -> Run:
    with new_run(folder) as run:
        fit(task, config, [run], instruments)
    return run


def test_row_s_describes_the_weights_before_update_s(tmp_path) -> None:
    """Replay the whole training with torch.optim alone; every recorded figure must agree."""
    history = trained(tmp_path, Regression()).read().to_pylist()
    task = Regression()
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.05, betas=(0.9, 0.999), weight_decay=0.0)
    assert [row["step"] for row in history] == list(range(21))
    for step, row in enumerate(history):
        loss = task.loss(task.batch(step)).total
        assert row["train_loss"] == pytest.approx(loss.item(), rel=1e-6)
        assert row["doubled"] == pytest.approx(2 * loss.item(), rel=1e-6)
        evaluated = task.evaluate()["val_loss"].item()
        assert row["val_loss"] == (pytest.approx(evaluated, rel=1e-6) if step % 5 == 0 else None)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in task.parameters()]).norm().item()
        assert row["gradient_norm"] == pytest.approx(norm, rel=1e-5)
        assert row["learning_rate"] == learning_rate(LOOP, step)
        optimizer.param_groups[0]["lr"] = learning_rate(LOOP, step)
        optimizer.step()


def test_the_record_says_what_was_done(tmp_path) -> None:
    task = Regression()
    run = trained(tmp_path, task)
    record = run.record
    assert (record.status, record.steps_planned, record.steps_attempted, record.steps_done) == (
        "done", 20, 20, 20,
    )  # fmt: skip
    assert task.seen == 20
    history = run.read().to_pylist()
    assert record.metrics["val_loss"] == history[-1]["val_loss"]
    best = min((row["val_loss"], row["step"]) for row in history if row["val_loss"] is not None)
    assert (record.metrics["best_val_loss"], record.metrics["best_step"]) == best
    assert run.checkpoints.best() == best[1]
    assert record.resolved["precision"] == "float32"


@pytest.mark.parametrize("parts", [2, 5, 12])
def test_accumulating_parts_equals_the_whole_batch(tmp_path, parts) -> None:
    """Also in unequal parts: twelve rows in five."""
    whole = trained(tmp_path / "whole", Regression()).read().to_pylist()
    cut = trained(tmp_path / "cut", Regression(), replace(LOOP, parts=parts)).read().to_pylist()
    for one, other in zip(whole, cut, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
        assert one["doubled"] == pytest.approx(other["doubled"], rel=1e-4)


def test_clipping_scales_the_gradient_and_records_its_norm_before(tmp_path) -> None:
    seen = []

    class Look(Stateless):
        name, every = "look", 1

        def read(self, at):
            seen.append(torch.cat([p.grad.flatten() for p in at.task.parameters()]).norm().item())
            return {}

    run = trained(tmp_path, Regression(), replace(LOOP, gradient_clip=0.5), [Look()])
    norms = [row["gradient_norm"] for row in run.read().to_pylist()]
    assert max(norms) > 1
    for norm, after in zip(norms, seen, strict=True):
        assert after == pytest.approx(min(norm, 0.5), rel=1e-4)


def test_a_loss_that_becomes_nan_fails_the_run_with_its_step_and_keeps_the_rest(tmp_path) -> None:
    task = Regression(lambda step: float("nan") if step == 13 else 1.0)
    with (
        new_run(tmp_path) as run,
        pytest.raises(RunFailed, match="loss became non-finite") as error,
    ):
        fit(task, LOOP, [run])
    assert error.value.step == 13
    assert error.value.exit_code == 1
    assert run.record.status == "failed"
    assert "step 13" in run.record.reason
    assert (run.record.steps_attempted, run.record.steps_done) == (14, 13)
    assert run.read()["step"].to_pylist() == list(range(13))
    kept = Run.open(run.path).checkpoints.latest_intact()[0]
    assert kept.step == 10
    assert all(bool(tensor.isfinite().all()) for tensor in kept.tensors["model"].values())


def test_a_nan_noticed_late_leaves_the_same_record(tmp_path, monkeypatch) -> None:
    """On a GPU the flag is read when rows are written: steps later, but nothing of them stays."""
    from cutaway.training import guards

    build = guards.FiniteGuard.__init__

    def deferred(self, device, members):
        build(self, device, members)
        self.immediate = False

    monkeypatch.setattr(guards.FiniteGuard, "__init__", deferred)
    task = Regression(lambda step: float("nan") if step == 12 else 1.0)
    with new_run(tmp_path) as run, pytest.raises(RunFailed) as error:
        fit(task, LOOP, [run])
    assert error.value.step == 12
    assert (run.record.steps_attempted, run.record.steps_done) == (13, 12)
    assert run.read()["step"].to_pylist() == list(range(12))
    assert Run.open(run.path).checkpoints.steps()[-1] == 10


def test_a_gradient_that_overflows_is_told_apart_from_the_loss(tmp_path) -> None:
    class Overflow(Regression):
        def loss(self, batch):
            loss = super().loss(batch)
            if bool(self.seen == 7):  # √ at 0: a finite loss with an infinite slope
                loss.total = loss.total + (self.model.weight * 0).abs().sqrt().sum()
            return loss

    with new_run(tmp_path) as run, pytest.raises(RunFailed, match="gradient became non-finite"):
        fit(Overflow(), LOOP, [run])
    assert run.record.steps_done == 7


def test_an_evaluation_that_is_not_finite_fails_the_run(tmp_path) -> None:
    class Bad(Regression):
        def evaluate(self):
            return {
                "val_loss": torch.tensor(float("inf")) if self.seen == 10 else torch.tensor(1.0)
            }

    with new_run(tmp_path) as run, pytest.raises(RunFailed, match="val_loss became non-finite"):
        fit(Bad(), LOOP, [run])
    assert "step 10" in run.record.reason


def raising(error: Exception, at: int):
    def trouble(step: int) -> float:
        if step == at:
            raise error
        return 1.0

    return trouble


def test_a_source_that_stops_yielding_fails_the_run(tmp_path) -> None:
    with new_run(tmp_path) as run, pytest.raises(RunFailed, match="stopped yielding") as error:
        fit(Regression(raising(StopIteration(), 9)), LOOP, [run])
    assert error.value.step == 9
    assert (run.record.status, run.record.steps_done) == ("failed", 9)
    assert len(run.read()) == 9


def test_a_bug_in_a_task_fails_the_run_with_the_error_as_reason(tmp_path) -> None:
    with new_run(tmp_path) as run, pytest.raises(RunFailed) as error:
        fit(Regression(raising(KeyError("colour"), 3)), LOOP, [run])
    assert "KeyError: 'colour'" in run.record.reason
    assert isinstance(error.value.__cause__, KeyError)


def test_when_memory_runs_out_the_batch_is_halved_and_training_goes_on(tmp_path, capsys) -> None:
    class Small(Regression):
        def batch(self, step, part=None):
            batch = super().batch(step, part)
            if step >= 4 and len(batch[0]) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return batch

    run = trained(tmp_path / "small", Small())
    whole = trained(tmp_path / "whole", Regression())
    assert "going on with 4 parts" in capsys.readouterr().err
    assert run.record.status == "done"
    for one, other in zip(run.read().to_pylist(), whole.read().to_pylist(), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
    assert run.checkpoints.load(20).state["parts"] == 4


def test_a_step_worked_again_draws_the_same_dropout(tmp_path) -> None:
    """Memory runs out at step 0 after the whole batch's draw; it must not shift the halves'."""

    class Dropping(Regression):
        fails = True

        def loss(self, batch):
            x, y, factor = batch
            loss = super().loss((torch.nn.functional.dropout(x, 0.5), y, factor))
            if self.fails and len(x) == 12:
                raise torch.OutOfMemoryError("after the draw")
            return loss

    class Planned(Dropping):
        fails = False

    halved = trained(tmp_path / "a", Dropping()).read().to_pylist()
    planned = trained(tmp_path / "b", Planned(), replace(LOOP, parts=2)).read().to_pylist()
    assert [r["train_loss"] for r in halved] == [r["train_loss"] for r in planned]


def test_a_task_that_may_not_be_cut_refuses_accumulation(tmp_path) -> None:
    class Whole(Regression):
        separable = False

    with new_run(tmp_path) as run, pytest.raises(UserError, match="cannot be cut into parts"):
        fit(Whole(), replace(LOOP, parts=2), [run])


@pytest.mark.parametrize(
    ("field", "advice"),
    [
        ("rows", "; its batches cannot be cut into parts: give a smaller rows"),
        (None, ""),
    ],
)
def test_a_batch_that_may_not_be_cut_is_not_halved(tmp_path, field, advice) -> None:
    class Whole(Regression):
        separable = False

        batch_field = field

    task = Whole(raising(torch.OutOfMemoryError("no memory\nat all"), 2))
    with new_run(tmp_path) as run, pytest.raises(RunFailed) as error:
        fit(task, LOOP, [run])
    assert str(error.value) == f"out of memory: no memory{advice}"


def test_when_memory_is_gone_before_the_first_step_nothing_has_started(
    tmp_path, monkeypatch
) -> None:
    from cutaway.base import hardware

    monkeypatch.setattr(hardware, "precisions", lambda device: ("float32", "bfloat16"))

    class Whole(Regression):
        separable = False

    task = Whole(raising(torch.OutOfMemoryError("no memory"), 0))
    config = replace(LOOP, precision="auto")
    with new_run(tmp_path) as run, pytest.raises(RunFailed) as error:
        fit(task, config, [run])
    assert run.record.status == "failed"
    assert error.value.exit_code == 2


def test_a_reading_of_the_wrong_size_is_an_error_not_a_wrong_number(tmp_path) -> None:
    class Three(Stateless):
        name, every = "three", 5

        def read(self, at):
            return {"three": torch.ones(3)}

    with new_run(tmp_path) as run, pytest.raises(RunFailed, match="3 values for 1 runs"):
        fit(Regression(), LOOP, [run], [Three()])


def test_best_is_marked_again_after_a_kill_that_came_before_it(tmp_path) -> None:
    run = trained(tmp_path, Regression(), replace(LOOP, keep_checkpoints=None))
    best = run.checkpoints.best()
    run.checkpoints.mark_best(0, 9.0)  # what the kill left
    stops_at_once = Regression(raising(KeyError("enough"), best))
    config = replace(LOOP, steps=25, keep_checkpoints=None)
    with Run.resume(run.path) as again, pytest.raises(RunFailed):
        fit(stops_at_once, config, [again], checkpoints=[again.checkpoints.load(best)])
    assert again.checkpoints.best() == best


def test_zero_steps_are_refused(tmp_path) -> None:
    with new_run(tmp_path) as run, pytest.raises(UserError, match="at least one step"):
        fit(Regression(), replace(LOOP, steps=0), [run])


def test_checkpoints_are_kept_as_asked(tmp_path) -> None:
    every = trained(tmp_path / "all", Regression(), replace(LOOP, keep_checkpoints=None))
    assert every.checkpoints.steps() == [0, 5, 10, 15, 20]
    two = trained(tmp_path / "one", Regression(), replace(LOOP, keep_checkpoints=1))
    assert two.checkpoints.steps()[-1] == 20
    assert len(two.checkpoints.steps()) <= 2


def test_a_checkpoint_of_other_settings_is_refused(tmp_path) -> None:
    run = trained(tmp_path, Regression())
    checkpoint = run.checkpoints.load(20)
    with (
        Run.create(tmp_path / "other", study="toy", config={}) as other,
        pytest.raises(UserError, match="another configuration"),
    ):
        fit(Regression(), replace(LOOP, learning_rate=0.1), [other], checkpoints=[checkpoint])


def test_a_checkpoint_of_another_network_names_the_tensor(tmp_path) -> None:
    class Wider(Regression):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Linear(4, 1)

    checkpoint = trained(tmp_path, Regression()).checkpoints.load(20)
    with (
        Run.create(tmp_path / "other", study="toy", config={}) as other,
        pytest.raises(UserError, match=r"model\.weight is \(1, 3\) there and \(1, 4\)"),
    ):
        fit(Wider(), LOOP, [other], checkpoints=[checkpoint])


def test_weight_decay_reaches_what_the_task_says(tmp_path) -> None:
    class Still(Regression):
        def loss(self, batch):
            loss = super().loss(batch)
            loss.total = loss.total * 0 + 0 * self.model.bias.sum()
            return loss

    task = Still()
    with torch.no_grad():
        task.model.bias.fill_(1.0)
    config = replace(LOOP, weight_decay=0.5, min_learning_rate=0.05)
    before = task.model.weight.detach().clone()
    trained(tmp_path, task, config)
    assert torch.allclose(task.model.weight, before * (1 - 0.05 * 0.5) ** 20, rtol=1e-5)
    assert task.model.bias.item() == 1.0


def test_adamw_state_survives_the_round_trip() -> None:
    task = Regression()
    updater = AdamW(task, LOOP)
    assert updater.state() == {}
    task.loss(task.batch(0)).total.backward()
    updater.step([0.1])
    again = AdamW(task, LOOP)
    again.load([updater.state()])
    assert again.state().keys() == updater.state().keys()
    assert all(torch.equal(v, again.state()[k]) for k, v in updater.state().items())


def test_a_resume_gives_up_the_checkpoints_of_later_steps(tmp_path) -> None:
    """Else the newest kept would be of a course that is no more."""
    config = replace(LOOP, keep_checkpoints=1, checkpoint_every=5)
    run = trained(tmp_path, Regression(), replace(config, keep_checkpoints=None))
    stops = Regression(raising(KeyError("enough"), 12))
    with Run.resume(run.path) as again, pytest.raises(RunFailed):
        fit(stops, config, [again], checkpoints=[again.checkpoints.load(5)])
    assert again.checkpoints.last() == 10
    assert max(again.checkpoints.steps()) == 10
