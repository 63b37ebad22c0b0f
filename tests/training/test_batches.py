"""What a run's record says of its first batches, and batches that are none."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from toys import LOOP, Regression

from cutaway.base.errors import RunFailed
from cutaway.runs.folder import Run
from cutaway.training.batches import described, is_empty
from cutaway.training.loop import fit


def new_run(folder) -> Run:
    return Run.create(folder / "run", study="toy", config={}, seed=0, steps_planned=LOOP.steps)


class Ends(Regression):
    """Its source gives nothing from some step on."""

    def __init__(self, at: int):
        super().__init__()
        self.at = at

    def data(self, step):
        x, y = super().data(step)
        return (x[:0], y[:0]) if step >= self.at else (x, y)


def test_the_record_says_shape_and_size_of_the_first_batches(tmp_path) -> None:
    with new_run(tmp_path) as run:
        fit(Regression(), LOOP, [run])
    told = Run.open(run.path).record.resolved["first_batches"]
    assert [one["step"] for one in told] == [0, 1, 2]
    x, _ = Regression().data(1)
    assert told[1]["batch.0"]["shape"] == [12, 3]
    assert told[1]["batch.0"]["mean_norm"] == pytest.approx(float(x.norm(dim=1).mean()), rel=1e-6)
    assert told[1]["batch.0"]["not_finite"] == 0


def test_tokens_are_told_by_their_range_and_states_by_their_norm_without_what_is_not_finite() -> (
    None
):
    @dataclass
    class Batch:
        tokens: torch.Tensor
        more: dict[str, torch.Tensor]

    states = torch.tensor([[3.0, 4.0], [float("nan"), 1.0]])
    told = described(7, Batch(torch.tensor([[2, 9]]), {"states": states}))
    assert told == {
        "step": 7,
        "batch.tokens": {"shape": [1, 2], "dtype": "int64", "min": 2, "max": 9},
        "batch.more.states": {
            "shape": [2, 2], "dtype": "float32", "mean_norm": 3.0, "not_finite": 1,
        },
    }  # fmt: skip


def test_a_batch_of_nothing_is_empty_whatever_it_is_packed_in() -> None:
    nothing = torch.zeros(0, 4)
    assert all(map(is_empty, (nothing, [nothing, {"a": nothing}], ())))
    assert not is_empty((nothing, torch.zeros(1)))


def test_a_source_that_is_exhausted_fails_the_run_and_keeps_what_was_recorded(tmp_path) -> None:
    with new_run(tmp_path) as run, pytest.raises(RunFailed, match="empty batch") as error:
        fit(Ends(9), LOOP, [run])
    assert error.value.exit_code == 1
    assert (run.record.status, run.record.steps_done) == ("failed", 9)
    assert run.read()["step"].to_pylist() == list(range(9))


def test_a_run_without_a_step_says_so(tmp_path) -> None:
    with new_run(tmp_path) as run, pytest.raises(RunFailed, match="trained zero steps") as error:
        fit(Ends(0), LOOP, [run])
    assert error.value.exit_code == 1
    assert run.record.steps_done == 0
    assert "trained zero steps: the data source gave an empty batch" in run.record.reason
