"""Lines printed while training: a row's own values, the last row always, failures when they happen."""

from __future__ import annotations

import re

import torch

from cutaway.grokking.config import GrokkingConfig
from cutaway.runs.folder import Run
from cutaway.studies.settings import resolve
from cutaway.studies.together import train_together
from cutaway.studies.train import train
from cutaway.training import observing

SMALL = {
    "p": 11, "model_type": "baseline", "hidden_dim": 8, "n_layers": 1, "epochs": 23,
    "log_every": 5, "compute_weight_curvature": False, "compute_optimizer_metrics": False,
}  # fmt: skip


def epochs(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^Epoch +(\d+) ", text, re.MULTILINE)]


def test_every_recorded_row_and_the_last_has_a_line_with_its_own_values(
    tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(observing, "_LINE_EVERY", 0.0)
    run = train("grokking", resolve(GrokkingConfig, SMALL), tmp_path / "a")
    shown = capsys.readouterr().err
    assert epochs(shown) == [0, 5, 10, 15, 20, 23]
    rows = {row["step"]: row for row in run.read().to_pylist()}
    lines = [line for line in shown.splitlines() if line.startswith("Epoch")]
    for line, step in zip(lines, rows, strict=True):
        assert f"Test: {rows[step]['test_acc']:6.1%}" in line
        assert f"Loss: {rows[step]['train_loss']:.2e}" in line
        assert f"|hess|={abs(rows[step]['hessian_trace']):.2e}" in line


def test_a_value_that_was_not_measured_at_a_row_is_not_printed_with_it(
    tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(observing, "_LINE_EVERY", 0.0)
    from cutaway.dynamics.sensitivity import InputSensitivity

    monkeypatch.setattr(InputSensitivity, "every", 10, raising=False)
    original = InputSensitivity.__init__

    def rarer(self, every: int, *rest: int) -> None:
        original(self, 10, *rest)

    monkeypatch.setattr(InputSensitivity, "__init__", rarer)
    train("grokking", resolve(GrokkingConfig, SMALL), tmp_path / "a")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Epoch")]
    measured = [int(line.split()[1]) for line in lines if "|hess|" in line]
    assert measured == [0, 10, 20, 23]


def test_rows_that_come_too_fast_are_left_out_but_never_the_last(tmp_path, capsys) -> None:
    train("grokking", resolve(GrokkingConfig, {**SMALL, "log_every": 1}), tmp_path / "a")
    shown = epochs(capsys.readouterr().err)
    assert shown[0] == 0
    assert shown[-1] == 23
    assert len(shown) < 20


def test_a_member_that_fails_is_announced_while_the_others_train(
    tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(observing, "_SHOW_EVERY", 0.0)
    seen: list[str] = []
    monkeypatch.setattr(observing, "notice", lambda text: seen.append(f"{text} @{len(seen_steps)}"))
    seen_steps: list[float] = []
    show = observing.Observer.show

    def counted(self, bar, done):
        seen_steps.append(done)
        show(self, bar, done)

    monkeypatch.setattr(observing.Observer, "show", counted)
    rates = {"a": 0.01, "wild": 1e30, "b": 0.02}
    configs = [resolve(GrokkingConfig, {**SMALL, "lr": lr}) for lr in rates.values()]
    runs = train_together("grokking", configs, [tmp_path / name for name in rates])
    assert [run.record.status for run in runs] == ["done", "failed", "done"]
    [line] = seen
    assert line.startswith("wild: failed: step ")
    assert "the others go on @" in line
    assert int(line.rpartition("@")[2]) < len(seen_steps)
    assert Run.open(tmp_path / "wild").record.status == "failed"
    assert torch.is_grad_enabled()
