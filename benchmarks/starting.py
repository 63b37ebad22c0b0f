"""How long starting takes: `import cutaway`, `cutaway --help`, a command's help.

    python benchmarks/starting.py [--rounds 10]

Each in a process of its own; the bare interpreter's start is printed beside them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

WHAT = {
    "python (bare)": ["-c", "pass"],
    "import cutaway": ["-c", "import cutaway"],
    "cutaway --help": ["-m", "cutaway", "--help"],
    "cutaway train --help": ["-m", "cutaway", "train", "--help"],
    "cutaway presets": ["-m", "cutaway", "presets"],
    "import torch (for scale)": ["-c", "import torch"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in WHAT}
    for _ in range(rounds):
        for name, arguments in WHAT.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            times[name].append(time.perf_counter() - began)
    for name, each in times.items():
        print(f"{name:26} median {statistics.median(each):.3f} s, slowest {max(each):.3f} s")


if __name__ == "__main__":
    main()
