"""The six small files everything stands on."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from cutaway.base import display, files, hardware, progress, seeds
from cutaway.base.errors import Interrupted, RunFailed, UserError, nearest, whole_in


def test_streams_belong_to_their_three_names_alone() -> None:
    drawn = {
        seeds.stream(seed, step, purpose)
        for seed in range(20)
        for step in range(-5, 50)
        for purpose in ("", "data", "weights")
    }
    assert len(drawn) == 20 * 55 * 3
    assert all(0 <= value < 2**63 for value in drawn)
    assert seeds.stream(3, 7, "data") == seeds.stream(3, 7, "data")


def test_neighbouring_streams_are_uncorrelated() -> None:
    draws = np.array(
        [seeds.numpy_generator(0, step, "x").standard_normal(500) for step in range(40)]
    )
    correlation = np.corrcoef(draws)
    off = np.abs(correlation[~np.eye(40, dtype=bool)])
    assert off.max() < 5 / np.sqrt(500)


def test_the_bits_of_streams_are_fair() -> None:
    values = np.array([seeds.stream(0, step) for step in range(4000)])
    ones = [(values >> bit & 1).mean() for bit in range(63)]
    assert max(abs(share - 0.5) for share in ones) < 5 * 0.5 / np.sqrt(4000)


def test_torch_generators_start_where_their_stream_says() -> None:
    one, same = (torch.rand(3, generator=seeds.torch_generator(1, 2, "x")) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, torch.rand(3, generator=seeds.torch_generator(1, 3, "x")))


def test_a_killed_write_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "state.json"
    files.write_json(path, {"old": True})
    code = (
        "import os, sys; from cutaway.base.files import replacing\n"
        f"with replacing({str(path)!r}) as temporary:\n"
        "    temporary.write_text('{\"new\": tr'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert json.loads(path.read_text()) == {"old": True}


def test_a_failed_write_leaves_nothing_behind(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError), files.replacing(tmp_path / "x"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_json_has_no_nan(tmp_path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_sha256_is_that_of_coreutils(tmp_path) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(100_000))
    said = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert files.sha256(path) == said.split()[0]


def test_a_disk_that_is_too_small_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"1000000\.0 TB needed, .* free"):
        files.require_writable(tmp_path / "new" / "deep", needed=10**18)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1536, "1.5 KB"), (2.5e9, "2.5 GB"), (7e12, "7.0 TB")],
)
def test_bytes_for_people(count, text) -> None:
    assert files.human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (75, "1m15s"), (7260, "2h01m")]
)
def test_durations_for_people(seconds, text) -> None:
    assert progress.duration(seconds) == text


def test_errors_carry_their_exit_codes() -> None:
    assert UserError("x").exit_code == 2
    assert RunFailed("x", 3).exit_code == 1
    assert [Interrupted("x", signal).exit_code for signal in (2, 15)] == [130, 143]
    assert [Interrupted("x", signal).name for signal in (2, 15)] == ["Ctrl-C", "SIGTERM"]


def test_the_nearest_name_is_suggested_only_if_near() -> None:
    assert nearest("learnig_rate", ["learning_rate", "seed"]) == "; did you mean 'learning_rate'?"
    assert nearest("zzz", ["learning_rate", "seed"]) == ""


def test_a_device_is_what_was_asked_for_or_refused() -> None:
    assert hardware.device("cpu") == torch.device("cpu")
    for wrong in ("gpu", "cuda:x", "cpu:1"):
        with pytest.raises(UserError, match="device = "):
            hardware.device(wrong)


ROWS = [
    {"name": "a,b", "loss": 0.123456, "best": None},
    {"name": "ü", "loss": float("nan"), "extra": 3},
]


def test_json_output_is_json(capsys) -> None:
    display.show(ROWS, "json")
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == {"name": "a,b", "loss": 0.123456, "best": None, "extra": None}
    assert rows[1]["loss"] == "NaN"


def test_csv_output_is_csv(capsys) -> None:
    import csv

    display.show(ROWS, "csv", columns=["name", "loss"])
    assert list(csv.reader(capsys.readouterr().out.splitlines()))[:2] == [
        ["name", "loss"],
        ["a,b", "0.123456"],
    ]


def test_tables_show_markup_as_it_is_and_never_fold_in_a_pipe(capsys) -> None:
    display.show([{"token": "[red]x[/red]", "text": "y" * 500}])
    shown = capsys.readouterr().out
    assert "[red]x[/red]" in shown
    assert "y" * 500 in shown


def test_progress_outside_a_terminal_is_plain_lines(capsys, monkeypatch) -> None:
    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress.progress("reading", 100, "files") as bar:
        for _ in range(10):
            bar.advance(10, loss="1.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all("\r" not in line and "\x1b" not in line for line in lines)
    assert "files/s" in lines[0]
    assert "left" not in lines[0]  # a single update says nothing of how long the next takes
    assert "left" in lines[1]
    assert "loss 1.5" in lines[0]


def test_the_rate_leaves_out_what_came_before_the_work_was_under_way(monkeypatch) -> None:
    """Eight seconds of warming up, a first update, then two steps a second."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = progress.Progress("training", 100, "steps")
    now[0] = 8.0
    bar.update(1)
    assert bar.line() == "training 1/100 steps (1%), 0.125 steps/s"
    for step in range(2, 8):
        now[0] += 0.5
        bar.update(step)
    assert bar.rate() == pytest.approx(2.0)
    assert bar.line() == "training 7/100 steps (7%), 2 steps/s, 46s left"
    now[0] = 60.0
    bar.update(101)
    assert "0s left" in bar.line()


def test_quick_work_shows_no_progress(capsys) -> None:
    with progress.progress("reading", 3, "files") as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("007", 7),
        ("0" * 5000 + "3", 3),
        (str(2**63 - 1), 2**63 - 1),
        *(
            (one, None)
            for one in ("", "²", "٣", "-1", "+1", " 1", "1_0", "1.0", str(2**63), "1" * 5000)
        ),
    ],
)
def test_a_whole_number_in_a_text_is_one_of_plain_digits(text, number) -> None:
    assert whole_in(text) == number
