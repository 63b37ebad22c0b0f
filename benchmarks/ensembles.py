"""Sixteen runs trained as one stacked program, beside the same sixteen one after the other.

    python benchmarks/ensembles.py [--case "MLP 32, p 17"] [--rounds 3] [--quick]

Ours is `train_together`; the peers are sixteen calls of `train` in a row in one process, with all
threads, and two processes side by side of one thread and eight runs each, which is what one does
by hand with two cores. All train the same seeds with the same settings, instruments off, an
evaluation every tenth of the steps and checkpoints at both ends, each run in a folder of its own.

`whole` is the time around those calls: preparing, folders and checkpoints too, but not starting
Python (of two processes the slower one counts). `steps` leaves out what happens once a run: it is
the time between the first recorded row and the last but one, summed over runs, carried on to all
steps; in a run of thousands of steps that is nearly everything. Every measurement is a process of
its own, after a training of two steps to warm up; the sides take turns, figures are medians over
rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cutaway.base.display import quiet
from cutaway.grokking.config import GrokkingConfig
from cutaway.studies.together import train_together
from cutaway.studies.train import train

MEMBERS = 16
SIDES = ("in a row", "two processes", "stacked")
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "MLP 32, p 17": ({"p": 17, "hidden_dim": 32, "model_type": "baseline"}, 1000),
    "MLP 128, p 17": ({"p": 17, "hidden_dim": 128, "model_type": "baseline"}, 1000),
    "MLP 256, p 113": ({"p": 113, "hidden_dim": 256, "model_type": "baseline"}, 20),
    "transformer 128, p 17": ({"p": 17, "model_type": "transformer"}, 100),
}


def configs(case: str, steps: int, seeds: Sequence[int]) -> list[GrokkingConfig]:
    """The runs of a case: one seed each for weights and split."""
    return [
        GrokkingConfig(
            **CASES[case][0],
            train_frac=0.5,
            epochs=steps,
            log_every=max(1, steps // 10),
            checkpoint_every=steps,
            compute_weight_curvature=False,
            compute_optimizer_metrics=False,
            compute_sensitivity=False,
            device="cpu",
            seed=seed,
            data_seed=seed,
        )
        for seed in seeds
    ]


def trained(settings: Sequence[GrokkingConfig], stacked: bool) -> tuple[list[list[float]], float]:
    """Each run's column `seconds`, and the seconds all took together."""
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / str(config.seed) for config in settings]
        began = time.perf_counter()
        if stacked:
            runs = train_together("grokking", settings, outs)
        else:
            runs = [train("grokking", config, out) for config, out in zip(settings, outs)]
        took = time.perf_counter() - began
        return [run.read()["seconds"].to_pylist() for run in runs], took


def one(case: str, steps: int, stacked: bool, seeds: Sequence[int]) -> dict[str, float]:
    """Measure in this process: seconds of the whole, and of the steps alone."""
    quiet.set(True)
    trained(configs(case, 2, seeds[:2]), stacked)
    seconds, whole = trained(configs(case, steps, seeds), stacked)
    every = configs(case, steps, seeds)[0].log_every
    between = (steps // every - 1) * every  # the last row comes after the last checkpoint
    spans = [(each[-2] - each[0]) * steps / between for each in seconds]
    return {"whole": whole, "steps": spans[0] if stacked else sum(spans)}


def measured(case: str, side: str, steps: int) -> dict[str, float]:
    """Measure one side in a process of its own, or in two that run side by side."""
    halves = side == "two processes"
    shares = [f"0:{MEMBERS // 2}", f"{MEMBERS // 2}:{MEMBERS}"] if halves else [f"0:{MEMBERS}"]
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if halves else {})
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--case", case, "--one", side, share, str(steps)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for share in shares
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{case}, {side}: a process failed")
    found = [json.loads(output.strip().splitlines()[-1]) for output in outputs]
    return {key: max(each[key] for each in found) for key in found[0]}


def table(case: str, rounds: int, steps: int) -> None:
    """Print one case: every side once a round."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            found[side].append(measured(case, side, steps))
    print(f"\n{case}: {MEMBERS} runs of {steps} steps, {rounds} rounds")
    print(f"{'':16}{'whole s':>9}{'ratio':>7}{'steps s':>9}{'ratio':>7}{'ms/step of 16':>15}")
    medians = {
        side: {key: float(np.median([one[key] for one in each])) for key in each[0]}
        for side, each in found.items()
    }
    base = medians[SIDES[0]]
    for side, own in medians.items():
        print(
            f"{side:16}{own['whole']:9.2f}{base['whole'] / own['whole']:7.2f}{own['steps']:9.2f}"
            f"{base['steps'] / own['steps']:7.2f}{1e3 * own['steps'] / steps:15.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few steps: does it run")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        side, share, steps = given.one
        first, end = map(int, share.split(":"))
        print(json.dumps(one(given.case, int(steps), side == "stacked", range(first, end))))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for case in [given.case] if given.case else CASES:
        steps = max(6, CASES[case][1] // 50) if given.quick else CASES[case][1]
        table(case, 1 if given.quick else given.rounds, steps)


if __name__ == "__main__":
    main()
