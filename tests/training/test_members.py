"""Runs stacked as members of one task: each leaves what it would leave alone, whatever befalls another."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from toys import LOOP, Stacked, StackedOfOne

from cutaway.base.errors import RunFailed, UserError
from cutaway.runs.folder import Run
from cutaway.training import fit
from cutaway.training.instruments import Stateless
from cutaway.training.task import Evaluated


def test_stacked_members_are_recorded_one_by_one(tmp_path) -> None:
    task = Stacked()
    with torch.no_grad():
        task.model["weight"][1] = 1.0
    runs = [Run.create(tmp_path / str(i), study="toy", config={}) for i in range(3)]
    outcomes = fit(task, [replace(LOOP, parts=2)] * 3, runs)
    for run in runs:
        run.close()
    first, second, third = (run.read().to_pylist() for run in runs)
    assert first[0]["train_loss"] != second[0]["train_loss"]
    for one, same in zip(first, third, strict=True):
        assert one["train_loss"] == pytest.approx(same["train_loss"], rel=1e-5)
    assert outcomes[1].metrics["val_loss"] == second[-1]["val_loss"]
    kept = runs[1].checkpoints.load(20).tensors["model"]["weight"]
    assert torch.equal(kept, task.model["weight"][1])


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_member_of_a_stack_takes_the_path_it_would_take_alone(tmp_path, clip) -> None:
    configs = [
        replace(LOOP, learning_rate=lr, weight_decay=wd, beta1=b1, gradient_clip=clip, seed=seed)
        for seed, (lr, wd, b1) in enumerate([(0.01, 0.0, 0.9), (0.1, 0.5, 0.8), (0.3, 2.0, 0.95)])
    ]
    runs = [Run.create(tmp_path / str(i), study="toy", config={}) for i in range(3)]
    fit(Stacked(), configs, runs)
    for index, (config, run) in enumerate(zip(configs, runs, strict=True)):
        run.close()
        with Run.create(tmp_path / f"alone-{index}", study="toy", config={}) as alone:
            fit(StackedOfOne(), config, [alone])
        for column in ("train_loss", "val_loss", "gradient_norm", "learning_rate"):
            expected = alone.read()[column].drop_null().to_pylist()
            together = run.read()[column].drop_null().to_pylist()
            assert together == pytest.approx(expected, rel=1e-4), column
        together, solo = (r.checkpoints.load(20).tensors["updater"] for r in (run, alone))
        assert together.keys() == solo.keys()
        assert all(torch.allclose(v, solo[k], rtol=1e-4) for k, v in together.items())


def test_stacked_runs_must_agree_on_what_they_share(tmp_path) -> None:
    runs = [Run.create(tmp_path / str(i), study="toy", config={}) for i in range(3)]
    configs = [LOOP, LOOP, replace(LOOP, log_every=3)]
    with pytest.raises(UserError, match="log_every = 3: stacked runs must agree"):
        fit(Stacked(), configs, runs)
    for run in runs:
        run.close()


def test_stacked_runs_go_on_together_from_one_step(tmp_path) -> None:
    configs = [
        replace(LOOP, learning_rate=rate, min_learning_rate=rate) for rate in (0.01, 0.1, 0.2)
    ]
    longer = [replace(config, steps=25) for config in configs]
    whole, cut = (
        [Run.create(tmp_path / which / str(i), study="toy", config={}) for i in range(3)]
        for which in ("whole", "cut")
    )
    fit(Stacked(), longer, whole)
    fit(Stacked(), configs, cut)
    states = [run.checkpoints.load(20) for run in cut]
    with pytest.raises(UserError, match="one of the same step for each of 3 members"):
        fit(Stacked(), longer, cut, checkpoints=[*states[:2], cut[2].checkpoints.load(15)])
    fit(Stacked(), longer, cut, checkpoints=states)
    for one, other in zip(whole, cut, strict=True):
        for run in (one, other):
            run.close()
        there, here = (run.checkpoints.load(25).tensors for run in (one, other))
        assert torch.equal(there["model"]["weight"], here["model"]["weight"])
        assert there["updater"].keys() == here["updater"].keys()
        assert all(torch.equal(v, here["updater"][k]) for k, v in there["updater"].items())


def test_members_end_each_at_its_own_step(tmp_path) -> None:
    configs = [replace(LOOP, steps=steps) for steps in (7, 20, 12)]
    runs = [Run.create(tmp_path / str(i), study="toy", config={}) for i in range(3)]
    outcomes = fit(Stacked(), configs, runs)
    for config, run, outcome in zip(configs, runs, outcomes, strict=True):
        run.close()
        assert run.record.status == "done"
        assert outcome.steps_done == run.record.steps_done == config.steps
        assert run.read()["step"].to_pylist()[-1] == config.steps
        assert run.checkpoints.last() == config.steps


class Peek(Stateless):
    """A reading with a value and one with a table, at intervals that divide nothing."""

    def __init__(self, name: str, every: int, table: bool):
        self.name, self.every, self.table = name, every, table

    def read(self, at):
        if not self.table:
            return {self.name: at.task.model["weight"].flatten(-2).sum(-1)}
        tables = [pa.table({"step": [at.step], "seed": [config.seed]}) for config in at.configs]
        return tables if at.task.members > 1 else tables[0]


@pytest.mark.parametrize("keep", [None, 1, 2])
def test_a_member_leaves_what_it_leaves_alone_whenever_the_others_end(tmp_path, keep) -> None:
    """Intervals that divide neither each other nor the lengths, and a best that moves."""
    shared = replace(
        LOOP,
        schedule_steps=25,
        eval_every=6,
        log_every=4,
        checkpoint_every=9,
        keep_checkpoints=keep,
    )
    own = [(7, 0.01), (25, 0.1), (13, 0.4)]
    configs = [
        replace(shared, steps=steps, learning_rate=rate, seed=seed)
        for seed, (steps, rate) in enumerate(own)
    ]
    looks = [Peek("sum", 5, table=False), Peek("seeds", 11, table=True)]
    runs = [Run.create(tmp_path / str(i), study="toy", config={}) for i in range(3)]
    fit(Stacked(), configs, runs, looks)
    for index, (config, run) in enumerate(zip(configs, runs, strict=True)):
        run.close()
        with Run.create(tmp_path / f"alone-{index}", study="toy", config={}) as alone:
            fit(StackedOfOne(), config, [alone], looks)
        assert run.checkpoints.steps() == alone.checkpoints.steps()
        assert (run.checkpoints.best(), run.checkpoints.last()) == (
            alone.checkpoints.best(),
            alone.checkpoints.last(),
        )
        assert run.tables() == alone.tables() == ["history", "seeds"]
        assert run.read("seeds").to_pylist() == alone.read("seeds").to_pylist()
        stacked, single = run.read(), alone.read()
        assert stacked["step"].to_pylist() == single["step"].to_pylist()
        for column in ("val_loss", "sum", "train_loss", "cost_ms.sum", "cost_ms.seeds"):
            there, here = stacked[column], single[column]
            assert there.is_valid().equals(here.is_valid()), column
            if not column.startswith("cost_ms."):
                expected = pytest.approx(here.drop_null().to_pylist(), rel=1e-4)
                assert there.drop_null().to_pylist() == expected


def test_a_kill_between_two_members_saves_leaves_a_step_that_all_have(
    tmp_path, monkeypatch
) -> None:
    """With one checkpoint kept: none may go before every member has the next."""
    config = replace(LOOP, keep_checkpoints=1)
    runs = [Run.create(tmp_path / str(i), study="toy", config={}) for i in range(3)]

    class Killed(BaseException):
        pass

    second = runs[1].checkpoints
    save = second.save

    def cut_off(step, *rest):
        if step == 15:
            raise Killed
        return save(step, *rest)

    monkeypatch.setattr(second, "save", cut_off)
    with pytest.raises(Killed):
        fit(Stacked(), [config] * 3, runs)
    steps = [set(run.checkpoints.steps()) for run in runs]
    assert 15 in steps[0]
    assert max(set.intersection(*steps)) == 10
    monkeypatch.undo()
    fit(Stacked(), [config] * 3, runs, checkpoints=[run.checkpoints.load(10) for run in runs])
    whole = [Run.create(tmp_path / f"whole-{i}", study="toy", config={}) for i in range(3)]
    fit(Stacked(), [config] * 3, whole)
    for one, other in zip(runs, whole, strict=True):
        one.close(), other.close()
        assert one.checkpoints.steps() == other.checkpoints.steps()
        assert one.checkpoints.best() == other.checkpoints.best()
        assert one.read()["train_loss"].equals(other.read()["train_loss"])


def test_a_member_that_fails_is_marked_and_the_others_go_on(tmp_path) -> None:
    task = Stacked()
    task.bad_from = 8
    runs = [Run.create(tmp_path / str(i), study="toy", config={}) for i in range(3)]
    outcomes = fit(task, [LOOP] * 3, runs)
    for run in runs:
        run.close()
    assert [run.record.status for run in runs] == ["done", "failed", "done"]
    assert "non-finite at step 8" in runs[1].record.reason
    assert outcomes[1].failure is not None
    assert max(runs[1].read()["step"].to_pylist()) < 8
    assert runs[1].checkpoints.last() < 8
    good = Stacked()
    others = [Run.create(tmp_path / f"good-{i}", study="toy", config={}) for i in range(3)]
    fit(good, [LOOP] * 3, others)
    for index in (0, 2):
        others[index].close()
        assert runs[index].read()["train_loss"].equals(others[index].read()["train_loss"])
    others[1].close()


def test_a_member_that_fails_at_its_evaluation_says_why_and_the_others_go_on(tmp_path) -> None:
    class Dying(Stacked):
        def evaluate(self):
            died = {1: RunFailed("it died")} if self.steps >= 7 else {}
            return Evaluated(super().evaluate(), died)

    runs = [Run.create(tmp_path / str(i), study="toy", config={}) for i in range(3)]
    outcomes = fit(Dying(), [LOOP] * 3, runs)
    for run in runs:
        run.close()
    assert [run.record.status for run in runs] == ["done", "failed", "done"]
    assert runs[1].record.reason == "step 10: it died"
    assert outcomes[1].failure.step == 10
    assert max(runs[1].read()["step"].to_pylist()) == 9
    assert runs[1].checkpoints.last() < 10


@pytest.mark.parametrize("immediate", [True, False])
def test_each_member_is_told_its_own_reason(tmp_path, monkeypatch, immediate) -> None:
    """At one step the loss of one is no number and the gradient of another is not finite."""
    from cutaway.training import guards

    build = guards.FiniteGuard.__init__

    def made(self, device, members):
        build(self, device, members)
        self.immediate = immediate

    monkeypatch.setattr(guards.FiniteGuard, "__init__", made)

    class Apart(Stacked):
        def loss(self, batch):
            loss = super().loss(batch)
            if self.steps == 8:  # √ at 0: a finite loss with an infinite slope
                root = (self.model["weight"][2] * 0).abs().sqrt().sum()
                bad = torch.tensor([1.0, torch.nan, 1.0])
                loss.total = loss.total * bad + root * torch.tensor([0.0, 0.0, 1.0])
            return loss

    runs = [Run.create(tmp_path / str(i), study="toy", config={}) for i in range(3)]
    fit(Apart(), [LOOP] * 3, runs)
    for run in runs:
        run.close()
    assert [run.record.status for run in runs] == ["done", "failed", "failed"]
    assert "the loss became non-finite at step 8" in runs[1].record.reason
    assert "the gradient became non-finite at step 8" in runs[2].record.reason
