"""`precision: auto` measures, leaves everything as it was, and is kept for a resume."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toys import LOOP, Regression

from cutaway.base import hardware
from cutaway.runs.folder import Run
from cutaway.training import fit
from cutaway.training.precision import choose


def test_measuring_changes_nothing(monkeypatch) -> None:
    monkeypatch.setattr(hardware, "precisions", lambda device: ("float32", "bfloat16"))

    class Counting(Regression):
        def loss(self, batch):
            self.seen += 1
            return super().loss(batch)

    task = Counting()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    chosen, times = choose(task, torch.device("cpu"))
    assert set(times) == {"float32", "bfloat16"}
    assert times[chosen] == min(times.values()) > 0
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert all(p.grad is None for p in task.parameters())


def test_without_bfloat16_hardware_nothing_is_timed(monkeypatch) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"avx2"}))
    assert choose(Regression(), torch.device("cpu")) == ("float32", {})


@pytest.mark.parametrize("kept", ["float32", "bfloat16"])
def test_a_resume_uses_what_the_record_says(tmp_path, kept) -> None:
    config = replace(LOOP, precision=kept)
    with Run.create(tmp_path / "run", study="toy", config={}) as run:
        fit(Regression(), config, [run])
    with Run.resume(tmp_path / "run") as run:
        checkpoint = run.checkpoints.load(10 if 10 in run.checkpoints.steps() else 20)
        fit(
            Regression(), replace(LOOP, precision="auto", steps=25), [run], checkpoints=[checkpoint]
        )
    assert run.record.resolved["precision"] == kept
