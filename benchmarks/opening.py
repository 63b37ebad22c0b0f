"""Opening a GGUF file that was converted before, beside opening the same weights as safetensors.

    python benchmarks/opening.py [--model FILE.gguf] [--rounds 5]

Without --model a random Llama of 135M values' shape is written as Q8_0. In turns, each in a process
of its own, timed around `open_model` alone: (1) a folder in Hugging Face's layout, the conversion
itself copied; (2) the GGUF file, from the cache. The first opening, which converts, is told too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SHAPE = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
         "num_key_value_heads": 3, "head_dim": 64, "intermediate_size": 1536,
         "max_position_embeddings": 2048, "tie_word_embeddings": True}  # fmt: skip
TIMED = """
import sys, time
import torch, transformers
from cutaway.nets import open_model
began = time.perf_counter()
open_model(sys.argv[1], device="cpu", dtype="float32")
print(time.perf_counter() - began)
"""


def make(path: Path) -> None:
    """A random model as Q8_0, with a byte-level tokenizer."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from nets import gguf_files

    words = [f"w{number}" for number in range(49152 - len(gguf_files.alphabet()))]
    alphabet = [*words, *gguf_files.alphabet()]
    gguf_files.alphabet = lambda: alphabet
    gguf_files.write(path, "Q8_0", model=gguf_files.llama(**SHAPE))


def opened(path: Path) -> float:
    ended = subprocess.run(
        [sys.executable, "-c", TIMED, path], capture_output=True, text=True, check=True
    )
    return float(ended.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["CUTAWAY_CACHE"] = place
        path = given.model
        if path is None:
            path = Path(place) / "random.gguf"
            make(path)
        print(f"first opening, which converts   {opened(path):7.2f} s")
        from cutaway.nets.gguf import converted

        folder = Path(place) / "layout"
        shutil.copytree(converted(path).folder, folder)
        times: dict[str, list[float]] = {"safetensors folder": [], "GGUF, converted before": []}
        for round in range(given.rounds):
            turns = list(zip(times, (folder, path), strict=True))
            for name, what in turns[:: -1 if round % 2 else 1]:
                times[name].append(opened(what))
        for name, each in times.items():
            print(f"{name:28}median {statistics.median(each):7.2f} s, slowest {max(each):.2f} s")
        dense, short = times.values()
        ratios = [two / one for one, two in zip(dense, short, strict=True)]
        print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
