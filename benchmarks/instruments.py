"""What instruments at their default intervals cost a training run, with and without, interleaved.

    python benchmarks/instruments.py [--preset docstrings-tiny] [--rounds 4] [--steps 200]

The same steps are trained with the study's instruments and with none; evaluations, which are no
instruments, are left to the last step alone in both. The cost is the difference of the fastest
rounds, and beside it what the instruments' own clocks say.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from cutaway.runs.folder import Run
from cutaway.studies.presets import find_preset
from cutaway.studies.registry import config_of, study_of
from cutaway.studies.settings import resolve
from cutaway.training.loop import fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="docstrings-tiny")
    parser.add_argument("--data")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    preset = find_preset(given.preset)
    values = preset.values | ({"data": given.data} if given.data else {})
    config = resolve(config_of(preset.study), values)
    prepared = study_of(preset.study).prepare(config)
    loop = replace(
        config.loop(), steps=given.steps, eval_every=10 * given.steps, precision="float32"
    )
    seconds: dict[bool, list[float]] = {True: [], False: []}
    clocked = []
    for _ in range(given.rounds):
        for on in (True, False):
            with (
                tempfile.TemporaryDirectory() as folder,
                Run.create(Path(folder) / "run", study="language", config={}) as run,
            ):
                began = time.perf_counter()
                outcome = fit(prepared.task, loop, [run], prepared.instruments if on else ())[0]
                seconds[on].append(time.perf_counter() - began)
            if on:
                spent = (
                    v for k, v in outcome.metrics.items() if k.startswith("instrument_seconds")
                )
                clocked.append(sum(spent) / seconds[on][-1])
    names = ", ".join(f"{i.name} every {i.every}" for i in prepared.instruments)
    print(f"{given.preset}: {names}; {given.rounds} rounds of {given.steps} steps")
    print(f"with {min(seconds[True]):.2f} s, without {min(seconds[False]):.2f} s (fastest rounds)")
    print(f"cost {min(seconds[True]) / min(seconds[False]) - 1:.1%} of training time")
    print(f"by the instruments' own clocks {min(clocked):.1%} to {max(clocked):.1%}")


if __name__ == "__main__":
    main()
