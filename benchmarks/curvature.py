"""What each instrument of the grokking room costs at its default interval, and how exact it is.

    python benchmarks/curvature.py [--preset transformer] [--steps N] [--quick]

A preset is trained as it stands (its instruments, intervals and checkpoints), only shorter. Cost
is by the instruments' own clocks (`cost_ms.<name>` in the history) between the first recorded row
and the last but one, so that each interval counts one reading, without the warm-up of the first
and the checkpoint at the end. `share` is of all that time; `adds` is of the time without any
instrument, which is what a run's length grows by.

Exactness is the standard error an instrument records beside a value, as a share of the value: its
median over the rows, and the share of rows in which it is at most a tenth.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cutaway.base.display import quiet
from cutaway.runs.folder import Run
from cutaway.studies.presets import find_preset
from cutaway.studies.registry import config_of, study_of
from cutaway.studies.settings import resolve
from cutaway.training.loop import fit

STEPS = {
    "transformer": 400,
    "baseline": 1500,
    "validate": 3000,
    "validate-transformer": 1500,
    "grok-in-seconds": 300,
}
CURVATURE = "weight_curvature"
EXACT = 0.1


def trained(name: str, steps: int) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Each instrument's interval, and the history's columns, of the first steps of a preset."""
    preset = find_preset(name)
    config = resolve(config_of(preset.study), preset.values | {"device": "cpu"})
    prepared = study_of(preset.study).prepare(config)
    loop = replace(config.loop(), steps=steps)  # the rest, the checkpoints too, as the preset says
    with (
        tempfile.TemporaryDirectory() as folder,
        Run.create(Path(folder) / "run", study=preset.study, config={}) as run,
    ):
        fit(prepared.task, loop, [run], prepared.instruments)
        history = run.read()
    columns = {
        column: history[column].to_numpy(zero_copy_only=False).astype(float)
        for column in history.column_names
    }
    return {one.name: one.every for one in prepared.instruments}, columns


def costs(every: Mapping[str, int], columns: Mapping[str, np.ndarray]) -> None:
    """Print what each instrument cost, then the curvature and all others together."""
    window = slice(1, -1)
    seconds, steps = columns["seconds"], columns["step"]
    if len(seconds) < 3:
        raise SystemExit("fewer than three recorded rows: give more --steps")
    whole = 1e3 * (seconds[-2] - seconds[0])
    spent = {name: np.nansum(columns[f"cost_ms.{name}"][window]) for name in every}
    bare = whole - sum(spent.values())
    print(f"{bare / (steps[-2] - steps[0]):.2f} ms/step without instruments")
    print(f"{'':24}{'every':>7}{'readings':>10}{'ms each':>9}{'share':>8}{'adds':>8}")
    for name, total in spent.items():
        readings = int(np.isfinite(columns[f"cost_ms.{name}"][window]).sum())
        each = total / max(readings, 1)
        print(
            f"{name:24}{every[name]:7}{readings:10}{each:9.2f}{total / whole:8.1%}{total / bare:8.1%}"
        )
    others = sum(total for name, total in spent.items() if name != CURVATURE)
    print(f"{'all but the curvature':43}{'':7}{others / whole:8.1%}{others / bare:8.1%}")


def errors(columns: Mapping[str, np.ndarray]) -> None:
    """Print the relative standard error of every value that is recorded with one."""
    print(f"{'':24}{'rows':>7}{'median se/|value|':>19}{f'rows within {EXACT:.0%}':>18}")
    for column, error in columns.items():
        name = column.removesuffix("_se")
        if name == column:
            continue
        read = np.isfinite(error) & (columns[name] != 0)
        relative = error[read] / np.abs(columns[name][read])
        if len(relative):
            within = float((relative <= EXACT).mean())
            print(f"{name:24}{len(relative):7}{np.median(relative):19.1%}{within:18.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=STEPS)
    parser.add_argument("--steps", type=int, help="instead of the preset's share of STEPS")
    parser.add_argument("--quick", action="store_true", help="few steps: does it run")
    given = parser.parse_args()
    quiet.set(True)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in [given.preset] if given.preset else STEPS:
        steps = given.steps or STEPS[name]
        if given.quick:
            steps = 30 if name == "grok-in-seconds" else 200  # a reading inside the window
        every, columns = trained(name, steps)
        print(f"\n{name}, {steps} steps")
        costs(every, columns)
        errors(columns)


if __name__ == "__main__":
    main()
