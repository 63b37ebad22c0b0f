"""Laws for every registered study: it resumes exactly, and instruments leave it alone."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
import torch

from conftest import GROK, PATIENCE, TINY, command
from cutaway.runs.folder import Run
from cutaway.runs.verifying import Verified, verify
from cutaway.studies.registry import STUDIES, config_of, study_of
from cutaway.studies.settings import resolve
from cutaway.training.loop import fit
from stopping import stopped

# How often each run is cut before it may end; more in a longer check: CUTAWAY_CUTS=20 pytest ...
CUTS = int(os.environ.get("CUTAWAY_CUTS", "5"))
# The smallest settings of each study, as command-line fields; the name of its YAML file's study.
SMALL = {
    "language": {**TINY, "max_iters": 400, "checkpoint_interval": 20, "dropout": 0.1},
    "grokking": {
        **GROK, "epochs": 800, "checkpoint_every": 40, "keep_checkpoints": 2,
        "optimizer": "orthograd_adamw", "grokfast_lambda": 0.5, "routing_regularizer": "entropy",
        "lambda_jacobian": 0.001, "save_routing_every": 100,
    },
    "dictionary": {
        "layer": "residual.0", "d_hidden": 64, "target_l0": 6, "batch_size": 64, "max_steps": 600,
        "eval_every": 100, "checkpoint_every": 30, "dead_after": 2000, "kernels": "sparse",
        "precision": "float32", "eval_tokens": 500,
    },
    "probe": {
        "method": "mlp", "mlp_width": 32, "layers": "embed,0", "batch_size": 48, "max_steps": 800,
        "eval_every": 200, "checkpoint_every": 40,
    },
}  # fmt: skip
# How each study calls the number of steps, and what makes its rate end at some step.
LENGTH = {
    "language": lambda steps, end: ["--max-iters", steps, "--lr-decay-iters", end],
    "grokking": lambda steps, end: ["--epochs", steps, "--warmup-epochs", end],
    "dictionary": lambda steps, end: ["--max-steps", steps, "--decay-steps", end],
    "probe": lambda steps, end: ["--max-steps", steps, "--decay-steps", end],
}
SHORT = {
    "language": {"max_iters": "40", "eval_interval": "10"},
    "grokking": {"epochs": "40", "log_every": "10"},
    "dictionary": {"max_steps": "40", "eval_every": "10"},
    "probe": {"max_steps": "40", "eval_every": "10"},
}


def test_every_study_has_small_settings_here() -> None:
    assert set(SMALL) == set(STUDIES)


def final_state(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's last checkpoint: weights, moments, buffers, instruments."""
    last = Run.open(run).checkpoints.load(Run.open(run).checkpoints.last())
    return {f"{g}.{k}": v for g, named in last.tensors.items() for k, v in named.items()}


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


@pytest.fixture(scope="module", params=SMALL)
def small(
    request: pytest.FixtureRequest, corpus: Path, tmp_path_factory
) -> tuple[str, Path, list[str]]:
    """A study's name, its settings as a YAML file, and the arguments that train it."""
    settings = dict(SMALL[request.param])
    if request.param == "language":
        settings["data"] = str(corpus)
    if request.param == "dictionary":
        settings["activations"] = str(request.getfixturevalue("activations"))
    if request.param == "probe":
        settings["model"] = str(request.getfixturevalue("gpt2_run"))
        settings["data"] = str(request.getfixturevalue("probe_data"))
    file = tmp_path_factory.mktemp("settings") / "small.yaml"
    file.write_text("\n".join(f"{k}: {v}" for k, v in {"study": request.param, **settings}.items()))
    return request.param, file, ["train", str(file)]


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    process = command(*small[2], "--out", out)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return out


def cut_somewhere(how: int, draw: random.Random, most: int, *words: object) -> int:
    """The exit code of `cutaway WORDS`, cut at a moment drawn before its step `most` ends."""
    place = draw.randint(1, max(1, most // 2))
    further, delay = draw.randint(0, most - place), draw.uniform(0, 0.05)
    return stopped(how, place, *words, further=further, delay=delay)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_cut_many_times_equals_the_whole_bit_for_bit(small, whole, tmp_path, how) -> None:
    draw, out = random.Random(int(how)), tmp_path / "run"
    most = max(1, Run.open(whole).record.steps_done // (CUTS + 1))  # steps of one attempt
    codes = [
        cut_somewhere(how, draw, most, *small[2], "--out", out, *(["--resume"] if attempt else []))
        for attempt in range(CUTS)
    ]
    expected = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    assert codes == [expected] * CUTS
    process = command(*small[2], "--out", out, "--resume")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert_same_bits(final_state(out), final_state(whole))
    cut, uncut = Run.open(out).read(), Run.open(whole).read()
    assert cut["step"].to_pylist() == uncut["step"].to_pylist()  # neither gap nor duplicate
    clocks = {n for n in uncut.column_names if n == "seconds" or n.startswith("cost_ms.")}
    for column in set(uncut.column_names) - clocks:
        assert cut[column].to_pylist() == uncut[column].to_pylist(), column
    for table in Run.open(whole).tables():
        if table != "history":
            assert Run.open(out).read(table).equals(Run.open(whole).read(table))
    assert [path for path in out.rglob("*") if path.name[0] == "."] == []  # nothing left over
    assert verify(out) == Verified()


def test_instruments_leave_weights_and_moments_untouched(small, tmp_path) -> None:
    name, file, _ = small
    from cutaway.studies.yaml_file import read_yaml

    values = read_yaml(file)
    values.pop("study")
    config = resolve(config_of(name), values, SHORT[name])
    for which in ("with", "without"):
        prepared = study_of(name).prepare(config)
        instruments = prepared.instruments if which == "with" else ()
        with Run.create(tmp_path / which, study=name, config={}) as run:
            fit(prepared.task, prepared.loop or config.loop(), [run], instruments)
    assert prepared.instruments
    assert_same_bits(final_state(tmp_path / "with"), final_state(tmp_path / "without"))


def test_extra_steps_equal_a_run_that_was_planned_longer(small, tmp_path) -> None:
    """Beyond the schedule's end the rate stays at its floor, so both runs take the same path."""
    name, _, args = small
    process = command(*args, *LENGTH[name](60, 60), "--out", tmp_path / "a")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    process = command("train", tmp_path / "a", "--extra-steps", 20)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    long = command(*args, *LENGTH[name](80, 60), "--out", tmp_path / "c")
    _, errors = long.communicate(timeout=PATIENCE)
    assert long.returncode == 0, errors
    assert_same_bits(final_state(tmp_path / "a"), final_state(tmp_path / "c"))
    record = Run.open(tmp_path / "a").record
    assert (record.steps_planned, record.steps_done, record.status) == (80, 80, "done")
